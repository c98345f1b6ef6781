"""docs/architecture.md and CONTRIBUTING.md name files that are there, and every package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_files_that_a_page_names_are_there(page: Path) -> None:
    names = re.findall(r"`([\w/.-]+/(?:[\w.-]+)?)`", page.read_text(encoding="utf-8"))
    assert len(names) > 4
    files = [str(path.relative_to(ROOT)) for top in ("lab", "components") for path in (ROOT / top).rglob("*")]

    def is_there(name: str) -> bool:
        return (ROOT / name).exists() or any(f"/{file}".endswith(f"/{name.rstrip('/')}") for file in files)

    assert not [name for name in names if not is_there(name)]


def test_every_package_has_its_line() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / "lab").glob("*/__init__.py")]
    assert not [name for name in packages if f"| `lab/{name}/` |" not in text]


def test_make_has_the_targets_that_contributors_are_told_of() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"`make (\w+)`", PAGES[1].read_text(encoding="utf-8"))
    assert {"quick", "test", "torture"} <= set(targets)
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]
