"""Holds what the objects of both parties share: own ids, temporary files and workers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Self

from psi.storage.id_list import OwnIds
from psi.storage.spill import Scratch
from psi.workers import Workers


class Side:
    """The base of signers and requesters, whose docstrings describe the arguments."""

    count: int
    """The number of own ids."""

    def __init__(
        self,
        ids: Iterable[str],
        workers: int | None,
        executor: object,
        bucket_ids: int,
        scratch: str | os.PathLike[str] | None,
    ) -> None:
        if isinstance(ids, OwnIds):
            bucket_ids = min(bucket_ids, ids.bucket_ids)
        self._scratch = Scratch(bucket_ids, scratch)
        self._workers = Workers(workers, executor)
        self._borrows = isinstance(ids, OwnIds)
        self._ids = (
            ids if isinstance(ids, OwnIds) else OwnIds(ids, bucket_ids=bucket_ids, scratch=scratch)
        )
        self.count = len(self._ids)

    def close(self) -> None:
        """Forget everything and remove the files. An `OwnIds` that the caller gave stays open."""
        if not self._borrows:
            self._ids.close()
        self._workers.close()
        self._scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
