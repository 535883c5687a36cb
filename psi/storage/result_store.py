"""What a requester keeps on disk: for a run that was interrupted, and for later ones.

The file (`psi.storage.journal`) is bound to the signer's key, the run's domain and the own ids in
their order. It holds tags, match proofs and a seed that blinding is drawn from, never an id: who
can read it could claim matches under that key and unblind what was sent, as long as the signer
answers. A signer that comes with the same key is asked for what is missing alone, by the same bytes
as before, and has to send the same tags as before: so nothing new is learnt, and nothing counts
twice.
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

_DIGEST = 32  # of all tags; records are multiples of 40 bytes


class Resume:
    """The results of one requester with one signer.

    Args:
        folder: where the file lies; made if it is missing.
        peer: the signer's name.
        task: the task's name.

    Attributes:
        known: whether the file was begun with this key, domain and ids by an earlier object.
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
        """The results of an earlier object that belong to `bound`; then `append` may be called."""
        self._tags = b""
        for frame in self._journal.open(bound):
            if len(frame) == _DIGEST:
                self._tags = frame
            else:
                yield cut(frame, width)
        self.known = self._journal.known

    def random(self, purpose: bytes) -> RandomBytes:
        """Random bytes that are the same for the same purpose, as long as the file is."""
        return stream(self._journal.seed, purpose)

    def append(self, records: Sequence[bytes]) -> None:
        """Put results on disk, whole or not at all, before they are used."""
        self._journal.append(b"".join(records))

    def check_tags(self, digest: bytes) -> None:
        """`ValueRefusedError` where other tags were accepted under this key before."""
        if self._tags and not hmac.compare_digest(self._tags, digest):
            raise ValueRefusedError("other tags came than before under the same key")

    def note_tags(self, digest: bytes) -> None:
        """Put on disk which tags were accepted."""
        if not self._tags:
            self._tags = digest
            self._journal.append(digest)

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._journal.close()

    def discard(self) -> None:
        """Remove the file: the run is over, or is not to be continued."""
        self._journal.discard()
