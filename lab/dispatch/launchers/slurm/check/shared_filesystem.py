"""Checks whether the cluster's nodes see a folder: it is on a shared file system, or this machine is the only node."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.refusals import Refusal

SHARED = frozenset(
    {
        "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "smbfs", "panfs", "wekafs", "afs",
        "orangefs", "pvfs2", "9p", "ocfs2", "gfs2", "glusterfs", "dvs", "vastnfs", "acfs", "coda", "ncpfs", "virtiofs",
    }
)  # fmt: skip
"""Types of file systems that several machines can mount. FUSE file systems count as shared too."""


def refusal(root: Path, nodes: Iterable[tuple[str, str]]) -> Refusal | None:
    """Why the nodes don't see a folder; None if they do, as far as this machine can tell.

    Args:
        root: the folder, which may not exist yet.
        nodes: name and address of each node.
    """
    if all(is_here(address) or is_here(name) for name, address in nodes):
        return None
    path = root.resolve()
    mount, kind = mount_of(path, mounts())
    if kind in SHARED or kind.startswith("fuse") or _is_exported(path):
        return None
    return Refusal(
        f"the run root {root} is not visible on the nodes: it lies on this machine's own disk ({kind} at {mount})",
        "unavailable",
        fix="put it on a file system that they share (--root, or LAB_ROOT), or set launcher.root_is_shared=true if "
        "they do see it",
    )


def is_here(address: str) -> bool:
    """Whether a host name or address is this machine's."""
    name = socket.gethostname()
    return address in {"localhost", "127.0.0.1", "::1", name, name.partition(".")[0]}


def mounts() -> list[tuple[str, str]]:
    """Mount point and type of each mounted file system; empty if the system doesn't list them."""
    rows = [line.split() for line in _lines(Path("/proc/self/mounts"))]
    return [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]


def mount_of(path: Path, file_systems: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Mount point and type of the file system that holds a path, which may not exist yet."""
    best = ("/", "unknown")
    for point, kind in file_systems:
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best


def _is_exported(path: Path) -> bool:
    """Whether this machine exports the path over NFS."""
    files = (Path("/etc/exports"), *sorted(Path("/etc/exports.d").glob("*.exports")))
    lines = [line for file in files for line in _lines(file) if line.strip().startswith(("/", '"/'))]
    return any(path.is_relative_to(line.split()[0].strip('"')) for line in lines)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
