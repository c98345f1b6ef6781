"""Swaps of components: options that both components have are kept, options of the old component alone are dropped.

`gemma2_tiny` has the GQA `heads: {n_heads: 4, n_kv_heads: 2, head_dim: 32}`. After `model/heads=mha`, n_heads and
head_dim are kept, and n_kv_heads is dropped because MHA doesn't have it. A value that the user sets in an override is
never dropped: if the chosen component doesn't have the option, it is refused.

A pattern may also name layer kinds that aren't declared: `[local, local, local, linear]` has the mixer `linear` in
every fourth layer, `[local, nope]` has full attention without positions in every second layer. This module declares
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components import registry
from components.architecture import KIND_SLOTS
from components.attention.mixer import AttentionMixer
from components.attention.span import Span
from components.mixers.base import Mixer
from components.pattern import base_kinds
from lab.composition import convert, memo
from lab.composition.hydra import groups
from lab.composition.hydra.origin import Origin
from lab.composition.hydra.overrides import Overrides
from lab.composition.plain import Plain, select
from lab.data.tokenizers.options import Tokenizer
from lab.refusals import RequestError

SPAN_KINDS = ("local", "global")
"""The layer kinds that spans provide. A pattern of these alone belongs to its span, and is dropped with it."""


def apply_swaps(raw: Plain, choices: Mapping[str, str], overrides: Overrides, origin: Origin) -> Plain:
    """Drop the options of swapped components, complete layer kinds, and fill in the vocabulary.

    The configuration is changed in place and returned.

    Raises:
        RequestError: the pattern names an unknown layer kind, or the tokenizer is wrong.
    """
    swaps = _Swaps(choices, overrides, origin)
    for path, kind in groups.slots().items():
        slot = select(raw, path)
        if isinstance(slot, dict):
            swaps.drop_leftovers(slot, kind, path)
    model = raw.get("model")
    if isinstance(model, dict):
        swaps.settle_pattern(model)
        _declare_implied_kinds(model)
        _complete_kinds(model)
        _fill_vocabulary(model, raw.get("data"))
    return raw


@dataclass(frozen=True)
class _Swaps:
    """The chosen components, and whether overrides or files chose them."""

    choices: Mapping[str, str]
    overrides: Overrides
    origin: Origin

    def drop_leftovers(self, slot: Plain, kind: str, path: str) -> None:
        """Remove the options that only the component before the swap has."""
        name = slot.get("name")
        if name not in registry.names(kind):
            return
        own = _option_names(kind, str(name))
        for key in [key for key in slot if key != "name" and key not in own]:
            is_known = any(key in _option_names(kind, other) for other in registry.names(kind))
            if is_known and not self.overrides.sets(f"{path}.{key}") and self._is_swapped(path, key):
                del slot[key]

    def settle_pattern(self, model: Plain) -> None:
        """Set the pattern that the span implies if there is none, or if the span was swapped after the file set it.

        A pattern with layer kinds that no span provides is kept, because it doesn't belong to the span.
        """
        offered = _offered_kinds(model)
        if offered is None:
            return
        is_swapped, is_overridden = self._span_is_swapped(), self.overrides.sets("model.pattern")
        pattern = model.get("pattern")
        if is_swapped and isinstance(pattern, list) and set(pattern) <= set(SPAN_KINDS) and not is_overridden:
            pattern = None
        model["pattern"] = pattern = offered if pattern is None else pattern
        kinds = model.get("kinds")
        if not isinstance(kinds, dict) or not (is_swapped or is_overridden):
            return
        for kind in [kind for kind in kinds if kind not in pattern]:  # type: ignore[operator]
            if self.overrides.setting(f"model.kinds.{kind}") is None:
                del kinds[kind]

    def _is_swapped(self, path: str, key: str) -> bool:
        """Whether the file that set an option had chosen another component for the slot."""
        group = path.replace(".", "/")
        setting = self.origin.setting(f"{path}.{key}")
        if setting is None:
            return True
        component = self.origin.choice_of(setting[0], group) or self.origin.choice_of(self.origin.experiment, group)
        if component is None and (architecture := self.origin.file_of(path.rpartition(".")[0])):
            component = self.origin.choice_of(architecture, group)
        return component != self.choices.get(group)

    def _span_is_swapped(self) -> bool:
        architecture = self.origin.file_of("model")
        if architecture is None:
            return False
        return self.origin.choice_of(architecture, "model/span") != self.choices.get("model/span")


def _declare_implied_kinds(model: Plain) -> None:
    """Declare each layer kind of the pattern that has the name of a mixer or a position and doesn't belong to the span.

    A kind that the configuration declares keeps its settings. Its name fills in only the slot that they leave open, so
    that `kinds: {linear: {mixer: {n_heads: 2}}}` still has the mixer `linear`.

    Raises:
        RequestError: the pattern names an unknown layer kind.
    """
    offered, pattern, kinds = _offered_kinds(model), model.get("pattern"), model.get("kinds")
    if offered is None or not isinstance(pattern, list) or not (kinds is None or isinstance(kinds, dict)):
        return
    declared: Plain = {} if kinds is None else kinds
    for name in dict.fromkeys(name for name in pattern if isinstance(name, str) and name not in offered):
        own = declared.get(name, {})
        implied: dict[str, Plain]
        if name in registry.names("mixer"):
            implied = {"mixer": {"name": name}}
        elif name in registry.names("position"):
            implied = {"position": {"name": name}}
            if name not in declared or len(offered) > 1:
                implied["span"] = {"name": "global"}
        elif name not in declared:
            layer_kinds = dict.fromkeys([*offered, *declared, *registry.names("mixer"), *registry.names("position")])
            problem = f"no layer kind is called '{name}'"
            raise RequestError(problem, kind="not_found", key="model.pattern", given=name, expected=tuple(layer_kinds))
        else:
            continue
        if isinstance(own, dict):
            # A slot without a component's name gets the implied one.
            filled = {slot: {**implied[slot], **own[slot]} for slot in implied if isinstance(own.get(slot), dict)}
            declared[name] = implied | own | filled
    model["kinds"] = declared


def _complete_kinds(model: Plain) -> None:
    """Complete the settings of each layer kind from the base block."""
    kinds = model.get("kinds")
    if not isinstance(kinds, dict):
        return
    for kind, slots in kinds.items():
        if isinstance(slots, dict):
            kinds[kind] = {
                slot: _completed(slot, value, model.get(slot)) if slot in KIND_SLOTS else value
                for slot, value in slots.items()
            }


def _completed(slot: str, override: object, base: object) -> object:
    """A layer kind's settings for a slot, on top of those of the base block."""
    if isinstance(override, str):
        override = {"name": override}
    if not isinstance(override, dict) or not isinstance(base, dict) or slot == "span":
        return override
    name = override.get("name", base.get("name"))
    if name not in registry.names(slot):
        return override
    shared = {key: value for key, value in base.items() if key in _option_names(slot, str(name))}
    return shared | override | {"name": name}


def _offered_kinds(model: Plain) -> list[str] | None:
    """The layer kinds that the base block provides; None if its span or mixer isn't valid."""
    span, mixer = model.get("span"), model.get("mixer", AttentionMixer.name)
    try:
        built = None if span is None else convert.component("span", span, "model.span")
        base = convert.component("mixer", mixer, "model.mixer")
    except RequestError:
        return None
    assert built is None or isinstance(built, Span)
    assert isinstance(base, Mixer)
    return list(base_kinds(built, base))


def _fill_vocabulary(model: Plain, data: object) -> None:
    """Set the vocabulary size from the tokenizer if the model doesn't set it."""
    if model.get("vocab_size") is not None or not isinstance(data, dict):
        return
    tokenizer = convert.component("tokenizer", data.get("tokenizer"), "data.tokenizer")
    assert isinstance(tokenizer, Tokenizer)
    model["vocab_size"] = tokenizer.vocab_size()


def _option_names(kind: str, name: str) -> frozenset[str]:
    cls = registry.lookup(kind, name)
    return memo.cached(("option names", cls), lambda: frozenset(option.name for option in registry.options(cls)))
