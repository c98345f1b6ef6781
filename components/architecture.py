"""A whole decoder as configuration: one component a slot, and a pattern of layer kinds repeated over the layers.

A layer kind is the base block with its own overrides: `pattern=(local, global)` interleaves the two kinds that an
interleaved span offers, and `kinds={"global": {"position": RoPE(theta=1e6)}}` gives one of them another RoPE base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import cycle, islice

from components.attention import mla  # noqa: F401  so does this
from components.attention.heads import Heads
from components.attention.mixer import Values
from components.attention.qk_norm import QKNorm
from components.attention.span import Span
from components.attention.spec import AttentionSpec
from components.embedding import Embedding
from components.initialization import Init
from components.mixers import linear  # noqa: F401  they register components
from components.mixers.base import AttentionMixer, Mixer
from components.mlp import MLP
from components.moe import experts  # noqa: F401  they register components
from components.norm import Norm
from components.position import embedding as position_embedding  # noqa: F401  they register components
from components.position import rope_scaling  # noqa: F401  it registers components
from components.position.positions import Position
from components.registry import Component, OptionError, suggestion
from components.residual import Residual
from components.softcap import Softcap

ATTENTION_SLOTS = ("heads", "qk_norm", "span", "position")
"""Slots that only a layer that attends reads."""
KIND_SLOTS = (*ATTENTION_SLOTS, "mixer", "norm", "residual", "mlp")
"""Slots that a layer kind may override."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, every slot decided.

    Attributes:
        window: how many keys a query sees, its own included; None for every earlier token.
        values: what becomes of its values where layers share the first one's (`heads.value_residual`).
    """

    kind: str
    mixer: Mixer
    heads: Heads
    qk_norm: QKNorm
    window: int | None
    position: Position
    norm: Norm
    residual: Residual
    mlp: MLP
    attention_cap: float | None
    values: Values = "own"

    @property
    def attends(self) -> bool:
        """Whether this layer is an attention layer."""
        return isinstance(self.mixer, AttentionMixer)

    @property
    def spec(self) -> AttentionSpec:
        """What this layer's attention computes."""
        return AttentionSpec(scale=self.heads.scale, window=self.window, softcap=self.attention_cap)


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
    heads: Heads
    qk_norm: QKNorm
    span: Span
    position: Position
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
        self._check_kinds()
        self._check_pattern()
        for layer in dict.fromkeys(layer for layer in self.layers if layer.attends):
            try:
                layer.position.check_head_dim(layer.heads.rotary_size)
            except OptionError as error:
                raise OptionError(f"{self._path(layer.kind, 'position')}.{error.option}", error.message) from None
            refusal = layer.heads.qk_norm_refusal(layer.qk_norm)
            if refusal is not None:
                raise OptionError(self._path(layer.kind, "qk_norm"), refusal)
        self._check_value_residual()

    @cached_property
    def text(self) -> str:
        """Equal architectures have equal texts, and others have others: a key, as mappings can't be one."""
        return repr(self)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers from first to last."""
        by_kind = {kind: self._layer(kind) for kind in dict.fromkeys(self.repeated)}
        layers = [by_kind[kind] for kind in islice(cycle(self.repeated), self.n_layers)]
        first = next((i for i, layer in enumerate(layers) if layer.values == "mixed"), None)
        if first is not None:
            layers[first] = replace(layers[first], values="first")
        return tuple(layers)

    @property
    def repeated(self) -> tuple[str, ...]:
        """The layer kinds that repeat: `pattern`, or the span's own."""
        return tuple(self.span.windows) if self.pattern is None else self.pattern

    @property
    def max_context(self) -> int | None:
        """The longest context that every layer can position, or None where there is no limit."""
        limits = [p.max_context for p in {layer.position for layer in self.layers} if p.max_context is not None]
        return min(limits, default=None)

    def components(self) -> dict[str, Component]:
        """Every component in use by its path: `heads`, …, `kinds.global.position`."""
        base = {f.name: getattr(self, f.name) for f in fields(self)}
        found = {name: value for name, value in base.items() if isinstance(value, Component)}
        for kind, overrides in self.kinds.items():
            found |= {f"kinds.{kind}.{slot}": component for slot, component in overrides.items()}
        return found

    def _check_kinds(self) -> None:
        for kind, overrides in self.kinds.items():
            for slot in overrides:
                if slot not in KIND_SLOTS:
                    raise OptionError(
                        f"kinds.{kind}.{slot}", f"a layer kind has no such slot{suggestion(slot, KIND_SLOTS)}"
                    )
            if not isinstance(overrides.get("mixer", self.mixer), AttentionMixer):
                for slot in set(overrides) & set(ATTENTION_SLOTS):
                    raise OptionError(f"kinds.{kind}.{slot}", f"a layer that does not attend has no {slot}")
            position = overrides.get("position")
            if isinstance(position, Position) and position.embeds:
                raise OptionError(
                    f"kinds.{kind}.position",
                    f"{position.name} is added to the token embedding, which all layers read; make it the model's",
                )
            span = overrides.get("span")
            if isinstance(span, Span) and len(span.windows) != 1:
                raise OptionError(
                    f"kinds.{kind}.span", f"one layer kind has one window: global or local, not {span.name}"
                )
            if kind not in self.repeated:
                raise OptionError(
                    f"kinds.{kind}", f"the pattern has no such layer kind{suggestion(kind, self.repeated)}"
                )

    def _check_pattern(self) -> None:
        if not self.repeated:
            raise OptionError("pattern", "must name at least one layer kind")
        known = [*self.span.windows, *(kind for kind in self.kinds if kind not in self.span.windows)]
        for kind in self.repeated:
            if kind not in known:
                raise OptionError("pattern", f"no layer kind is called '{kind}'{suggestion(kind, known)}")
        if len(self.repeated) > self.n_layers:
            raise OptionError("pattern", f"has {len(self.repeated)} layers, the model only n_layers = {self.n_layers}")
        if not any(kind in self.span.windows for kind in self.repeated):
            raise OptionError(
                "pattern", f"uses none of the layer kinds of span={self.span.name}: {list(self.span.windows)}"
            )

    def _check_value_residual(self) -> None:
        sharing = [layer for layer in self.layers if layer.values != "own"]
        if not sharing:
            return
        first = sharing[0].heads
        if len(sharing) == 1:
            path = self._path(sharing[0].kind, "heads")
            raise OptionError(
                f"{path}.value_residual", "needs a second attention layer that the first one's values reach"
            )
        for layer in sharing[1:]:
            if (layer.heads.kv_heads, layer.heads.value_size) != (first.kv_heads, first.value_size):
                raise OptionError(
                    f"{self._path(layer.kind, 'heads')}.value_residual",
                    f"mixes the first layer's values, {first.kv_heads} heads of {first.value_size}, into "
                    f"{layer.heads.kv_heads} heads of {layer.heads.value_size}: they must be alike",
                )

    def _path(self, kind: str, slot: str) -> str:
        """Where a slot of a layer kind is set: `position`, or `kinds.global.position`."""
        return f"kinds.{kind}.{slot}" if slot in self.kinds.get(kind, {}) else slot

    def _layer(self, kind: str) -> Layer:
        own: dict[str, Component] = {slot: getattr(self, slot) for slot in KIND_SLOTS} | dict(self.kinds.get(kind, {}))
        span = own.pop("span")
        assert isinstance(span, Span)
        attends, heads = isinstance(own["mixer"], AttentionMixer), own["heads"]
        assert isinstance(heads, Heads)
        return Layer(
            kind=kind,
            window=self._window(kind, span) if attends else None,
            attention_cap=self.softcap.attention_cap,
            values="mixed" if attends and heads.value_residual else "own",
            **own,  # type: ignore[arg-type]
        )

    def _window(self, kind: str, span: Span) -> int | None:
        if kind in span.windows:
            return span.windows[kind]
        if len(span.windows) == 1:
            return next(iter(span.windows.values()))
        raise OptionError(
            f"kinds.{kind}.span", f"needs a span of its own, global or local: span={span.name} has several"
        )
