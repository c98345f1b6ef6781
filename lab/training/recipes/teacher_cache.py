"""A cache of a teacher's outputs on training batches, one file per step, so that each is computed only once.

    <cache>/teachers/<digest>/  about.json  <thousands of steps>/<step>-<first sequence>-<digest of the tokens>.bin

A folder belongs to one teacher and the settings that its outputs depend on, which are in `about.json`. The name of a
file contains the digest of its tokens, so that it can't be mistaken for other text, another order or another batch.
Files are written atomically, under a lock: students that run at the same time wait for each other's steps. After an
interruption all finished steps remain.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.data.cache import locked, write_atomically
from lab.data.content import digest_of
from lab.data.errors import DataError
from lab.records import write_bytes
from lab.training.recipes.target_options import bytes_per_token
from lab.training.recipes.targets import TargetSelection, TeacherTargets
from lab.units import count

_VERSION = 1
_CHECKSUM = 4


class TeacherCache:
    """The cached outputs of one teacher with one selection.

    Attributes:
        folder: the folder of the files.
        bytes: size of the outputs for the whole run.
    """

    def __init__(
        self,
        cache: Path,
        origin: Mapping[str, object],
        selection: TargetSelection,
        vocab_size: int,
        *,
        tokens_per_step: int,
        steps: int,
    ) -> None:
        """
        Args:
            cache: the lab's cache folder.
            origin: the teacher's identity and all settings that its outputs depend on, apart from the tokens.
            vocab_size: every token is below it.
            tokens_per_step, steps: the size of the run.
        """
        self._about = {"version": _VERSION, **origin}
        self.folder = cache / "teachers" / digest_of(self._about)[:32]
        self._selection = selection
        self._ids = np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
        self._step_bytes = bytes_per_token(selection.targets, selection.k, vocab_size) * tokens_per_step
        self._steps = steps
        self.bytes = self._step_bytes * steps
        self._written = 0

    def print_size(self) -> None:
        """Print the size and the folder of the outputs to standard error, which is part of a run's log."""
        message = f"the teacher's outputs take {count(self.bytes)}B for {self._steps:,} steps, in {self.folder}"
        print(message, file=sys.stderr, flush=True)

    def facts(self) -> dict[str, object]:
        """The entry in a run's summary; `written_bytes` are those of its last attempt."""
        return {"folder": str(self.folder), "bytes": self.bytes, "written_bytes": self._written}

    def at(self, step: int, first: int, inputs: Tensor, compute: Callable[[], TeacherTargets]) -> TeacherTargets:
        """The teacher's targets for the tokens of a step: read from the cache, or computed and stored.

        Args:
            first: index of the first sequence in the global batch.
            inputs: int64 [B, T].
            compute: computes the targets.

        Raises:
            DataError: the cache can't be written.
            OSError: the disk doesn't have enough space for the rest of the run.
        """
        digest = hashlib.sha256(f"{list(inputs.shape)}\n".encode() + inputs.cpu().numpy().tobytes()).hexdigest()
        path = self.folder / f"{step // 1000:05d}" / f"{step:08d}-{first}-{digest[:32]}.bin"
        shape = (*inputs.shape, self._selection.k)
        targets = self._read(path, shape)
        if targets is None:
            try:
                targets = self._make(path, shape, step, compute)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(
                    f"{self.folder}: the cache can't be written ({error}); LAB_CACHE names another folder"
                ) from error
        return targets.to(inputs.device)

    def _make(
        self, path: Path, shape: tuple[int, ...], step: int, compute: Callable[[], TeacherTargets]
    ) -> TeacherTargets:
        self._check_room(step)
        lock = path.with_suffix(".lock")
        with locked(lock, lambda: None) as is_locked:
            if (existing := self._read(path, shape)) is None:
                content = self._pack(compute())
                if is_locked:
                    for stale in path.parent.glob(f".{path.name}.*"):
                        stale.unlink()
                write_bytes(path, content)
                self._written += len(content)
            # A process that opens a new lock from now on finds the file.
            with suppress(OSError):
                lock.unlink()
        return existing if existing is not None else self._unpack(content, shape)

    def _check_room(self, step: int) -> None:
        """Check the free space once, before the first write. If the disk fills up later, that write fails."""
        if self._written:
            return
        write_atomically(self.folder / "about.json", json.dumps(self._about, indent=1) + "\n")
        n_needed, n_free = self._step_bytes * (self._steps - step), shutil.disk_usage(self.folder).free
        if n_needed > n_free:
            raise OSError(
                errno.ENOSPC,
                f"No space left on device: the teacher's outputs take {count(n_needed)}B more, {count(n_free)}B are "
                "free; recipe.cache=false needs none, a smaller recipe.k less",
                str(self.folder),
            )

    def _pack(self, targets: TeacherTargets) -> bytes:
        content = targets.tokens.cpu().numpy().astype(self._ids).tobytes()
        content += targets.values.float().cpu().numpy().astype("<f4").tobytes()
        return content + zlib.crc32(content).to_bytes(_CHECKSUM, "little")

    def _read(self, path: Path, shape: tuple[int, ...]) -> TeacherTargets | None:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        is_complete = zlib.crc32(content[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") == content[-_CHECKSUM:]
        return self._unpack(content, shape) if is_complete else None

    def _unpack(self, content: bytes, shape: tuple[int, ...]) -> TeacherTargets:
        tokens = np.frombuffer(content, self._ids, math.prod(shape))
        values = torch.from_numpy(np.frombuffer(content[tokens.nbytes : -_CHECKSUM], "<f4").copy())
        ids = torch.from_numpy(tokens.astype(np.int64)).view(shape)
        if self._selection.targets == "sampled":
            return TeacherTargets(ids, entropy=values.view(shape[:-1]))
        return TeacherTargets(ids, values.view(shape))
