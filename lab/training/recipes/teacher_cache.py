"""What a teacher says of the batches of training, kept as one file a step, so that its forward passes are made once.

    <cache>/teachers/<digest>/  about.json  <thousands of steps>/<step>-<first sequence>-<digest of the tokens>.bin

A folder is for one teacher and all that its outputs depend on besides the text: `about.json` says what. A file is named
after the very tokens that it is about, so that no other text, order or batch can be taken for it. It is whole or
absent, and made under a lock by whoever needs it first; students that start together wait for each other's steps, and
one that is interrupted leaves every step that it had made.
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
from lab.training.recipes.target_options import bytes_a_token
from lab.training.recipes.targets import Few, TargetSelection
from lab.units import count

_VERSION = 1
_CHECKSUM = 4


class TeacherCache:
    """The kept outputs of one teacher, in one form.

    Attributes:
        folder: where they lie.
        bytes: what those of the whole run take.
    """

    def __init__(
        self,
        cache: Path,
        made_by: Mapping[str, object],
        selection: TargetSelection,
        vocab_size: int,
        *,
        tokens_per_step: int,
        steps: int,
    ) -> None:
        """
        Args:
            cache: the lab's.
            made_by: the teacher's identity and all that its outputs depend on besides the tokens that it is shown.
            vocab_size: every token is below it.
            tokens_per_step, steps: of the run.
        """
        self._about = {"version": _VERSION, **made_by}
        self.folder = cache / "teachers" / digest_of(self._about)[:32]
        self._selection = selection
        self._ids = np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")
        self._step_bytes = bytes_a_token(selection.targets, selection.k, vocab_size) * tokens_per_step
        self._steps = steps
        self.bytes = self._step_bytes * steps
        self._written = 0

    def announce(self) -> None:
        """Say on standard error, which a run's log holds, where the outputs are kept and what they take."""
        said = f"the teacher's outputs take {count(self.bytes)}B for {self._steps:,} steps, in {self.folder}"
        print(said, file=sys.stderr, flush=True)

    def facts(self) -> dict[str, object]:
        """What a run's summary says; `written_bytes` are those that its last attempt added."""
        return {"folder": str(self.folder), "bytes": self.bytes, "written_bytes": self._written}

    def at(self, step: int, first: int, inputs: Tensor, say: Callable[[], Few]) -> Few:
        """What the teacher says of a step's tokens: read, or made and kept.

        Args:
            first: index of the first sequence in the step's global batch.
            inputs: [B, T]
            say: makes it.
        Raises:
            DataError: the cache can't be written.
            OSError: there is no room on the disk for what is left of the run.
        """
        seen = hashlib.sha256(f"{list(inputs.shape)}\n".encode() + inputs.cpu().numpy().tobytes()).hexdigest()
        path = self.folder / f"{step // 1000:05d}" / f"{step:08d}-{first}-{seen[:32]}.bin"
        shape = (*inputs.shape, self._selection.k)
        kept = self._read(path, shape)
        if kept is None:
            try:
                kept = self._make(path, shape, step, say)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(
                    f"{self.folder}: the cache can't be written ({error}); LAB_CACHE names another folder"
                ) from error
        return kept.to(inputs.device)

    def _make(self, path: Path, shape: tuple[int, ...], step: int, say: Callable[[], Few]) -> Few:
        self._check_room(step)
        lock = path.with_suffix(".lock")
        with locked(lock, lambda: None) as alone:
            if (theirs := self._read(path, shape)) is None:
                content = self._packed(say())
                if alone:
                    for left_over in path.parent.glob(f".{path.name}.*"):
                        left_over.unlink()
                write_bytes(path, content)
                self._written += len(content)
            # Whoever opens another lock from here on finds the file.
            with suppress(OSError):
                lock.unlink()
        return theirs if theirs is not None else self._unpacked(content, shape)

    def _check_room(self, step: int) -> None:
        """Once, before the first write: a disk that fills up later fails that step's write."""
        if self._written:
            return
        write_atomically(self.folder / "about.json", json.dumps(self._about, indent=1) + "\n")
        needed, free = self._step_bytes * (self._steps - step), shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"No space left on device: the teacher's outputs take {count(needed)}B more, {count(free)}B are free; "
                "recipe.cache=false needs none, a smaller recipe.k less",
                str(self.folder),
            )

    def _packed(self, few: Few) -> bytes:
        content = few.tokens.cpu().numpy().astype(self._ids).tobytes()
        content += few.values.float().cpu().numpy().astype("<f4").tobytes()
        return content + zlib.crc32(content).to_bytes(_CHECKSUM, "little")

    def _read(self, path: Path, shape: tuple[int, ...]) -> Few | None:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        whole = zlib.crc32(content[:-_CHECKSUM]).to_bytes(_CHECKSUM, "little") == content[-_CHECKSUM:]
        return self._unpacked(content, shape) if whole else None

    def _unpacked(self, content: bytes, shape: tuple[int, ...]) -> Few:
        tokens = np.frombuffer(content, self._ids, math.prod(shape))
        values = torch.from_numpy(np.frombuffer(content[tokens.nbytes : -_CHECKSUM], "<f4").copy())
        ids = torch.from_numpy(tokens.astype(np.int64)).view(shape)
        if self._selection.targets == "sampled":
            return Few(ids, entropy=values.view(shape[:-1]))
        return Few(ids, values.view(shape))
