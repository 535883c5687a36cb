"""What a requester keeps on disk so that a run continues after it was interrupted.

One file per peer and task, readable by this user only. It begins with a random salt and a digest,
keyed with it, of what the results belong to: the signer's key, the run's domain, the own ids in
their order. Anything else than exactly these makes the file worthless, and it is begun anew.

Then come frames: a length, unblinded results, and a keyed digest over both and the digest before.
A frame is synced before its results are used. A torn or changed frame ends what is read, and what
follows is dropped. The file holds tags and match proofs, never an id, a blinding or a scalar; who
can read it could claim matches in this run, so it is removed by `discard` once the run is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path

from psi.errors import StateError
from psi.hashing import prefixed
from psi.records import cut

_SALT = 32
_DIGEST = 16
_LENGTH = 4


class Resume:
    """The results of one run with one peer.

    Args:
        folder: where the file lies; made if it is missing.
        peer: the signer's name.
        task: the task's name.
    """

    def __init__(self, folder: str | os.PathLike[str], *, peer: str, task: str) -> None:
        parts = [part.encode("utf-8", "surrogatepass") for part in (peer, task)]
        name = sha256(b"psi-resume" + prefixed(*parts)).hexdigest()
        self._path = Path(folder) / f"{name}.psi"
        self._salt = self._last = b""
        self._file: int | None = None

    def open(self, bound: Sequence[bytes], width: int) -> Iterator[list[bytes]]:
        """The results of an earlier object that belong to `bound`; then `append` may be called."""
        if self._file is not None:
            raise StateError("this Resume is in use; make one per requester")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Closed when the process ends: it is needed as long as results come.
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        self._salt = os.pread(self._file, _SALT, 0)
        self._last = self._digest(prefixed(*bound))
        end = _SALT + _DIGEST
        if size < end or os.pread(self._file, _DIGEST, _SALT) != self._last:
            end = self._begin(prefixed(*bound))
        while (frame := self._frame(end)) is not None and len(frame) % width == 0:
            end += _LENGTH + len(frame) + _DIGEST
            yield cut(frame, width)
        os.ftruncate(self._file, end)
        os.lseek(self._file, end, os.SEEK_SET)

    def append(self, records: Sequence[bytes]) -> None:
        """Put results on disk, whole or not at all."""
        if self._file is None:
            raise StateError("append was called before open")
        data = b"".join(records)
        head = len(data).to_bytes(_LENGTH, "big")
        self._last = self._digest(self._last + head + data)
        rest = memoryview(head + data + self._last)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        """Remove the file: the run is over, or is not to be continued."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _begin(self, bound: bytes) -> int:
        if self._file is None:
            raise StateError("the file is closed")
        self._salt = os.urandom(_SALT)
        self._last = self._digest(bound)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self._salt + self._last, 0)
        os.fsync(self._file)
        return _SALT + _DIGEST

    def _frame(self, at: int) -> bytes | None:
        if self._file is None:
            return None
        head = os.pread(self._file, _LENGTH, at)
        length = int.from_bytes(head, "big")
        rest = os.pread(self._file, length + _DIGEST, at + _LENGTH)
        data, digest = rest[:length], rest[length:]
        if len(head) < _LENGTH or self._digest(self._last + head + data) != digest:
            return None
        self._last = digest
        return data

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST, key=self._salt).digest()
