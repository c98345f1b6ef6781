"""The files that paths, folders and globs name, and which of them are the corpus's data.

In a folder, hidden files are left out. Where a folder or glob finds files of rows or of token ids, a README, a licence
and checksums beside them are left out too, and other text there is refused, as it may be meant or not: globs say which.
A file that is named by its own path is always read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.registry import nearest
from lab.data.content import Source
from lab.data.errors import DataError
from lab.data.formats.compression import inner_suffix
from lab.data.formats.table import TEXT, Format, format_of

_MANY = 20  # names beside a wrong one that a message lists
_SIDE_NAME = re.compile(
    r"(readme|licen[cs]e|copying|notice|citation|changelog|authors|requirements|robots)\b.*"
    r"|dataset_(infos?|dict)\.json|state\.json|croissant\.json|.*\.(md5|sha1|sha256|sha512|crc)(sums?)?"
    r"|(md5|sha1|sha256|sha512)sums?(\.txt)?",
    re.IGNORECASE,
)
_MARKERS = ("_SUCCESS", "_metadata", "_common_metadata")
"""What Spark and Hive leave beside their files."""


@dataclass(frozen=True)
class FoundFile:
    """A file of the corpus."""

    source: Source
    format: Format


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that isn't read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FoundFiles:
    """What paths name.

    Attributes:
        files: by key.
        left_out: in the order in which they were found.
    """

    files: tuple[FoundFile, ...]
    left_out: tuple[LeftOut, ...]


def find_files(paths: Sequence[str], option: str) -> FoundFiles:
    """The files of a corpus, by key: their path relative to the deepest folder that contains all of them.

    Args:
        option: that names the paths, for messages.
    Raises:
        DataError: a path names no file, or a folder holds both rows and text.
    """
    formats: dict[Path, Format] = {}
    left_out: dict[Path, LeftOut] = {}
    folders = []
    for pattern in paths:
        matches, folder, hidden = _matches(pattern, option)
        chosen, beside = _data_files(matches, pattern, option)
        formats |= chosen
        left_out |= {each.path: each for each in (*hidden, *beside)}
        folders.append(folder)
    root = os.path.commonpath(folders)
    sources = [FoundFile(Source(Path(os.path.relpath(path, root)).as_posix(), path), formats[path]) for path in formats]
    return FoundFiles(
        tuple(sorted(sources, key=lambda found: found.source.key)),
        tuple(each for path, each in left_out.items() if path not in formats),
    )


def _data_files(matches: Sequence[Path], pattern: str, option: str) -> tuple[dict[Path, Format], list[LeftOut]]:
    if len(matches) == 1:
        return {path: _format(path) for path in matches}, []
    formats: dict[Path, Format] = {}
    left_out = []
    for path in matches:
        if path.name in _MARKERS:
            left_out.append(LeftOut(path, "a marker of the program that wrote the folder"))
        elif _SIDE_NAME.fullmatch(path.name) and inner_suffix(path) == ".json":
            left_out.append(LeftOut(path, "describes the data"))
        else:
            formats[path] = _format(path)
    if all(found is TEXT for found in formats.values()) or TEXT not in formats.values():
        return formats, left_out
    beside = [path for path, found in formats.items() if found is TEXT]
    for path in beside:
        if not _SIDE_NAME.fullmatch(path.name):
            data = next(other for other, found in formats.items() if found is not TEXT)
            problem = f"'{pattern}' names files of rows or token ids ({data.name}) and of text ({path.name})"
            globs = [f"{pattern.rstrip('/*')}/**/*{''.join(path.suffixes[-2:])}" for path in (data, path)]
            fix = f"say by globs which are meant, such as {option}={globs[:1]} or {option}={globs}"
            raise DataError(problem, kind="conflict", key=f"corpus.{option}", given=pattern, fix=fix)
        left_out.append(LeftOut(path, "stands beside files of rows or token ids"))
    return {path: found for path, found in formats.items() if found is not TEXT}, left_out


def _format(path: Path) -> Format:
    try:
        return format_of(path)
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror or error})", kind="unreadable", file=path) from error


def _matches(pattern: str, option: str) -> tuple[list[Path], Path, list[LeftOut]]:
    """The files that a path, folder or glob names, the folder that contains all of them, and what is hidden there."""
    full = os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(pattern)))
    hidden: list[LeftOut] = []
    if os.path.isfile(full):
        return [Path(full)], Path(full).parent, hidden
    if os.path.isdir(full):
        folder = Path(full)
        files = list(_walk(full, hidden))
    else:
        folder = _before_wildcards(full)
        files = [Path(match) for match in glob.glob(full, recursive=True) if os.path.isfile(match)]
    if not files:
        raise _nothing(pattern, full, folder, option)
    return files, folder, hidden


def _walk(folder: str, hidden: list[LeftOut]) -> Iterator[Path]:
    """Every file below a folder that isn't hidden, links to folders followed once."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        hidden += [LeftOut(Path(here, name), "hidden") for name in (*folders, *names) if name.startswith(".")]
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(here, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _nothing(pattern: str, full: str, folder: Path, option: str) -> DataError:
    existing = folder
    while not existing.is_dir():
        existing = existing.parent
    wanted = Path(full).relative_to(existing).parts[:1]
    names = sorted(name for name in os.listdir(existing) if not name.startswith("."))
    listed = tuple(names) if 0 < len(names) <= _MANY and not Path(full).is_dir() else None
    return DataError(
        f"no file matches '{pattern}' (looked for {full})",
        kind="not_found",
        key=f"corpus.{option}",
        given=wanted[0] if wanted else pattern,
        expected=listed,
        nearest=nearest(wanted[0], names) if wanted else None,
    )


def _before_wildcards(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])
