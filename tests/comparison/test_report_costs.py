"""What the report's charts claim: winners with their uncertainty, differences in pairs, and how training went."""

from __future__ import annotations

import re

LOSSES = {"both": [3.20, 3.22, 3.21], "neither": [3.30, 3.33, 3.31]}


def section(page: str, name: str) -> str:
    return re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]  # type: ignore[index]
