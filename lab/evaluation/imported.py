"""Import a published model as a finished run, which can be evaluated and generate text like a trained one."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
from torch import Tensor

from components.architecture import Architecture
from lab.accounting.costs import costs
from lab.composition import extensions
from lab.composition.frozen.freeze import components_of, to_plain
from lab.composition.frozen.identity import component_versions
from lab.composition.frozen.recompose import paths_of, recompose
from lab.composition.plain import put, select
from lab.data.content import file_digest
from lab.interop.folder import OTHER_TOKENIZERS, TOKENIZER_FILES, import_folder, read_config
from lab.interop.special_tokens import PublishedSettings, TokenizerFile
from lab.records import TOKENIZER, Imported, RunFolder, RunRecord, State, SweepLabels, check_name
from lab.refusals import RequestError
from lab.training.checkpoints import verified
from lab.training.experiment import Experiment

SWEEP = "imported"
CONTEXT = 1024
"""Default context of an imported model in tokens, unless it has fewer positions."""
MAY_SET = ("data", "train.context", "validation.tokens")


def import_model(
    source: Path,
    name: str,
    root: Path,
    overrides: Sequence[str] = (),
    *,
    without_dropout: bool = False,
    ignore: Sequence[str] = (),
) -> tuple[RunFolder, bool]:
    """Create the run `<root>/imported/<name>/seed-0` from a Hugging Face folder.

    The run's data are its default evaluation data, not the data that the model was trained on.

    Args:
        overrides: overrides of `data`, `train.context` and `validation.tokens`.
        ignore: keys of config.json and names of tensors that the lab doesn't know, which are then left out.

    Returns:
        The run, and whether this call created it.

    Raises:
        RequestError: the folder can't be imported, has no tokenizer and no override names one, an override is wrong,
            or another model has that name. Nothing has been created.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise RequestError(f"--name: {error}") from None
    extensions.load()
    architecture, state, tokenizer = import_folder(source, without_dropout=without_dropout, ignore=ignore)
    settings = PublishedSettings.read(source, read_config(source))
    own = _own_tokenizer(architecture, source, tokenizer, settings, overrides)
    experiment = _experiment(architecture, name, own, settings, overrides)
    path = root / SWEEP / name / "seed-0"
    config = to_plain(experiment)
    tokenizer_file = tokenizer if select(config, "data.tokenizer.name") == "file" else None
    if tokenizer_file is not None:
        put(config, "data.tokenizer.path", str((path / TOKENIZER).absolute()))
    digest = None if tokenizer_file is None else file_digest(tokenizer_file)
    imported = Imported(
        weights=weights_digest(state),
        source=str(source.absolute()),
        ignored=tuple(dict.fromkeys(ignore)),
        config=settings.config,
        generation=settings.generation,
    )
    record = _record(experiment, name, overrides, imported, digest)
    run = RunFolder(path)
    if run.exists and run.identity != record.identity:
        raise RequestError(f"{path} holds another model, or was imported with other overrides; choose another --name")
    fill = functools.partial(_fill, state=state, tokenizer=tokenizer_file, experiment=experiment)
    return RunFolder.make(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True), record, fill)


def missing_special_tokens(run: RunFolder) -> str | None:
    """What an import by an earlier version of the lab lacks, as a note for its user; None if it lacks nothing.

    Those versions added no special tokens to a text.
    """
    tokenizer = run.path / TOKENIZER / TOKENIZER_FILES[0]
    imported = run.record.imported
    if imported is None or imported.config or not tokenizer.is_file():
        return None
    try:
        added = TokenizerFile(tokenizer).added()
    except RequestError:
        return None
    if added.bos is None or isinstance(select(run.config, "data.tokenizer.bos"), str):
        return None
    return (
        f"{run.name} was imported by a version of the lab that added no special tokens, and its tokenizer begins "
        f"each text with '{added.bos}': import it again"
    )


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the weights, hex: names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_tokenizer(
    architecture: Architecture,
    source: Path,
    tokenizer: Path | None,
    settings: PublishedSettings,
    overrides: Sequence[str],
) -> dict[str, object]:
    """The configuration of the checkpoint's tokenizer, or of the one that an override chooses."""
    chosen = [text.partition("=")[2] for path, text in paths_of(overrides) if path == "data.tokenizer" and "=" in text]
    if chosen and chosen[-1] == "ids":
        return {"name": "ids", "size": architecture.vocab_size, "stop_ids": list(settings.end_ids)}
    if chosen:
        return {"name": chosen[-1]}
    if tokenizer is None:
        raise _without_tokenizer(source)
    file = TokenizerFile(tokenizer)
    if file.n_ids > architecture.vocab_size:
        raise RequestError(
            f"has {file.n_ids:,} tokens, and the model's table {architecture.vocab_size:,} rows",
            kind="conflict",
            file=tokenizer,
            fix="take the tokenizer that belongs to the model",
        )
    added, end = file.added(), file.separator(settings)
    return {
        "name": "file",
        "path": str(tokenizer.absolute()),
        "separator": end,
        "bos": added.bos,
        "separator_after_prompts": added.eos is not None,
        "stop_ids": None if settings.end_ids == (file.id_of(end),) else list(settings.end_ids),
    }


def _without_tokenizer(source: Path) -> RequestError:
    """The refusal of a folder without tokenizer.json, with the way out."""
    others = [name for name in OTHER_TOKENIZERS if (source / name).is_file()]
    if not others:
        return RequestError(
            f"{source}: has no {TOKENIZER_FILES[0]}; say what its token ids mean, such as data/tokenizer=byte for a "
            "model that was exported from bytes, or data/tokenizer=ids for ids in place of text",
            kind="missing",
        )
    return RequestError(
        f"has its tokenizer in another form, {' and '.join(others)}; the lab reads {TOKENIZER_FILES[0]}",
        kind="unsupported",
        file=source,
        fix="write one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR); or use "
        "data/tokenizer=ids, for ids in place of text",
    )


def _experiment(
    architecture: Architecture,
    name: str,
    own: Mapping[str, object],
    settings: PublishedSettings,
    overrides: Sequence[str],
) -> Experiment:
    context = min([CONTEXT, *(limit for limit in (architecture.max_context, settings.context) if limit)])
    # A tokenizer of ids reads no text: its default data are a task.
    corpus = "induction" if own["name"] == "ids" else "stdlib"
    plain = {
        "name": name,
        "seed": 0,
        "model": to_plain(architecture),
        "data": {"corpus": {"name": corpus}, "tokenizer": dict(own)},
        "train": {"tokens": context, "context": context, "global_batch": 1},
        "validation": {},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup_tokens": 0},
    }
    # Even without overrides, this checks the components against each other, such as vocabulary and context.
    return recompose(plain, overrides, may_set=MAY_SET, what="lab import")


def _record(
    experiment: Experiment, name: str, overrides: Sequence[str], imported: Imported, tokenizer: str | None
) -> RunRecord:
    """The content of run.json. The identity includes the digests of weights and tokenizer, but not the file's path."""
    meaning = to_plain(experiment, results_only=True)
    if tokenizer is not None:
        put(meaning, "data.tokenizer.path", tokenizer)
    versions = component_versions(experiment)
    canonical = json.dumps({"config": meaning, "components": versions, "weights": imported.weights}, sort_keys=True)
    return RunRecord(
        identity=hashlib.sha256(canonical.encode()).hexdigest(),
        sweep=SWEEP,
        arm=name,
        seed=0,
        labels=SweepLabels(baseline=name, metrics=("val/loss",), match="none"),
        experiment=name,
        overrides=tuple(overrides),
        components=versions,
        costs=costs(experiment.model, experiment.train.context).as_dict(),
        extensions=extensions.origins(components_of(experiment)),
        imported=imported,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _fill(folder: Path, *, state: Mapping[str, Tensor], tokenizer: Path | None, experiment: Experiment) -> None:
    """Write the extensions, tokenizer, weights and state of the run into its new folder."""
    for name, content in extensions.files(components_of(experiment)).items():
        (folder / name).write_bytes(content)
    if tokenizer is not None:
        (folder / TOKENIZER).mkdir()
        for name in TOKENIZER_FILES:
            if (tokenizer.parent / name).is_file():
                shutil.copyfile(tokenizer.parent / name, folder / TOKENIZER / name)
    weights = {f"model.{name}": tensor for name, tensor in state.items()}
    verified.write({"state_dict": weights}, verified.checkpoint_path(folder, 0))
    RunFolder(folder).state = State(status="finished", reason="imported")
