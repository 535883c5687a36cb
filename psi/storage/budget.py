"""How much this machine has done for a peer in a task, kept on disk. Knows no keys.

Each value that a signer signs, and each tag that a requester matches, lets the peer test one guess,
so a peer that may start run after run could walk through a phone book. The count survives restarts,
and is written and synced before what it counts: a crash in between costs the peer values, never the
other way round.

One small file per peer and task in a folder that the caller names; the file's name is a hash, so
any string is safe. A file that cannot be read is refused, not started over. Whoever can write to
the folder can reset the count: it protects against peers, not against this machine's users.
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
        folder: where it is kept; made if it is missing.
        peer: the peer's name.
        task: the task's name.
        counts: what it counts, in words; each has a count of its own.
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
        """Values signed so far, over all runs."""
        try:
            raw = read(self._path)
        except FileNotFoundError:
            return 0
        # A half-written or edited file must not count as nothing signed.
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
        """BudgetError unless `count` more values would stay within `limit`; records nothing."""
        self._within(self.spent(), count, limit)

    def spend(self, count: int, limit: int) -> None:
        """Record `count` more values on disk, or BudgetError and nothing recorded."""
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
