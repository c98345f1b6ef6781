"""What a swapped component keeps: options that both components have stay, those of the old one fall away.

`gemma2_tiny` says `heads: {n_heads: 4, n_kv_heads: 2, head_dim: 32}` of its GQA. After `model/heads=mha` the four
heads of 32 stay and n_kv_heads, which MHA does not have, falls away. A value that the user gave for this very run
never falls away: if the chosen component can't take it, it is refused.

A pattern may also name layer kinds that nobody declared: `[local, local, local, linear]` means the mixer `linear` in
every fourth layer, `[local, nope]` layers of full attention without positions. They are written out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

SPAN_KINDS = ("local", "global")
"""The layer kinds that spans offer; a pattern of these alone belongs to its span and goes with it."""


def settle(raw: dict[str, Any], choices: Mapping[str, str], overrides: Overrides, origin: Origin) -> dict[str, Any]:
    """A composed configuration with what swaps left behind removed, layer kinds completed, the vocabulary filled in."""
    for path, kind in groups.slots().items():
        slot = _select(raw, path)
        if isinstance(slot, dict):
            _drop_leftovers(slot, kind, path, choices, overrides, origin)
    model = raw.get("model")
    if isinstance(model, dict):
        _settle_pattern(model, choices, overrides, origin)
        _declare_implied_kinds(model)
        _settle_kinds(model)
        _fill_vocabulary(model, raw.get("data"))
    return raw


def _drop_leftovers(
    slot: dict[str, Any], kind: str, path: str, choices: Mapping[str, str], overrides: Overrides, origin: Origin
) -> None:
    name = slot.get("name")
    if name not in registry.names(kind):
        return
    own = _option_names(kind, str(name))
    for key in [key for key in slot if key != "name" and key not in own]:
        elsewhere = any(key in _option_names(kind, other) for other in registry.names(kind))
        if elsewhere and not overrides.sets(f"{path}.{key}") and _is_swapped(path, key, choices, origin):
            del slot[key]


def _is_swapped(path: str, key: str, choices: Mapping[str, str], origin: Origin) -> bool:
    """Whether the file that set an option had chosen another component than the one in force."""
    group = path.replace(".", "/")
    at = origin.setting(f"{path}.{key}")
    if at is None:
        return True
    before = origin.choice_of(at[0], group) or origin.choice_of(origin.experiment, group)
    if before is None:
        architecture = next((file for file, package in origin.files if package == path.rpartition(".")[0]), None)
        before = origin.choice_of(architecture, group) if architecture else None
    return before != choices.get(group)


def _settle_pattern(model: dict[str, Any], choices: Mapping[str, str], overrides: Overrides, origin: Origin) -> None:
    """Write out the pattern that the span implies; drop a file's own where the span has been swapped under it.

    A pattern with layer kinds beyond the spans' is kept: which of its layers attend is not for the span to say.
    """
    offered = _offered_kinds(model)
    if offered is None:
        return
    swapped = _span_is_swapped(choices, origin)
    pattern = model.get("pattern")
    if (
        swapped
        and isinstance(pattern, list)
        and set(pattern) <= set(SPAN_KINDS)
        and not overrides.sets("model.pattern")
    ):
        pattern = None
    model["pattern"] = offered if pattern is None else pattern
    kinds = model.get("kinds")
    if not isinstance(kinds, dict):
        return
    for kind in [kind for kind in kinds if kind not in model["pattern"]]:
        given = overrides.setting(f"model.kinds.{kind}") is not None
        if not given and (swapped or overrides.sets("model.pattern")):
            del kinds[kind]


def _declare_implied_kinds(model: dict[str, Any]) -> None:
    """Declare each layer kind of the pattern that is named after a mixer or a position and is not the span's.

    A kind that the configuration declares itself keeps what it says; its name fills in only the slot that it leaves
    open, so that `kinds: {linear: {mixer: {n_heads: 2}}}` is still the mixer `linear`.

    Raises:
        ConversionError: the pattern names a kind that means nothing.
    """
    offered, pattern, kinds = _offered_kinds(model), model.get("pattern"), model.get("kinds")
    if offered is None or not isinstance(pattern, list) or not (kinds is None or isinstance(kinds, dict)):
        return
    declared: dict[str, Any] = {} if kinds is None else kinds
    for name in dict.fromkeys(name for name in pattern if isinstance(name, str) and name not in offered):
        own = declared.get(name, {})
        if name in registry.names("mixer"):
            implied: dict[str, Any] = {"mixer": {"name": name}}
        elif name in registry.names("position"):
            implied = {"position": {"name": name}}
            if name not in declared or len(offered) > 1:
                implied["span"] = {"name": "global"}
        elif name not in declared:
            known = [*offered, *declared, *registry.names("mixer"), *registry.names("position")]
            near = registry.suggestion(name, dict.fromkeys(known))
            raise convert.ConversionError("model.pattern", f"no layer kind is called '{name}'{near}")
        else:
            continue
        if isinstance(own, dict):
            declared[name] = implied | own | {slot: _named(own[slot], implied[slot]) for slot in implied if slot in own}
    model["kinds"] = declared


def _named(given: Any, implied: Mapping[str, Any]) -> Any:
    """What a layer kind says of a slot, with the implied component's name where it names none."""
    return {**implied, **given} if isinstance(given, dict) else given


def _settle_kinds(model: dict[str, Any]) -> None:
    """Complete each layer kind's overrides from the base block."""
    kinds = model.get("kinds")
    if not isinstance(kinds, dict):
        return
    for kind, slots in kinds.items():
        if isinstance(slots, dict):
            kinds[kind] = {
                slot: _complete(slot, value, model.get(slot)) if slot in KIND_SLOTS else value
                for slot, value in slots.items()
            }


def _span_is_swapped(choices: Mapping[str, str], origin: Origin) -> bool:
    architecture = next((file for file, package in origin.files if package == "model"), None)
    return architecture is not None and origin.choice_of(architecture, "model/span") != choices.get("model/span")


def _offered_kinds(model: Mapping[str, Any]) -> list[str] | None:
    """The layer kinds that the base block offers, if it can be read."""
    span, mixer = model.get("span"), model.get("mixer", AttentionMixer.name)
    try:
        built = None if span is None else convert.component("span", span, "model.span")
        base = convert.component("mixer", mixer, "model.mixer")
    except convert.ConversionError:
        return None
    assert built is None or isinstance(built, Span)
    assert isinstance(base, Mixer)
    return list(base_kinds(built, base))


def _complete(slot: str, override: Any, base: Any) -> Any:
    """A layer kind's override of a slot, on top of what the base block has there."""
    if isinstance(override, str):
        override = {"name": override}
    if not isinstance(override, dict) or not isinstance(base, dict) or slot == "span":
        return override
    name = override.get("name", base.get("name"))
    if name not in registry.names(slot):
        return override
    shared = {key: value for key, value in base.items() if key in _option_names(slot, str(name))}
    return shared | override | {"name": name}


def _fill_vocabulary(model: dict[str, Any], data: Any) -> None:
    """A model without a vocabulary of its own takes its tokenizer's."""
    if model.get("vocab_size") is not None or not isinstance(data, dict):
        return
    tokenizer: Any = convert.component("tokenizer", data.get("tokenizer"), "data.tokenizer")
    model["vocab_size"] = tokenizer.vocab_size()


def _option_names(kind: str, name: str) -> frozenset[str]:
    cls = registry.lookup(kind, name)
    return memo.cached(("option names", cls), lambda: frozenset(option.name for option in registry.options(cls)))


def _select(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
