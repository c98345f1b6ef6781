"""Teachers: finished runs that other runs learn from."""

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
        identity: the run's identity, 64 hexadecimal digits.
        run: the run's folder below the root.
        model: tokens [B, T] (and document ids) to logits [B, T, V]; in evaluation mode, fp32, without gradients.
        tokenizer: `digest_of` its tokenizer.
        data_digest: digest of its training text; None if unknown.
        val_loss: its validation loss in nats per token; None if never measured.
        measured_on: digest of the text of that loss, if it isn't the training text.
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
        """Number of logits at each position."""
        architecture: Any = self.model.architecture
        return int(architecture.vocab_size)

    def facts(self) -> dict[str, object]:
        """The entry about the teacher in a student's summary."""
        return {
            "identity": self.identity,
            "run": self.run,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "val/loss": self.val_loss,
            "data": self.data_digest,
            **({} if self.measured_on is None else {"val/data": self.measured_on}),
        }


def load(run: RunFolder, experiment: RunConfiguration, *, kernel: str) -> Teacher:
    """Load a finished run as a teacher.

    Args:
        experiment: the configuration in its config.yaml.
        kernel: the attention kernel.

    Raises:
        RequestError: its last checkpoint is missing or damaged, or doesn't fit the configuration.
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
    """Why one run can't teach another, from their configurations; None if it can.

    Args:
        tokenizer: the folder of the teacher's tokenizer; None if that run doesn't exist yet.
    """
    if not _same_tokens(teacher.data, student.data, tokenizer):
        begins = teacher.data.tokenizer.bos, student.data.tokenizer.bos
        if begins[0] != begins[1]:
            described = [f"begins every text with {'no token' if bos is None else repr(bos)}" for bos in begins]
            fix = f"data.tokenizer.bos={'null' if begins[0] is None else repr(begins[0])}"
            return f"a student reads what its teacher reads: the teacher {described[0]}, this one {described[1]}; {fix}"
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
    """SHA-256 of everything that decides how an encoder turns text into ids, hex. Independent of its folder."""
    special = f"{tokenizer.separator}" + ("" if tokenizer.bos is None else f" {tokenizer.bos}")
    digest = hashlib.sha256(f"{type(tokenizer).__name__} {tokenizer.vocab_size} {special}\n".encode())
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        tokenizer.save(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _same_tokens(teacher: Data, student: Data, folder: Path | None) -> bool:
    """Whether two runs have the same tokens. A tokenizer that isn't trained yet is identified by its training text."""
    if teacher.tokenizer == student.tokenizer:
        texts = (teacher.corpus, teacher.validation_fraction), (student.corpus, student.validation_fraction)
        if isinstance(teacher.tokenizer, Byte | File) or texts[0] == texts[1]:
            return True
    if isinstance(teacher.tokenizer, Byte) != isinstance(student.tokenizer, Byte):
        return False
    if not isinstance(student.tokenizer, File):
        return False
    if folder is not None and folder.is_dir():
        encoder = teacher.tokenizer.load(folder)
    elif isinstance(teacher.tokenizer, File):
        encoder = teacher.tokenizer.fit(tuple)
    else:
        return False
    return digest_of(encoder) == digest_of(student.tokenizer.fit(tuple))
