"""A finished run that another one learns from: its model, what is said of it, and whether the two go together."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.language_model import LanguageModel
from lab.data.options import Byte, File
from lab.records import TOKENIZER, RunFolder
from lab.refusals import RequestError, one_line
from lab.training.checkpoints import verified

if TYPE_CHECKING:
    from lab.data.options import Data
    from lab.data.tokenizers.encoder import Encoder
    from lab.training.options import RunConfiguration


@dataclass(frozen=True, eq=False)
class Teacher:
    """A finished run, loaded.

    Attributes:
        identity: the run's, 64 hexadecimal digits.
        run: its folder below the root.
        model: tokens [B, T] (and document ids) to logits [B, T, V]: in evaluation mode, fp32, without gradients.
        tokenizer: `digest_of` its tokenizer.
        data_digest: of the text that it was trained on; None where that isn't known.
        val_loss: its validation loss, nats per token; None where it was never measured.
        measured_on: of the text that its loss was measured on, where that is another than it was trained on.
    """

    identity: str
    run: str
    model: LanguageModel
    tokenizer: str
    data_digest: str | None = None
    val_loss: float | None = None
    measured_on: str | None = None

    @property
    def vocab_size(self) -> int:
        """Logits at every position."""
        architecture: Any = self.model.architecture
        return int(architecture.vocab_size)

    def facts(self) -> dict[str, object]:
        """What the summary of a run that learnt from it says of it."""
        return {
            "identity": self.identity,
            "run": self.run,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "val/loss": self.val_loss,
            "data": self.data_digest,
            **({} if self.measured_on is None else {"val/data": self.measured_on}),
        }


def load(run: RunFolder, experiment: RunConfiguration, *, kernel: str) -> Teacher:
    """A finished run, ready to be learnt from.

    Args:
        experiment: what its config.yaml says.
        kernel: how its attention is computed.
    Raises:
        RequestError: its last checkpoint is missing or damaged, or is not of that experiment.
    """
    from components.decoder import Decoder

    record, summary = run.record, run.summary
    last = 0 if record.imported is not None else experiment.train.steps
    checkpoint = verified.newest(run.path)
    if checkpoint is None or verified.step_of(checkpoint) != last:
        raise RequestError(f"{run.name}: its last checkpoint, after step {last:,}, is missing or damaged")
    model = Decoder(experiment.model, kernel)
    try:
        model.load_state_dict(verified.weights_at(checkpoint))
    except RuntimeError as error:
        lines = one_line(error)
        raise RequestError(f"{checkpoint}: its weights are not those of config.yaml's model: {lines}") from None
    return Teacher(
        identity=record.identity,
        run=run.name,
        model=model.float().eval().requires_grad_(False),
        tokenizer=digest_of(experiment.data.tokenizer.load(run.path / TOKENIZER)),
        data_digest=None if summary is None else summary.data_digest,
        val_loss=None if summary is None else summary.metrics.get("val/loss"),
    )


def refusal(teacher: RunConfiguration, student: RunConfiguration, tokenizer: Path | None) -> str | None:
    """Why one run's model can't teach another, from their configurations; None if it can.

    Args:
        tokenizer: folder in which the teacher's run keeps its tokenizer; None for a run that is still to be made.
    """
    if not _same_tokens(teacher.data, student.data, tokenizer):
        names = f"'{teacher.data.tokenizer.name}'", f"'{student.data.tokenizer.name}'"
        which = f"{names[0]}, this one {names[1]}" if names[0] != names[1] else f"{names[0]} with other tokens"
        return (
            f"a student needs its teacher's tokenizer: the teacher has {which}; a finished teacher's own is "
            "data/tokenizer=file data.tokenizer.path=<its folder>/tokenizer"
        )
    sizes = teacher.model.vocab_size, student.model.vocab_size
    if sizes[0] != sizes[1]:
        return f"the teacher predicts {sizes[0]:,} tokens, model.vocab_size here is {sizes[1]:,}; make them equal"
    limit = teacher.model.max_context
    if limit is not None and limit < student.train.context:
        return f"the teacher has {limit:,} positions, train.context here is {student.train.context:,}"
    return None


def digest_of(tokenizer: Encoder) -> str:
    """SHA-256 of everything by which a tokenizer turns text into ids, wherever and however it was written down."""
    digest = hashlib.sha256(f"{type(tokenizer).__name__} {tokenizer.vocab_size} {tokenizer.separator}\n".encode())
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        tokenizer.save(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _same_tokens(teacher: Data, student: Data, kept: Path | None) -> bool:
    """Whether two runs read the same tokens; a tokenizer that is still to be learnt is known by what it learns from."""
    if teacher.tokenizer == student.tokenizer:
        learnt_from = (teacher.corpus, teacher.validation_fraction), (student.corpus, student.validation_fraction)
        if isinstance(teacher.tokenizer, Byte | File) or learnt_from[0] == learnt_from[1]:
            return True
    if isinstance(teacher.tokenizer, Byte) != isinstance(student.tokenizer, Byte):
        return False
    if not isinstance(student.tokenizer, File):
        return False
    if kept is not None and kept.is_dir():
        given = teacher.tokenizer.load(kept)
    elif isinstance(teacher.tokenizer, File):
        given = teacher.tokenizer.fit(tuple)
    else:
        return False
    return digest_of(given) == digest_of(student.tokenizer.fit(tuple))
