"""Whether the cluster's nodes see a folder: it must be on a file system that they share, or they are this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

SHARED = frozenset(
    {
        "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "smbfs", "panfs", "wekafs", "afs",
        "orangefs", "pvfs2", "9p", "ocfs2", "gfs2", "glusterfs", "dvs", "vastnfs", "acfs", "coda", "ncpfs", "virtiofs",
    }
)  # fmt: skip
"""Types of file systems that several machines mount; all of fuse counts too, as that is what clusters use it for."""


def refusal(root: Path, nodes: Iterable[tuple[str, str]]) -> str | None:
    """Why the nodes don't see a folder, with what to do; None if they do, as far as can be told from here.

    Args:
        root: the folder, which needn't be there yet.
        nodes: name and address of each.
    """
    if all(is_here(address) or is_here(name) for name, address in nodes):
        return None
    place = root.resolve()
    mount, kind = mount_of(place, mounts())
    if kind in SHARED or kind.startswith("fuse") or _is_exported(place):
        return None
    return (
        f"the run root {root} is not visible on the nodes: it lies on this machine's own disk ({kind} at {mount}); "
        "put it on a file system that they share (--root, or LAB_ROOT), or set launcher.root_is_shared=true if they do "
        "see it"
    )


def is_here(address: str) -> bool:
    """Whether a host name or address is this machine's."""
    own = {"localhost", "127.0.0.1", "::1", socket.gethostname(), socket.gethostname().partition(".")[0]}
    return address in own


def mounts() -> list[tuple[str, str]]:
    """Mount point and type of each mounted file system; empty where the system doesn't say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(fields[1].replace("\\040", " "), fields[2]) for fields in map(str.split, lines) if len(fields) > 2]


def mount_of(path: Path, mounted: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Mount point and type of the file system on which a path lies, or would."""
    best = ("/", "unknown")
    for point, kind in mounted:
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best


def _is_exported(path: Path) -> bool:
    """Whether this machine is itself the file server of the path."""
    for file in (Path("/etc/exports"), *sorted(Path("/etc/exports.d").glob("*.exports"))):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        exported = (line.split()[0].strip('"') for line in lines if line.strip().startswith(("/", '"/')))
        if any(path.is_relative_to(each) for each in exported):
            return True
    return False
