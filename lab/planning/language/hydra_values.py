"""Values in Hydra's override grammar, and back: what YAML holds as a text, and what Hydra read as a plain value."""

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
    """A text as the value of an override.

    Raises:
        HydraException: the text means nothing in Hydra's grammar.
    """
    return OverridesParser.create().parse_override(f"key={text}")


def hydra_value(value: object) -> str:
    """A YAML value as Hydra's override grammar writes one value.

    A text is taken to be in that grammar already (`[a,b]` is a list, `${train.context}` refers to a key). It is quoted
    where it means nothing in the grammar, or would mean several values.
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
    """A value that Hydra has read, as YAML would hold it."""
    match value:
        case QuotedString():
            return _same_again(value.text)
        case str():
            return _same_again(value)
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


def _same_again(text: str) -> str:
    """A text in quotes where Hydra would read it as something else the next time, such as '3'."""
    try:
        read = parse_value(text).value()
    except HydraException:
        return text
    return text if isinstance(read, str) and read == text else _quoted(text)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
