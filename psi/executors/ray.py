"""Runs calls on a Ray cluster, whose head is found by its address."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from psi.errors import ExecutorError
from psi.executors.pool import Pool, Work, WorkerLostError, library


class Ray(Pool):
    """A Ray cluster, by the extra `heterofed[ray]`.

    Args:
        address: "ray://host:port" of the head's client server, usually at port 10001, or
            "ray://auto" for the cluster that this machine belongs to.
    """

    elsewhere = True

    def __init__(self, address: str) -> None:
        self.name = address
        self._ray = ray = library("ray", "ray", address)
        self._remote: dict[Work, Any] = {}
        self._owns = not ray.is_initialized()
        try:
            if self._owns:
                where = "auto" if address == "ray://auto" else address
                ray.init(where, log_to_driver=False, logging_level="error")
            self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        except Exception as error:  # Ray raises many kinds, some of which are not public
            raise self._gone() from error

    def attempt(self, work: Work, parts: Sequence[bytes], seconds: float) -> object:
        """See `Pool.attempt`."""
        lost = self._ray.exceptions
        try:
            if work not in self._remote:
                self._remote[work] = self._ray.remote(max_retries=0)(work)
            return self._ray.get(self._remote[work].remote(*parts), timeout=seconds)
        except lost.GetTimeoutError:
            raise TimeoutError from None
        except lost.RayTaskError as error:
            raise error.cause from None
        except (
            lost.WorkerCrashedError,
            lost.NodeDiedError,
            lost.ObjectLostError,
            lost.OutOfMemoryError,
        ):
            raise WorkerLostError from None
        except (lost.RayError, ConnectionError) as error:
            raise self._gone() from error

    def close(self) -> None:
        """Leave the cluster, unless the caller had joined it before."""
        if self._owns:
            with contextlib.suppress(Exception):
                self._ray.shutdown()

    def _gone(self) -> ExecutorError:
        return ExecutorError(
            f"{self.name} does not answer; start the cluster's head there (ray start --head"
            " --ray-client-server-port 10001), or correct the address of the executor"
        )
