"""Compares the lab's decoder with the transformers library's implementation of the same published architecture.

`python -m tests.interop.parity` measures all of them and writes docs/parity.md.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from components.architecture import Architecture
from components.decoder import Decoder
from lab.composition.compose import compose
from lab.interop.configuration import to_hf_config
from lab.interop.family import family_of
from lab.interop.folder import export_folder, import_folder
from lab.interop.tensors import from_published
from tests.interop.reference import EAGER, build, run
from tests.interop.tiny import CASES, CONTEXT, VOCAB, Case

ROOT = Path(__file__).parent.parent.parent
TABLE = ROOT / "docs" / "parity.md"
BOUNDS = {torch.float32: 2e-5, torch.float64: 1e-10}
"""Largest relative error of the logits and of any parameter's gradient.

In fp32 it is what rounding leaves between two implementations: over twelve draws of weights the library's own gradients
are up to 1.9e-5 (Mixtral) and 2.6e-5 (gpt-oss) from those in fp64.
"""


@dataclass(frozen=True)
class Errors:
    """Relative errors in one precision: of the logits, and the largest over the parameters' gradients."""

    logits: float
    gradients: float
    worst: str


@dataclass(frozen=True)
class Measured:
    """One architecture, measured: errors by precision, and whether the exported checkpoint holds the same weights."""

    parameters: int
    errors: dict[torch.dtype, Errors]
    exported: bool


def batch() -> tuple[Tensor, Tensor]:
    """tokens [3, CONTEXT], and weights [3, CONTEXT, VOCAB] that make a loss of the logits."""
    tokens = torch.randint(0, VOCAB, (3, CONTEXT), generator=torch.Generator().manual_seed(1))
    return tokens, torch.randn(3, CONTEXT, VOCAB, generator=torch.Generator().manual_seed(2))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


@dataclass(frozen=True)
class Pair:
    """The library's model and what has been imported from its checkpoint."""

    theirs: PreTrainedModel
    architecture: Architecture
    state: dict[str, Tensor]


def imported(case: Case, folder: Path) -> Pair:
    """A tiny model in fp32, saved by the library and imported by the lab."""
    theirs = build(case.model_type, case.options, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(folder)
    architecture, state, _ = import_folder(folder)
    return Pair(theirs, architecture, state)


def decoder(architecture: Architecture, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Decoder:
    """The lab's decoder with given weights."""
    model = Decoder(architecture).to(dtype)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, strict=True)
    return model


def errors(case: Case, pair: Pair, dtype: torch.dtype) -> Errors:
    """The errors between the two implementations in one precision."""
    tokens, weights = batch()
    theirs, their_gradients = run(build(case.model_type, case.options, dtype), tokens, weights, dtype)
    ours = decoder(pair.architecture, pair.state, dtype)
    logits = ours(tokens)
    assert logits.dtype == dtype
    (logits * weights.to(dtype)).sum().backward()
    family = family_of(pair.theirs.config.to_dict())
    expected = from_published(family, pair.architecture, their_gradients)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert gradients.keys() == expected.keys() & dict(ours.named_parameters()).keys()
    of_gradients = gradient_errors(gradients, expected)
    worst = max(of_gradients, key=lambda name: of_gradients[name])
    return Errors(relative_error(logits.detach(), theirs), of_gradients[worst], worst)


def gradient_errors(gradients: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference in each parameter's gradient, over the largest value in the gradients of its module."""
    errors_by_name = {}
    for name, gradient in gradients.items():
        # By the largest of the module: without positions the gradient in a key's bias is zero, and what is left noise.
        module = name.rpartition(".")[0]
        largest = max(float(expected[other].abs().max()) for other in expected if other.rpartition(".")[0] == module)
        errors_by_name[name] = float((gradient - expected[name]).abs().max()) / largest
    return errors_by_name


def rounding(case: Case, folder: Path, seed: int) -> tuple[float, float]:
    """How far gradients in fp32 are from the lab's in fp64, for weights drawn from a seed: the lab's, the library's."""
    theirs = build(case.model_type, case.options, torch.float32, seed)
    theirs.save_pretrained(folder)
    architecture, state, _ = import_folder(folder)
    tokens, weights = batch()
    _, their_gradients = run(theirs, tokens, weights, torch.float32)
    library = from_published(family_of(theirs.config.to_dict()), architecture, their_gradients)

    def gradients(dtype: torch.dtype) -> dict[str, Tensor]:
        model = decoder(architecture, state, dtype)
        (model(tokens) * weights.to(dtype)).sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    exact, ours = gradients(torch.float64), gradients(torch.float32)
    library = {name: library[name] for name in ours}
    return max(gradient_errors(ours, exact).values()), max(gradient_errors(library, exact).values())


def exported_alike(pair: Pair, folder: Path) -> bool:
    """Whether the checkpoint that the lab writes is, loaded by the library, the model that it came from, to the bit."""
    export_folder(pair.architecture, pair.state, folder, model_type=pair.theirs.config.model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = AutoModelForCausalLM.from_pretrained(folder, **EAGER).eval()
    tokens, _ = batch()
    states = pair.theirs.state_dict(), again.state_dict()
    if states[0].keys() != states[1].keys() or any(not torch.equal(states[0][k], states[1][k]) for k in states[0]):
        return False
    with torch.no_grad():
        logits = [model(input_ids=tokens, use_cache=False).logits for model in (pair.theirs, again)]
    return torch.equal(*logits)


@cache
def published(name: str) -> Architecture:
    """The architecture of a file in experiments/model."""
    return compose("gemma2_tiny", [f"model={name}"]).experiment.model


def parameters(architecture: Architecture) -> int:
    """The number of parameters of an architecture."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(architecture).parameters())


def their_parameters(architecture: Architecture) -> int:
    """The number of parameters of the library's model, from the configuration that the lab writes for it."""
    options = {key: value for key, value in to_hf_config(architecture).items() if key != "architectures"}
    config = AutoConfig.for_model(**options)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())


def measure(case: Case) -> Measured:
    """The measurements of one architecture in the table."""
    with tempfile.TemporaryDirectory() as folder:
        pair = imported(case, Path(folder) / "theirs")
        errors_by_dtype = {dtype: errors(case, pair, dtype) for dtype in BOUNDS}
        is_same = exported_alike(pair, Path(folder) / "ours")
    return Measured(parameters(published(case.published)), errors_by_dtype, is_same)


def table(measured: dict[str, Measured]) -> str:
    """The text of docs/parity.md."""
    lines = [
        "# Parity with the transformers library",
        "",
        "`make parity` writes this page. Each architecture is tiny and has random weights, with options that change",
        "the result: a window of about half the context, soft-caps that the scores reach, unequal sizes. The",
        "transformers library saves the model, the lab imports it, and both run it in eager mode. An error is the",
        "largest difference divided by the largest value; for gradients it is the error of the worst parameter. For",
        "fp64 the library is patched to compute in fp64 throughout, because its norms, softmaxes and rotary tables",
        "use fp32 otherwise. *Export* says whether `AutoModelForCausalLM` loads the lab's checkpoint as the same",
        "model, bit for bit. *Parameters* are counted for the file in `experiments/model`, at the published size;",
        "the library counts the same number.",
        "",
        f"Bounds: {BOUNDS[torch.float32]:.0e} in fp32, {BOUNDS[torch.float64]:.0e} in fp64.",
        "",
        "| architecture | model | parameters | logits fp32 | gradients fp32 | logits fp64 | gradients fp64 | export |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, one in measured.items():
        columns = [
            f"{value:.1e}" for dtype in BOUNDS for value in (one.errors[dtype].logits, one.errors[dtype].gradients)
        ]
        cells = [
            name,
            f"`{CASES[name].published}`",
            f"{one.parameters:,}",
            *columns,
            "the same" if one.exported else "DIFFERS",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure all architectures, print and write the table. Returns exit code 1 if an error exceeds its bound."""
    torch.set_num_threads(1)
    measured = {name: measure(case) for name, case in CASES.items()}
    text = table(measured)
    print(text)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    missed = [
        f"{name}, {dtype}: {one.errors[dtype]}"
        for name, one in measured.items()
        for dtype, bound in BOUNDS.items()
        if max(one.errors[dtype].logits, one.errors[dtype].gradients) > bound
    ]
    missed += [f"{name}: the export differs" for name, one in measured.items() if not one.exported]
    print("\n".join(missed) or "All bounds hold.")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
