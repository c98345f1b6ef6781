"""Conversion between YAML values and Hydra's override grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
_ESCAPED = re.compile(r"([\\()\[\]{}:=, \t])")


def parse_value(text: str) -> Override:
    """Parse a text as the value of an override.

    Raises:
        HydraException: the text isn't valid in Hydra's grammar.
    """
    return OverridesParser.create().parse_override(f"key={text}")


def hydra_value(value: object) -> str:
    """Write a YAML value as one value of Hydra's override grammar.

    A text is expected to be in that grammar: `[a,b]` is a list, `${train.context}` refers to a key. It is quoted if it
    isn't valid there, or would give several values.
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            items = ((_ESCAPED.sub(r"\\\1", str(key)), hydra_value(item)) for key, item in value.items())
            return "{" + ",".join(f"{key}:{item}" for key, item in items) + "}"
        case str():
            return value if _PLAIN.fullmatch(value) else _hydra_text(value)
        case Sequence():
            return "[" + ",".join(hydra_value(item) for item in value) + "]"
    return str(value)


def yaml_value(value: object) -> object:
    """Convert a value that Hydra has parsed to the value that YAML would hold."""
    match value:
        case QuotedString():
            return _unambiguous(value.text)
        case str():
            return _unambiguous(value)
        case dict():
            return {str(yaml_value(key)): yaml_value(item) for key, item in value.items()}
        case list():
            return [yaml_value(item) for item in value]
    return value


@lru_cache(maxsize=4096)
def _hydra_text(text: str) -> str:
    if text and text == text.strip():
        try:
            override = parse_value(text)
            if not override.is_sweep_override():  # a backslash at the end would escape the comma after it in a list
                return _quoted(str(override.value())) if text[-1] == "\\" else text
        except HydraException:
            pass
    return _quoted(text)


def _unambiguous(text: str) -> str:
    """The text, in quotes if Hydra would parse it as something else, such as the text '3' as a number."""
    try:
        value = parse_value(text).value()
    except HydraException:
        return text
    return text if isinstance(value, str) and value == text else _quoted(text)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
