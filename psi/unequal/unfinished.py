"""Keeps what the creation of a stored set has computed, so that one that was killed goes on.

The file (`psi.storage.journal`, mode 0600) begins with a digest of the domain and of the ids in
their order, and with the secret key. The outputs of the ids follow, block by block. Blocks that a
crash damaged are dropped and computed again. The file is removed when the set is complete. This
module knows no filter and no table.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Self

from psi.ecdh.oprf import make_key
from psi.errors import ChangedIdsError, IdsError, StateError, StoreError
from psi.hashing import prefixed
from psi.storage.journal import Journal

_VERSION = b"psi-set-1"
_DIGEST = 32


class Unfinished:
    """The state of one creation. A second one on the same folder is refused meanwhile.

    Args:
        folder: the folder of the stored set.
        domain: the domain of the set.
        ids: a digest of the ids in their order.
        fresh: whether to forget an interrupted creation.

    Attributes:
        key: the secret key, which is that of the interrupted creation if there is one.

    Raises:
        ChangedIdsError: the interrupted creation was of other ids or for another domain, and has
            outputs.
        StoreError: another process creates a set in the folder.
    """

    def __init__(self, folder: Path, *, domain: bytes, ids: bytes, fresh: bool = False) -> None:
        self._journal = Journal(folder, "set", peer="", task="creation")
        try:
            self.key = self._begin(sha256(prefixed(domain, ids)).digest(), fresh)
        except StateError:
            raise StoreError(f"another process creates a stored set in {folder}") from None
        except BaseException:
            self.close()
            raise

    def outputs(self) -> Iterator[bytes]:
        """Yield the outputs of the interrupted creation, block by block, from the first id on.

        Append nothing before all of them were read.
        """
        return self._frames

    def append(self, outputs: bytes) -> None:
        """Write the outputs of the next ids to disk."""
        self._journal.append(outputs, sync=False)

    def discard(self) -> None:
        """Remove the file, because the set is complete."""
        self._journal.discard()

    def close(self) -> None:
        """Close the file and keep it."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, IdsError):  # they will be others when they are corrected
            self.discard()
        self.close()

    def _begin(self, digest: bytes, fresh: bool) -> bytes:
        head = self._open()
        if head and (fresh or head[:_DIGEST] != digest):
            if not fresh and next(self._frames, None) is not None:
                raise ChangedIdsError(
                    f"the creation of a set in {self._journal.path.parent} was interrupted, and its"
                    " ids, their order or its name were others; give the same to go on, or start"
                    " anew (fresh=True, --fresh)"
                )
            self._journal.discard()
            head = self._open()
        if not head:
            head = digest + make_key()
            self._journal.append(head)
        return head[_DIGEST:]

    def _open(self) -> bytes:
        """Return the first frame of the file, or nothing if there is none."""
        self._frames = self._journal.open([_VERSION])
        return next(self._frames, b"")
