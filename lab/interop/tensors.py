"""Conversion of weights between published names and shapes and ours, by the rules of `lab.interop.tensor_rules`.

Rules for tensors that an architecture doesn't have, such as a bias, are skipped. If two published names hold the same
tensor of ours, either one is read, and the first one is written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from components.architecture import Architecture
from components.decoder import Decoder
from lab.interop.family import Family
from lab.interop.tensor_rules import TensorRule
from lab.refusals import RequestError

_LISTED = 8
"""The most faults that a message lists."""


@dataclass(frozen=True)
class Relation:
    """A rule applied to a layer or the model: the published tensors, and our tensors that they hold.

    Attributes:
        rule: the rule.
        theirs: the published names; several for stacked experts, else one.
        ours: our names.
        groups: the key-value heads of the layer, for the form `grouped`.
    """

    rule: TensorRule
    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    groups: int = 1

    def join(self, parts: list[Tensor]) -> list[Tensor]:
        """The published tensors from ours."""
        match self.rule.form:
            case "renamed":
                joined = parts
            case "stacked":
                joined = list(parts[0].unbind(0))
            case "concatenated":
                joined = [torch.cat(parts, dim=self.rule.axis)]
            case "interleaved":
                joined = [torch.stack(parts, dim=self.rule.axis + 1).flatten(self.rule.axis, self.rule.axis + 1)]
            case _:
                joined = [torch.cat([_cut(part, 0, self.groups) for part in parts], dim=1).flatten(0, 1)]
        return [tensor.mT.contiguous() if self.rule.transposed else tensor.contiguous() for tensor in joined]

    def split(self, published: list[Tensor], shapes: list[torch.Size]) -> list[Tensor]:
        """Our tensors, of the given shapes, from the published ones. The inverse of `join`."""
        tensors = [tensor.mT for tensor in published] if self.rule.transposed else published
        match self.rule.form:
            case "renamed":
                parts = tensors
            case "stacked":
                parts = [torch.stack(tensors)]
            case "concatenated":
                parts = list(torch.split(tensors[0], [shape[self.rule.axis] for shape in shapes], dim=self.rule.axis))
            case "interleaved":
                rows = shapes[0][self.rule.axis]
                parts = list(_cut(tensors[0], self.rule.axis, rows).unbind(self.rule.axis + 1))
            case _:
                sizes = [shape[0] // self.groups for shape in shapes]
                parts = [part.flatten(0, 1) for part in torch.split(_cut(tensors[0], 0, self.groups), sizes, dim=1)]
        if len(parts) == 1:
            return [parts[0].contiguous()]
        # Copies, because parts of one storage can't be saved and would keep the whole storage in memory.
        return [part.clone(memory_format=torch.contiguous_format) for part in parts]


def _cut(tensor: Tensor, axis: int, pieces: int) -> Tensor:
    """Split one dimension into two, the first of which has the size `pieces`."""
    shape = tensor.shape
    return tensor.reshape(*shape[:axis], pieces, shape[axis] // pieces, *shape[axis + 1 :])


def relations(family: Family, architecture: Architecture) -> Iterator[Relation]:
    """Every relation that applies to an architecture of the family. Names that are written come before alternatives."""
    own_shapes = shapes(architecture)
    for rule in family.tensors.whole:
        yield from _applied(rule, rule.theirs, "", own_shapes, {}, groups=1)
    for index, layer in enumerate(architecture.layers):
        components = {"mixer": layer.mixer.name, "residual": layer.residual.name, "mlp": layer.mlp.name}
        groups = 1 if layer.attention is None else layer.attention.heads.kv_heads
        for rule in family.tensors.layer:
            theirs = rule.theirs.replace("{layer}", str(index))
            yield from _applied(rule, theirs, f"layers.{index}.", own_shapes, components, groups)


def shapes(architecture: Architecture) -> dict[str, torch.Size]:
    """Name → shape of an architecture's parameters. No memory is allocated."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in Decoder(architecture).named_parameters()}


def from_published(
    family: Family, architecture: Architecture, published: Mapping[str, Tensor], *, ignore: Collection[str] = ()
) -> dict[str, Tensor]:
    """Convert the weights of a published checkpoint to our names and shapes.

    Args:
        ignore: names of published tensors that the architecture doesn't have, which are then left out.
    Raises:
        RequestError: with the tensors that are missing, unexpected, or of a wrong shape.
    """
    _refuse_wrapped_names(family, published)
    expected = shapes(architecture)
    remaining = _with_prefix(family, {name: tensor for name, tensor in published.items() if name not in ignore})
    if architecture.embedding.tied:
        _restore_tied(family, remaining)
    state: dict[str, Tensor] = {}
    faults: list[str] = []
    missing: dict[str, str] = {}
    integers: dict[str, Tensor] = {}
    for relation in relations(family, architecture):
        absent = [name for name in relation.theirs if name not in remaining]
        if absent:
            for name in relation.ours:
                if name not in state:
                    missing.setdefault(name, absent[0])
            continue
        tensors = [remaining.pop(name) for name in relation.theirs]
        shapes_needed = relation.join([torch.empty(expected[name], device="meta") for name in relation.ours])
        wrong = [
            f"{name} is {list(tensor.shape)}, expected {list(right.shape)}"
            for name, tensor, right in zip(relation.theirs, tensors, shapes_needed, strict=True)
            if tensor.shape != right.shape
        ]
        integers |= {
            name: tensor
            for name, tensor in zip(relation.theirs, tensors, strict=True)
            if not tensor.is_floating_point()
        }
        faults += wrong
        parts = [] if wrong else relation.split(tensors, [expected[name] for name in relation.ours])
        for name in relation.ours:
            missing.pop(name, None)
        state |= zip(relation.ours, parts, strict=True) if parts else {}
    faults = [f"missing: {name}" for name in missing.values()] + faults
    for dtype in {tensor.dtype for tensor in integers.values()}:
        names = [name for name, tensor in integers.items() if tensor.dtype == dtype]
        which = f"{names[0]} is" if len(names) == 1 else f"{len(names)} tensors ({names[0]}, …) are"
        faults.append(f"{which} {str(dtype).removeprefix('torch.')}: quantised weights must be dequantised first")
    unexpected, copies = _unexpected(family, architecture, remaining, state)
    faults += [f"unexpected: {name}" for name in unexpected] + copies
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        is_ignorable = len(faults) == len(unexpected)
        fix = f"to import without: {' '.join(f'--ignore {name}' for name in unexpected)}" if is_ignorable else None
        raise RequestError(f"the weights do not fit config.json: {'; '.join(faults[:_LISTED])}{more}", fix=fix)
    return {name: state[name] for name in expected}


def to_published(family: Family, architecture: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert our weights to their published names and shapes.

    Raises:
        RequestError: the tensors or shapes don't fit the architecture.
    """
    expected = shapes(architecture)
    faults = [f"missing: {name}" for name in expected if name not in state]
    faults += [f"unknown: {name}" for name in state if name not in expected]
    faults += [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if faults:
        raise RequestError(f"the weights do not fit the architecture: {'; '.join(faults[:_LISTED])}")
    published: dict[str, Tensor] = {}
    converted: set[str] = set()
    for relation in relations(family, architecture):
        if not converted & set(relation.ours):
            published |= zip(relation.theirs, relation.join([state[name] for name in relation.ours]), strict=True)
            converted |= set(relation.ours)
    missing = set(expected) - converted
    assert not missing, missing
    return published


def _applied(
    rule: TensorRule,
    theirs: str,
    prefix: str,
    own_shapes: Mapping[str, torch.Size],
    components: Mapping[str, str],
    groups: int,
) -> Iterator[Relation]:
    """The relation of a rule; nothing if the model or the layer doesn't have the rule's tensors."""
    ours = tuple(f"{prefix}{name}" for name in rule.ours)
    if any(name not in own_shapes for name in ours):
        return
    if any(components[slot] not in names for slot, names in rule.where.items()):
        return
    experts = own_shapes[ours[0]][0] if rule.form == "stacked" else 1
    names = tuple(theirs.replace("{expert}", str(expert)) for expert in range(experts))
    yield Relation(rule, names, ours, groups)


def _with_prefix(family: Family, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by full name, because some checkpoints leave out the model's prefix."""
    prefix = family.tensors.prefix
    whole = {rule.theirs for rule in family.tensors.whole if not rule.theirs.startswith(prefix)}
    full = {name: name if name.startswith(prefix) or name in whole else prefix + name for name in published}
    return {full[name]: tensor for name, tensor in published.items()}


def _restore_tied(family: Family, tensors: dict[str, Tensor]) -> None:
    """Give a tied tensor its name, if the checkpoint has it under the name of its copy alone."""
    names = {rule.ours[0]: rule.theirs for rule in reversed(family.tensors.whole) if rule.form == "renamed"}
    for copy, ours in family.tensors.tied.items():
        if copy in tensors and names[ours] not in tensors:
            tensors[names[ours]] = tensors.pop(copy)


_WRAPPERS = {
    "module.": "torch's DataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "torch's FSDP",
    "language_model.": "a model of text and images",
}


def _refuse_wrapped_names(family: Family, published: Mapping[str, Tensor]) -> None:
    """Refuse names that a wrapper has prefixed. The library would load such a checkpoint as random weights."""
    for prefix, origin in _WRAPPERS.items():
        if published and all(name.startswith(prefix) for name in published):
            raise RequestError(
                f"the name of each tensor begins with '{prefix}', as in {origin}; {family.model_type} has none such",
                kind="unsupported",
                fix="save the state of the model inside, whose names lack it",
            )


def _unexpected(
    family: Family, architecture: Architecture, remaining: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """The tensors that no relation has used, and the faults of tied ones. Buffers and equal copies are allowed."""
    unexpected, faults = [], []
    for name, tensor in remaining.items():
        if any(re.fullmatch(pattern, name) for pattern in family.tensors.buffers):
            continue
        same_as = family.tensors.tied.get(name)
        if same_as is None or not architecture.embedding.tied:
            unexpected.append(name)
        elif same_as in state and not torch.equal(tensor, state[same_as]):
            faults.append(f"{name} is not the embedding table, although config.json ties them")
    return unexpected, faults
