"""Answers requests for one version at a Collaborator: limits, cache, hooks, defence, log."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch

from heterofed.compute.features import FeatureBatch
from heterofed.compute.packed_ids import PackedIds
from heterofed.compute.tensors import pack
from heterofed.errors import FeatureError, ReleaseLimitError, RequestError
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.serve.feature_store import FeatureStore, Rows
from heterofed.hetero_nn.serve.own_features import OwnFeatures
from heterofed.hetero_nn.serve.row_quota import RowQuota
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.hetero_nn.serve.sessions import shown
from heterofed.hetero_nn.train.collaborator_guard import CollaboratorGuard
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.privacy.passes import Pass
from heterofed.protocol import messages as msg
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.runs.beside import log_request
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

LOG_SECONDS = 60.0
"""The seconds after which the requests since the last line are written to the log."""


class Answers:
    """Answers the requests of one session for one version of the model.

    Args:
        half: the half of this party.
        guard: counts and defends what is sent.
        limits: what the Host may ask for.
        run: the run of the session.
        host: the Host.
        ids: the ids of the table, sorted.
        version: the version of both halves of the model.
        quota: the limits on rows.
        log: gets what was asked, without ids.
    """

    def __init__(
        self,
        half: Half[HalfModels],
        guard: CollaboratorGuard,
        limits: ServeLimits,
        run: Run,
        host: Peer,
        ids: PackedIds,
        version: bytes,
        quota: RowQuota,
        log: RequestLog,
    ) -> None:
        self._run, self._host, self._party, self._guard = run, host, run.party, guard
        self._ids, self._version = ids, version
        self._quota, self._log = quota, log
        self._store = FeatureStore(len(ids), limits.max_age)
        self._features = OwnFeatures(half, limits.load_timeout)
        # What is sent again is the same. So without a defence each row is counted when a period
        # begins, in which it is sent once at most; with one, it is counted when it is first sent.
        settings = half.settings
        limited = settings.release_limits.are_set or run.plan.limits != LeakLimits()
        self._counts_rows = limited or getattr(settings, "embedding_defence", None) is not None
        self._released = 0

    def close(self) -> None:
        """Wait for no hook any more, and end what counts releases."""
        self._features.close()
        self._guard.close()

    def answer(self, request: msg.ServeRequest, rows: Rows) -> None:
        """Answer a request for some rows of the table."""
        fresh = self._fresh(rows)
        if wait := self._quota.grant(len(fresh)) if len(fresh) else 0:
            self._refuse(request, "limit", retry_after=wait)
            return
        try:
            self._compute(fresh)
        except ReleaseLimitError:
            self._refuse(request, "limit")
            return
        except RequestError as error:
            self._refuse(request, "late", retry_after=error.retry_after or 0)
            return
        except Exception as error:
            logger.error("a request is refused: %s", shown(error))
            self._refuse(request, "failed")
            return
        found = self._store.take(rows)
        specs, payload = pack(found.tensors, self._host.session.feature_coding, self._party.name)
        answer = msg.ServeAnswer(request.number, len(rows), self._version, found.layout, specs)
        self._party.post(self._host, answer, payload)
        self._log.note(len(rows), len(fresh))

    def _fresh(self, rows: Rows) -> Rows:
        """Return the rows to compute, and count all rows if a new period begins."""
        if self._store.begin_request(time.monotonic()) and not self._counts_rows:
            self._count(self._ids)
        return self._store.missing(rows)

    def _compute(self, rows: Rows) -> None:
        """Count and compute the features of rows, defend them, and keep what is sent."""
        if not len(rows):
            return
        ids = self._ids.pick(rows)
        if self._counts_rows:
            self._count(ids)
        batch = self._features.of(ids)
        if batch is None:
            raise FeatureError("iterate_predict_feature yields no features; yield one row per id")
        self._party.batch = self._released  # each release has noise of its own
        self._store.put(rows, self._guard.outgoing(batch, self._released, testing=True))
        self._released += 1

    def _count(self, ids: Sequence[str]) -> None:
        """Count one release of rows in the ledger, before it is sent."""
        self._run.passing = Pass("predict", ids)
        self._guard.leaves(FeatureBatch("tensor", {"": torch.empty(len(ids), 0)}))

    def _refuse(self, request: msg.ServeRequest, why: Any, *, retry_after: int = 0) -> None:
        refuse(self._party, self._host, request, why, retry_after=retry_after)
        self._log.note(0, 0, refused=1)


def refuse(
    party: Party, host: Peer, request: msg.ServeRequest, why: Any, *, retry_after: int = 0
) -> None:
    """Answer a request by the reason why it is refused."""
    number, version = request.number, request.version
    # If the clock was set back, the next period begins after more than a day.
    wait = min(max(0, retry_after), msg.MAX_RETRY_SECONDS)
    answer = msg.ServeAnswer(number, 0, version, refused=why, retry_after=wait)
    party.post(host, answer)


class RequestLog:
    """Writes to `log.jsonl` how much was asked, once in `LOG_SECONDS`, and never which rows.

    Args:
        run: the run of the session.
        host: the feature key of the Host.
    """

    def __init__(self, run: Run, host: str) -> None:
        self._run, self._host = run, host
        self._counts = dict.fromkeys(("requests", "rows", "computed", "refused"), 0)
        self._due = time.monotonic() + LOG_SECONDS

    def note(self, rows: int, computed: int, *, refused: int = 0) -> None:
        """Count a request."""
        for name, more in zip(self._counts, (1, rows, computed, refused), strict=True):
            self._counts[name] += more
        self.tick()

    def tick(self) -> None:
        """Write a line if it is time for one."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the counts since the last line, if there are any.

        Raises:
            ResultsError: the line cannot be written.
        """
        self._due = time.monotonic() + LOG_SECONDS
        if self._counts["requests"]:
            log_request(self._run, host=self._host, **self._counts)
            self._counts = dict.fromkeys(self._counts, 0)
