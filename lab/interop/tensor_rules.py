"""Rules that map published tensors to ours: the `tensors` of a family's file. Each published name has a rule.

    name: ours                              the same tensor
    name: {renamed: ours}                   the same tensor, in a form that allows modifiers
    name: {concatenated: [a, b, …]}         our tensors concatenated along `axis` (by default 0)
    name: {interleaved: [a, b]}             alternating rows of our tensors along `axis` (gate and up of gpt-oss)
    name: {grouped: [q, k, v]}              for each key-value head its queries, key and value (NeoX, Falcon)
    name with {expert}: {stacked: ours}     one published tensor for each of ours[0], ours[1], …
    name: null                              removes a rule of the family that `like` names

Modifiers: `transposed: true` for a tensor that is stored with its last two dimensions exchanged, and
`where: {residual: [pre]}` for a tensor that only layers with such components have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FORMS = ("renamed", "concatenated", "interleaved", "grouped", "stacked")


@dataclass(frozen=True)
class TensorRule:
    """The rule of one published name, or of one name for each expert.

    Attributes:
        theirs: the published name.
        ours: our names; those of a layer are without the layer's prefix.
        form: how the published tensor holds ours: one of FORMS.
        axis: the axis along which our tensors are joined.
        transposed: whether the last two dimensions of the published tensor are exchanged.
        where: slot → the components of which a layer must have one for the rule to apply.
    """

    theirs: str
    ours: tuple[str, ...]
    form: str
    axis: int = 0
    transposed: bool = False
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, theirs: str, entry: str | Mapping[str, object]) -> TensorRule:
        """A rule from its entry in a family's file."""
        options: Mapping[str, object] = {"renamed": entry} if isinstance(entry, str) else entry
        (form,) = set(options) & set(FORMS)
        names, where, axis = options[form], options.get("where", {}), options.get("axis", 0)
        assert isinstance(names, str | list)
        assert isinstance(where, Mapping)
        assert isinstance(axis, int)
        assert set(options) <= {form, "where", "axis", "transposed"}, f"{theirs}: {sorted(options)}"
        return cls(
            theirs,
            (names,) if isinstance(names, str) else tuple(names),
            form,
            axis,
            bool(options.get("transposed", False)),
            {slot: tuple(components) for slot, components in where.items()},
        )


@dataclass(frozen=True)
class TensorNames:
    """The published tensors of a family.

    Attributes:
        prefix: the prefix of the model's tensors, which some checkpoints leave out.
        whole: the rules of the whole model.
        layer: the rules of each layer, with {layer} in the published names.
        tied: published name → ours, for copies of a tied embedding that a checkpoint may have.
        buffers: patterns of the names of buffers, which are ignored.
    """

    prefix: str
    whole: tuple[TensorRule, ...]
    layer: tuple[TensorRule, ...]
    tied: Mapping[str, str]
    buffers: tuple[str, ...]

    @classmethod
    def read(cls, content: Mapping[str, object]) -> TensorNames:
        """The rules from the `tensors` of a family's file."""
        whole, layer = content["whole"], content["layer"]
        assert isinstance(whole, Mapping)
        assert isinstance(layer, Mapping)
        tied, buffers = content.get("tied", {}), content.get("buffers", ())
        assert isinstance(tied, Mapping)
        assert isinstance(buffers, list | tuple)
        return cls(str(content["prefix"]), _rules(whole), _rules(layer), tied, tuple(buffers))


def _rules(entries: Mapping[str, str | Mapping[str, object] | None]) -> tuple[TensorRule, ...]:
    return tuple(TensorRule.read(theirs, entry) for theirs, entry in entries.items() if entry is not None)
