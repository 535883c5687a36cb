"""Keeps a requester's results on disk, for an interrupted run and for later runs.

The file (`psi.storage.journal`) is bound to the signer's key, the run's domain and the own ids in
their order. It holds tags, match proofs and a seed for the blinding factors, and never an id.
Whoever can read it could claim matches under that key, and could unblind what was sent, as long as
the signer answers. A signer with the same key is asked only for the missing values, with the same
bytes as before, and must send the same tags as before. So the parties learn nothing new, and
nothing is counted twice.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator, Sequence

from psi.arithmetic import RandomBytes
from psi.errors import ValueRefusedError
from psi.hashing import stream
from psi.storage.journal import Journal
from psi.storage.spill import cut

_DIGEST = 32  # bytes of the digest of all tags; frames of records are multiples of 40 bytes


class Resume:
    """The results of one requester with one signer.

    Args:
        folder: the folder of the file; it is created if it is missing.
        peer: the signer's name.
        task: the task's name.

    Attributes:
        known: whether an earlier object created the file with the same key, domain and ids.
        tagged: whether all tags were accepted before.
    """

    def __init__(self, folder: str | os.PathLike[str], *, peer: str, task: str) -> None:
        self._journal = Journal(folder, "resume", peer=peer, task=task)
        self._tags = b""
        self.known = False

    @property
    def tagged(self) -> bool:
        return bool(self._tags)

    def open(self, bound: Sequence[bytes], width: int) -> Iterator[list[bytes]]:
        """Yield the results of an earlier object that are bound to `bound`.

        `append` may be called after all results were read.
        """
        self._tags = b""
        for frame in self._journal.open(bound):
            if len(frame) == _DIGEST:
                self._tags = frame
            else:
                yield cut(frame, width)
        self.known = self._journal.known

    def random(self, purpose: bytes) -> RandomBytes:
        """Return a source of random bytes that are the same for the same file and purpose."""
        return stream(self._journal.seed, purpose)

    def append(self, records: Sequence[bytes]) -> None:
        """Write results to disk atomically, before they are used."""
        self._journal.append(b"".join(records))

    def check_tags(self, digest: bytes) -> None:
        """Raise `ValueRefusedError` if other tags were accepted under this key before."""
        if self._tags and not hmac.compare_digest(self._tags, digest):
            raise ValueRefusedError("the peer sent other tags than before under the same key")

    def note_tags(self, digest: bytes) -> None:
        """Record on disk which tags were accepted."""
        if not self._tags:
            self._tags = digest
            self._journal.append(digest)

    def forget_tags(self) -> None:
        """Accept other tags than before. The caller counts them anew."""
        self._tags = b""

    def close(self) -> None:
        """Close the file and keep it on disk."""
        self._journal.close()

    def discard(self) -> None:
        """Remove the file, because the run is over or will not be continued."""
        self._journal.discard()
