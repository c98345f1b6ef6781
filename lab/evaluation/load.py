"""Load a run's model from its folder: the frozen configuration, verified weights, and the run's tokenizer."""

from __future__ import annotations

from components.decoder import Decoder
from lab.composition import extensions
from lab.composition.frozen.freeze import load_experiment
from lab.composition.frozen.reload import kernel_for_device, relocated
from lab.data.shards import prepare
from lab.data.tokenizers.encoder import Encoder
from lab.data.tokenizers.options import Byte, Ids
from lab.evaluation.base import LoadedRun, refuse_changed_text
from lab.records import TOKENIZER, RunFolder
from lab.refusals import RequestError, one_line
from lab.training import environment
from lab.training.checkpoints import verified
from lab.training.experiment import Experiment
from lab.training.options import Accelerator


def load_model(run: RunFolder, accelerator: Accelerator = "auto") -> LoadedRun:
    """Load a run's newest complete checkpoint into its model.

    Raises:
        RequestError: the run has no complete checkpoint, its components or tokenizer are missing, or its weights don't
            fit its configuration.
    """
    with extensions.of_run(run.path, run.record):
        experiment = load_experiment(relocated(run.config, run.path / TOKENIZER))
        checkpoint = verified.newest(run.path)
        if checkpoint is None:
            raise RequestError(f"{run.name} has no whole checkpoint: it is {run.state.status}, and needs to be trained")
        try:
            device = environment.device_of(accelerator)
        except ValueError as error:
            raise RequestError(str(error)) from None
        model = Decoder(experiment.model, kernel_for_device(experiment, device.type))
        try:
            model.load_state_dict(verified.weights_at(checkpoint))
        except RuntimeError as error:
            lines = one_line(error)
            raise RequestError(f"{checkpoint}: its weights are not those of config.yaml's model: {lines}") from None
        model.eval().requires_grad_(False).to(device)
        step = verified.step_of(checkpoint)
        return LoadedRun(run, experiment, model, _encoder(run, experiment), checkpoint, step, device)


def _encoder(run: RunFolder, experiment: Experiment) -> Encoder:
    tokenizer = experiment.data.tokenizer
    folder = run.path / TOKENIZER
    if isinstance(tokenizer, Byte | Ids) or folder.is_dir():
        return tokenizer.load(folder)
    text = prepare(experiment.data)
    refuse_changed_text(run, text.digest)
    return text.encoder
