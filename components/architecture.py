"""A whole decoder as configuration: one component a slot, and a pattern of layer kinds repeated over the layers.

A layer kind is the base block with its own overrides: `pattern=(local, global)` interleaves the two kinds that an
interleaved span offers, and `kinds={"global": {"position": RoPE(theta=1e6)}}` gives one of them another RoPE base.

heads, qk_norm, span and position belong to attention (`components.attention.mixer`). A model without attention needs
none of them, and a layer with another mixer has none of them, whatever the base block says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import components.catalogue  # noqa: F401  registers every component
from components.attention import value_residual
from components.attention.heads import Heads
from components.attention.mixer import AttentionMixer
from components.attention.qk_norm import QKNorm
from components.attention.slots import SLOTS as ATTENTION_SLOTS
from components.attention.slots import AttentionSlots
from components.attention.span import Span
from components.embedding import Embedding
from components.initialization import Init
from components.layer import Layer
from components.mixers.base import Mixer
from components.mlp import MLP
from components.norm import Norm
from components.pattern import Pattern, base_kinds
from components.position.positions import Position
from components.registry import Component, OptionError
from components.residual import Residual
from components.softcap import Softcap

KIND_SLOTS = (*ATTENTION_SLOTS, "mixer", "norm", "residual", "mlp")
"""Slots that a layer kind may override."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder, fully configured.

    Attributes:
        vocab_size: rows of the embedding table.
        d_model: width of the residual stream.
        n_layers: blocks.
        pattern: layer kinds, repeated over the layers (a last repetition may be cut short); None for the span's own.
        kinds: what a layer kind has that differs from the base block, slot by slot.
    Raises:
        OptionError: naming the option, such as `pattern`, when the whole cannot be built.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    heads: Heads | None = None
    qk_norm: QKNorm | None = None
    span: Span | None = None
    position: Position | None = None
    softcap: Softcap
    norm: Norm
    residual: Residual
    mlp: MLP
    embedding: Embedding
    init: Init
    mixer: Mixer = field(default_factory=AttentionMixer)
    pattern: tuple[str, ...] | None = None
    kinds: Mapping[str, Mapping[str, Component]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option in ("vocab_size", "d_model", "n_layers"):
            if getattr(self, option) < 1:
                raise OptionError(option, f"must be at least 1, got {getattr(self, option)}")
        for kind, overrides in self.kinds.items():
            self._check_kind(kind, overrides)
        base = base_kinds(self.span, self.mixer)
        Pattern(self.repeated, base).check(self.kinds, self.n_layers)
        attending = [kind for kind in self.repeated if self._mixer(kind).slots]
        if attending and self.span is not None and not set(self.repeated) & set(base):
            raise OptionError("pattern", f"uses none of the layer kinds of span={self.span.name}: {list(base)}")
        refusal = value_residual.refusal([layer.mixer for layer in self.layers])
        if refusal is not None:
            number, problem = refusal
            raise OptionError(self._path(self.layers[number].kind, "heads.value_residual"), problem)

    @cached_property
    def text(self) -> str:
        """A key, as mappings can't be one: equal architectures have equal texts, and others have others."""
        return repr(self)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers from first to last."""
        by_kind = {kind: self._layer(kind) for kind in dict.fromkeys(self.repeated)}
        layers = [by_kind[kind] for kind in Pattern(self.repeated, ()).over(self.n_layers)]
        mixers = value_residual.with_first_values([layer.mixer for layer in layers])
        return tuple(
            layer if layer.mixer is mixer else replace(layer, mixer=mixer)
            for layer, mixer in zip(layers, mixers, strict=True)
        )

    @property
    def repeated(self) -> tuple[str, ...]:
        """The layer kinds that repeat: `pattern`, or those that the base block offers."""
        return base_kinds(self.span, self.mixer) if self.pattern is None else self.pattern

    @property
    def embedded_position(self) -> Position | None:
        """The position that is added to the token embedding, which all layers read; None where there is none."""
        if self.position is None or not self.position.embeds:
            return None
        return self.position if any("position" not in self.kinds.get(kind, {}) for kind in self.repeated) else None

    @property
    def max_context(self) -> int | None:
        """The longest context that every position reaches, or None where there is no limit."""
        positions = {entry.position for layer in self.layers for entry in layer.mixer.positions}
        if self.embedded_position is not None:
            positions.add(self.embedded_position)
        return min((p.max_context for p in positions if p.max_context is not None), default=None)

    @property
    def mixers_without_cache(self) -> tuple[str, ...]:
        """The names of its mixers that keep no cache; with one of them, text isn't generated from a cache."""
        return tuple(dict.fromkeys(layer.mixer.name for layer in self.layers if not layer.mixer.keeps_cache))

    @property
    def attention_paths_read(self) -> frozenset[str]:
        """What the layers read of attention's slots: `heads`, `position`, or parts of one such as `heads.n_heads`."""
        paths = {path for kind in self.repeated for path in self._mixer(kind).reads}
        return frozenset(paths | ({"position"} if self.embedded_position is not None else set()))

    def components(self) -> dict[str, Component]:
        """Every component by its path: `heads`, …, `kinds.global.position`."""
        base = {f.name: getattr(self, f.name) for f in fields(self)}
        by_path = {name: value for name, value in base.items() if isinstance(value, Component)}
        for kind, overrides in self.kinds.items():
            by_path |= {f"kinds.{kind}.{slot}": component for slot, component in overrides.items()}
        return by_path

    def _check_kind(self, kind: str, overrides: Mapping[str, Component]) -> None:
        for slot in overrides:
            if slot not in KIND_SLOTS:
                raise OptionError(
                    f"kinds.{kind}.{slot}", "a layer kind has no such slot", given=slot, expected=KIND_SLOTS
                )
        for slot in ATTENTION_SLOTS:
            if slot in overrides and slot not in self._mixer(kind).slots:
                raise OptionError(f"kinds.{kind}.{slot}", f"a layer that does not attend has no {slot}")
        position, span = overrides.get("position"), overrides.get("span")
        if isinstance(position, Position) and position.embeds:
            raise OptionError(
                f"kinds.{kind}.position",
                f"{position.name} is added to the token embedding, which all layers read; make it the model's",
            )
        if isinstance(span, Span) and len(span.windows) != 1:
            raise OptionError(f"kinds.{kind}.span", f"one layer kind has one window: global or local, not {span.name}")

    def _mixer(self, kind: str) -> Mixer:
        """The mixer of a layer kind, as configured."""
        mixer = self.kinds.get(kind, {}).get("mixer", self.mixer)
        assert isinstance(mixer, Mixer)
        return mixer

    def _layer(self, kind: str) -> Layer:
        names = ("heads", "qk_norm", "span", "position", "norm", "residual", "mlp")
        slots = {name: getattr(self, name) for name in names} | dict(self.kinds.get(kind, {}))
        attention = AttentionSlots(cap=self.softcap.attention_cap, **{name: slots[name] for name in ATTENTION_SLOTS})
        try:
            mixer = self._mixer(kind).resolve(attention, kind)
        except OptionError as error:
            raise (error if self._path(kind, error.option) == error.option else error.within(f"kinds.{kind}")) from None
        return Layer(kind=kind, mixer=mixer, norm=slots["norm"], residual=slots["residual"], mlp=slots["mlp"])

    def _path(self, kind: str, option: str) -> str:
        """Where an option of a layer kind is set: `position.theta`, or `kinds.global.position.theta`."""
        slot = option.partition(".")[0]
        return f"kinds.{kind}.{option}" if slot in self.kinds.get(kind, {}) else option
