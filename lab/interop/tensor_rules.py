"""How a family's published tensors hold ours, as its `tensors` says: for each published name, which of ours and how.

    name: ours                              the same tensor
    name: {renamed: ours}                   likewise, for the sake of a modifier
    name: {concatenated: [a, b, …]}         one after the other along `axis` (0 unless given)
    name: {interleaved: [a, b]}             row by row in turn along `axis` (gpt-oss's gate and up)
    name: {grouped: [q, k, v]}              for each key-value head its queries, its key, its value (NeoX, Falcon)
    name with {expert}: {stacked: ours}     one published tensor for each of ours[0], ours[1], …
    name: null                              nothing, where a family that this one is like has something

The modifiers are `transposed: true` (stored with its last two dimensions exchanged) and `where: {residual: [pre]}` (for
layers with such components alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FORMS = ("renamed", "concatenated", "interleaved", "grouped", "stacked")


@dataclass(frozen=True)
class TensorRule:
    """One published name, or one for each expert.

    Attributes:
        theirs: the published name.
        ours: our names, in a layer without the layer's prefix.
        form: how it holds them, among FORMS.
        axis: along which they are joined.
        transposed: whether its last two dimensions are exchanged.
        where: slot → the components with which a layer has it.
    """

    theirs: str
    ours: tuple[str, ...]
    form: str
    axis: int = 0
    transposed: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, theirs: str, entry: str | Mapping[str, object]) -> TensorRule:
        """A rule as a family's file has it."""
        options: Mapping[str, object] = {"renamed": entry} if isinstance(entry, str) else entry
        (form,) = set(options) & set(FORMS)
        held, where, axis = options[form], options.get("where", {}), options.get("axis", 0)
        assert isinstance(held, str | list)
        assert isinstance(where, Mapping)
        assert isinstance(axis, int)
        assert set(options) <= {form, "where", "axis", "transposed"}, f"{theirs}: {sorted(options)}"
        return cls(
            theirs,
            (held,) if isinstance(held, str) else tuple(held),
            form,
            axis,
            bool(options.get("transposed", False)),
            {slot: tuple(names) for slot, names in where.items()},
        )


@dataclass(frozen=True)
class TensorNames:
    """The published tensors of a family.

    Attributes:
        prefix: of the model's own tensors, which some checkpoints leave out.
        whole: rules of the model.
        layer: rules of each layer, with {layer} in their names.
        tied: published name → ours, of the copies that a tied embedding may leave.
        buffers: patterns of names that hold nothing to learn.
    """

    prefix: str
    whole: tuple[TensorRule, ...]
    layer: tuple[TensorRule, ...]
    tied: Mapping[str, str]
    buffers: tuple[str, ...]

    @classmethod
    def read(cls, content: Mapping[str, object]) -> TensorNames:
        """The `tensors` of a family's file."""
        whole, layer = content["whole"], content["layer"]
        assert isinstance(whole, Mapping)
        assert isinstance(layer, Mapping)
        tied, buffers = content.get("tied", {}), content.get("buffers", ())
        assert isinstance(tied, Mapping)
        assert isinstance(buffers, list | tuple)
        return cls(str(content["prefix"]), _rules(whole), _rules(layer), tied, tuple(buffers))


def _rules(entries: Mapping[str, str | Mapping[str, object] | None]) -> tuple[TensorRule, ...]:
    return tuple(TensorRule.read(theirs, entry) for theirs, entry in entries.items() if entry is not None)
