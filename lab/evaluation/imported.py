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
from lab.interop.folder import TOKENIZER_FILES, import_folder
from lab.records import TOKENIZER, Imported, RunFolder, RunRecord, State, SweepLabels, check_name
from lab.refusals import RequestError
from lab.training.checkpoints import verified
from lab.training.experiment import Experiment

SWEEP = "imported"
CONTEXT = 1024
"""Default context of an imported model in tokens, unless it has fewer positions."""
MAY_SET = ("data", "train.context", "validation.tokens")


def import_model(
    source: Path, name: str, root: Path, overrides: Sequence[str] = (), *, without_dropout: bool = False
) -> tuple[RunFolder, bool]:
    """Create the run `<root>/imported/<name>/seed-0` from a Hugging Face folder.

    The run's data are its default evaluation data, not the data that the model was trained on.

    Args:
        overrides: overrides of `data`, `train.context` and `validation.tokens`.

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
    architecture, state, tokenizer = import_folder(source, without_dropout=without_dropout)
    experiment = _experiment(architecture, name, source, tokenizer, overrides)
    path = root / SWEEP / name / "seed-0"
    config = to_plain(experiment)
    tokenizer_file = tokenizer if select(config, "data.tokenizer.name") == "file" else None
    if tokenizer_file is not None:
        put(config, "data.tokenizer.path", str((path / TOKENIZER).absolute()))
    digest = None if tokenizer_file is None else file_digest(tokenizer_file)
    record = _record(experiment, name, overrides, source, weights_digest(state), digest)
    run = RunFolder(path)
    if run.exists and run.identity != record.identity:
        raise RequestError(f"{path} holds another model, or was imported with other overrides; choose another --name")
    fill = functools.partial(_fill, state=state, tokenizer=tokenizer_file, experiment=experiment)
    return RunFolder.make(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True), record, fill)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the weights, hex: names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _experiment(
    architecture: Architecture, name: str, source: Path, tokenizer: Path | None, overrides: Sequence[str]
) -> Experiment:
    own = {"name": "byte"} if tokenizer is None else {"name": "file", "path": str(tokenizer.absolute())}
    if tokenizer is None and not any(path.startswith("data.tokenizer") for path, _ in paths_of(overrides)):
        raise RequestError(
            f"{source}: has no tokenizer.json; say what its token ids mean, such as data/tokenizer=byte for a model "
            "that was exported from bytes"
        )
    context = min(CONTEXT, architecture.max_context or CONTEXT)
    plain = {
        "name": name,
        "seed": 0,
        "model": to_plain(architecture),
        "data": {"corpus": {"name": "stdlib"}, "tokenizer": own},
        "train": {"tokens": context, "context": context, "global_batch": 1},
        "validation": {},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup_tokens": 0},
    }
    # Even without overrides, this checks the components against each other, such as vocabulary and context.
    return recompose(plain, overrides, may_set=MAY_SET, what="lab import")


def _record(
    experiment: Experiment, name: str, overrides: Sequence[str], source: Path, weights: str, tokenizer: str | None
) -> RunRecord:
    """The content of run.json. The identity includes the digests of weights and tokenizer, but not the file's path."""
    meaning = to_plain(experiment, results_only=True)
    if tokenizer is not None:
        put(meaning, "data.tokenizer.path", tokenizer)
    versions = component_versions(experiment)
    canonical = json.dumps({"config": meaning, "components": versions, "weights": weights}, sort_keys=True)
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
        imported=Imported(weights, str(source.absolute())),
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
