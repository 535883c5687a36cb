"""Counts on disk how many values this machine has processed for a peer in a task.

Each value that a signer signs, and each tag that a requester matches, lets the peer test one guess.
A peer that may start any number of runs could test a whole phone book. The count survives restarts.
It is written and synced before the counted work is done, so a crash in between costs the peer some
of its values and never gives it more.

Each peer and task has one small file in a folder that the caller names. The file's name is a hash,
so any string can be a name of a peer. A file that cannot be read is refused and not restarted from
zero. Whoever can write to the folder can reset the count: it protects against peers, not against
users of this machine. This module knows no keys.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from psi.errors import BudgetError, LimitError
from psi.storage.files import file_lock, private_folder, put_in_place, read

_LOCK_SECONDS = 30
_SIGNED = "signed values"


class Budget:
    """The count of one peer and task.

    Args:
        folder: the folder of the file; it is created if it is missing.
        peer: the peer's name.
        task: the task's name.
        counts: a description of the counted things; each description has its own count.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        peer: str,
        task: str,
        counts: str = _SIGNED,
    ) -> None:
        parts = [part.encode("utf-8", "surrogatepass") for part in (peer, task)]
        named = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        kind = b"" if counts == _SIGNED else counts.encode()
        self._counts = counts
        self._name = sha256(b"psi-budget" + kind + named).hexdigest()
        self._path = Path(folder) / f"{self._name}.json"

    def spent(self) -> int:
        """Return the number of values that were counted so far, over all runs.

        Raises:
            BudgetError: the file is damaged.
        """
        try:
            raw = read(self._path)
        except FileNotFoundError:
            return 0
        # A damaged or edited file must not be taken for a count of zero.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            record = json.loads(raw)
            signed = record["signed"]
            if type(signed) is int and signed >= 0 and record["check"] == self._check(signed):
                return signed
        raise BudgetError(
            f"the count of signed values in {self._path} cannot be read; "
            "restore it, or remove it only if this peer may start from zero"
        )

    def require(self, count: int, limit: int) -> None:
        """Raise `LimitError` if `count` more values would exceed `limit`. Nothing is recorded."""
        self._within(self.spent(), count, limit)

    def spend(self, count: int, limit: int) -> None:
        """Record `count` more values on disk, or raise `LimitError` and record nothing."""
        private_folder(self._path.parent)
        with self._locked():
            spent = self.spent()
            self._within(spent, count, limit)
            self._write(spent + count)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import Timeout

        lock = file_lock(self._path.with_suffix(".lock"), _LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            busy = f"another process has held this file for {_LOCK_SECONDS} s"
            raise TimeoutError(errno.ETIMEDOUT, busy, lock.lock_file) from None
        try:
            yield
        finally:
            lock.release()

    def _write(self, signed: int) -> None:
        record = json.dumps({"signed": signed, "check": self._check(signed)})
        put_in_place(self._path, record.encode())

    def _check(self, signed: int) -> str:
        return sha256(f"{self._name}:{signed}".encode()).hexdigest()

    def _within(self, spent: int, count: int, limit: int) -> None:
        if spent + count > limit:
            raise LimitError(
                f"the peer asks for {count} more {self._counts}; {spent} of the {limit} allowed in"
                " this task are spent, in this run and earlier ones"
            )
