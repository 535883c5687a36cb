"""Runs calls on a Dask cluster, whose scheduler is found by its address."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import Any

from psi.errors import ExecutorError
from psi.executors.pool import CONNECT_SECONDS, Pool, Work, WorkerLostError, library

_LOOKS = 2.0
"""The time between two looks whether the scheduler is still there, in seconds."""


class Dask(Pool):
    """A Dask cluster, by the extra `heterofed[dask]`.

    Args:
        address: "dask://host:port", or "dask+tls://host:port", for which Dask's own configuration
            names the certificates.
    """

    elsewhere = True

    def __init__(self, address: str) -> None:
        self.name = address
        self._distributed = distributed = library("distributed", "dask", address)
        scheme, place = address.split("://")
        where = ("tls://" if scheme.endswith("+tls") else "tcp://") + place
        try:
            self._client = distributed.Client(
                where, timeout=CONNECT_SECONDS, set_as_default=False, name="psi"
            )
        except (OSError, TimeoutError, RuntimeError, ValueError) as error:
            raise self._gone() from error
        self.slots = self._slots()

    def attempt(self, work: Work, parts: Sequence[bytes], seconds: float) -> object:
        """See `Pool.attempt`."""
        ends = time.monotonic() + seconds
        try:
            future = self._client.submit(work, *parts, pure=False)
        except (OSError, RuntimeError) as error:
            raise self._gone() from error
        try:
            return self._result(future, ends)
        except self._distributed.KilledWorker:
            raise WorkerLostError from None
        except (CancelledError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            if self._client.status != "running":
                raise self._gone() from error
            raise WorkerLostError from None
        finally:
            with contextlib.suppress(Exception):  # a client that has lost its scheduler
                future.cancel()

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=CONNECT_SECONDS)

    def _result(self, future: Any, ends: float) -> object:
        while True:
            left = ends - time.monotonic()
            try:
                return future.result(timeout=max(0.0, min(_LOOKS, left)))
            except TimeoutError:
                if self._client.status != "running":
                    raise self._gone() from None
                if left <= _LOOKS:
                    raise

    def _slots(self) -> int:
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            return sum(self._client.nthreads().values())
        except (OSError, TimeoutError) as error:
            self.close()
            raise ExecutorError(
                f"{self.name} has no workers; start some, such as: dask worker"
                f" {self.name.split('://')[1]}"
            ) from error

    def _gone(self) -> ExecutorError:
        return ExecutorError(
            f"{self.name} does not answer; start the scheduler there (dask scheduler), or correct"
            " the address of the executor"
        )
