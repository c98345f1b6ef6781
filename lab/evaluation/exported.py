"""What an export says besides the architecture and the weights: special tokens, context, and where generation ends."""

from __future__ import annotations

from lab.data.tokenizers.options import TextTokenizer
from lab.evaluation.base import LoadedRun
from lab.interop.special_tokens import AddedTokens, PublishedSettings


def published_settings(loaded: LoadedRun) -> PublishedSettings:
    """The settings of an export: those of the checkpoint that was imported, or those of a run that was trained here."""
    imported = loaded.run.record.imported
    if imported is not None and imported.config:
        generation = None if imported.generation is None else dict(imported.generation)
        return PublishedSettings(dict(imported.config), generation)
    end_ids = sorted(loaded.encoder.stop_ids)
    ids = {"bos_token_id": loaded.encoder.bos, "eos_token_id": end_ids[0] if len(end_ids) == 1 else end_ids or None}
    known = {key: value for key, value in ids.items() if value is not None and value != -1}
    return PublishedSettings({**known, "max_position_embeddings": loaded.experiment.train.context})


def added_tokens(loaded: LoadedRun) -> AddedTokens | None:
    """The special tokens that the exported tokenizer adds to a text; None if the run reads no text."""
    tokenizer, encoder = loaded.experiment.data.tokenizer, loaded.encoder
    if not isinstance(tokenizer, TextTokenizer):
        return None
    separator = encoder.decode([encoder.separator])
    return AddedTokens(tokenizer.bos, separator if encoder.separator_after_prompts else None, separator)
