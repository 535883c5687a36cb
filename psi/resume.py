"""What a requester keeps on disk so that a run continues after it was interrupted.

The file (`psi.journal`) is bound to the signer's key, the run's domain and the own ids in their
order. It holds tags and match proofs, never an id, a blinding or a scalar; who can read it could
claim matches in this run, so it is removed by `discard` once the run is over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from psi.journal import Journal
from psi.records import cut


class Resume:
    """The results of one run with one peer.

    Args:
        folder: where the file lies; made if it is missing.
        peer: the signer's name.
        task: the task's name.
    """

    def __init__(self, folder: str | os.PathLike[str], *, peer: str, task: str) -> None:
        self._journal = Journal(folder, "resume", peer=peer, task=task)

    def open(self, bound: Sequence[bytes], width: int) -> Iterator[list[bytes]]:
        """The results of an earlier object that belong to `bound`; then `append` may be called."""
        return (cut(frame, width) for frame in self._journal.open(bound))

    def append(self, records: Sequence[bytes]) -> None:
        """Put results on disk, whole or not at all, before they are used."""
        self._journal.append(b"".join(records))

    def close(self) -> None:
        """Let go of the file; it stays."""
        self._journal.close()

    def discard(self) -> None:
        """Remove the file: the run is over, or is not to be continued."""
        self._journal.discard()
