"""Names of sweeps, arms and seeds, which must be safe as parts of paths."""

from __future__ import annotations

LONGEST_NAME = 100  # file systems allow 255 bytes, and TensorBoard shows sweep, arm and seed on one line
# An arm's name in a record is longer: its folder is called `arm,cell`. File systems allow 255 bytes.
_LONGEST_BYTES = 200


def check_name(name: str) -> None:
    """Refuse a sweep, arm or seed name that isn't safe as one part of a path on any file system.

    Raises:
        ValueError: with the reason.
    """
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"name {name!r}: expected 1 to {LONGEST_NAME} characters")
    if name.startswith("."):
        raise ValueError(f"name {name!r}: must not begin with a dot")
    if "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"name {name!r}: must not contain slashes or control characters")


def is_arm_name(name: str) -> bool:
    """Whether an arm's folder can have this name."""
    try:
        check_name(name)
    except ValueError:
        return False
    return len(name.encode("utf-8", "replace")) <= _LONGEST_BYTES


def is_folder_name(name: str) -> bool:
    """Whether it is `sweep/arm/seed-n`, a folder below a root."""
    return name.count("/") == 2 and all(map(is_arm_name, name.split("/")))
