"""A published model as a run: a folder like a trained run's, finished, that is evaluated and generated from alike."""

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
"""Context that an imported model is evaluated at unless it has fewer positions or an override says otherwise."""
MAY_SET = ("data", "train.context", "validation.tokens")


def import_model(
    source: Path, name: str, root: Path, overrides: Sequence[str] = (), *, without_dropout: bool = False
) -> tuple[RunFolder, bool]:
    """Make `<root>/imported/<name>/seed-0` of a Hugging Face folder, and say whether it was made now.

    The run's data are what it is evaluated on by default; it was trained on something else.

    Args:
        overrides: of the data, of `train.context`, and of `validation.tokens`.
    Raises:
        RequestError: the folder can't be honoured, has no tokenizer and none is named, an override is wrong, or
            another model has that name. Nothing has been made.
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
    kept = tokenizer if select(config, "data.tokenizer.name") == "file" else None
    if kept is not None:
        put(config, "data.tokenizer.path", str((path / TOKENIZER).absolute()))
    digest = None if kept is None else file_digest(kept)
    record = _record(experiment, name, overrides, source, weights_digest(state), digest)
    place = RunFolder(path)
    if place.exists and place.identity != record.identity:
        raise RequestError(f"{path} holds another model, or was imported with other overrides; choose another --name")
    fill = functools.partial(_fill, state=state, tokenizer=kept, experiment=experiment)
    return RunFolder.make(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True), record, fill)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of weights: names, dtypes, shapes and bytes, in the order of the names."""
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
    # Whatever the overrides, the components are checked against each other: the vocabulary, the context.
    return recompose(plain, overrides, may_set=MAY_SET, what="lab import")


def _record(
    experiment: Experiment, name: str, overrides: Sequence[str], source: Path, weights: str, tokenizer: str | None
) -> RunRecord:
    """run.json. The identity has the weights' digest in it, and the tokenizer's in place of where its file lies."""
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
    for name, content in extensions.files(components_of(experiment)).items():
        (folder / name).write_bytes(content)
    if tokenizer is not None:
        (folder / TOKENIZER).mkdir()
        for beside in TOKENIZER_FILES:
            if (tokenizer.parent / beside).is_file():
                shutil.copyfile(tokenizer.parent / beside, folder / TOKENIZER / beside)
    weights = {f"model.{name}": tensor for name, tensor in state.items()}
    verified.write({"state_dict": weights}, verified.checkpoint_path(folder, 0))
    RunFolder(folder).state = State(status="finished", reason="imported")
