"""Serves rows at a Collaborator, which answers a Host's requests over a standing link."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.features import FeatureBatch
from heterofed.compute.tensors import pack
from heterofed.errors import ConfigError, FeatureError, OtherRunError, ReleaseLimitError
from heterofed.hetero_nn.half_task import CollaboratorHalfTask
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.predict.models import load_models
from heterofed.hetero_nn.predict.quota import today
from heterofed.hetero_nn.serve import agreed_table
from heterofed.hetero_nn.serve.agreed_table import AgreedTable, half_digest, joint_version
from heterofed.hetero_nn.serve.feature_store import FeatureStore, Rows
from heterofed.hetero_nn.serve.own_features import own_features
from heterofed.hetero_nn.serve.row_quota import RowQuota
from heterofed.hetero_nn.serve.sessions import StandingTask, keep_open, shown
from heterofed.intersection.collaborator import intersect_as_collaborator
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.peer import Mail, Peer
from heterofed.privacy.passes import Pass
from heterofed.protocol import messages as msg
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.rendezvous.agreement import Earlier
from heterofed.runs.artifacts import Trained, read_trained, trained_here
from heterofed.runs.beside import BesideTask, log_request
from heterofed.runs.extra_modules import EXTRA
from heterofed.runs.run import Run
from heterofed.runs.settings import is_count

logger = logging.getLogger("heterofed")

IDLE_SECONDS = 0.5
"""The longest time in seconds between two looks at the link while no request comes."""

LOG_SECONDS = 60.0
"""The seconds after which the requests since the last line are written to the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """The limits on what a Host may ask a Collaborator for.

    Attributes:
        max_rows_per_day: the most rows that are computed per day (UTC).
        max_rows_per_minute: the same per minute; None sets no limit.
        max_ids_per_day: the most ids that are intersected per day; None takes `max_peer_ids`.
        allow_ids: the rows that may be served; None allows all of `load_local_ids`.
        max_age: the time in seconds for which the features of a row are kept and sent again; 0
            computes them anew for each request.
    """

    max_rows_per_day: int
    max_rows_per_minute: int | None = None
    max_ids_per_day: int | None = None
    allow_ids: frozenset[str] | None = None
    max_age: float = 3600.0

    def check(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one of them is wrong; the message names it.
        """
        for name in ("max_rows_per_day", "max_rows_per_minute", "max_ids_per_day"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise ConfigError(f"{name}={value!r}: give a whole number from 0 on")
        if not 0 <= self.max_age < float("inf"):
            raise ConfigError(f"max_age={self.max_age!r}: give seconds, 0 or more")


def serve_rows(
    collaborator: CollaboratorHooks,
    task_id: str,
    limits: ServeLimits,
    *,
    stop: threading.Event | None = None,
) -> int:
    """Answer a Host's requests for single rows until interrupted; see `heterofed serve`.

    Args:
        collaborator: the scheduler with the hooks.
        task_id: the id of the finished task.
        limits: what the Host may ask for.
        stop: ends the link once it is set.

    Returns:
        The number of requests that were answered.

    Raises:
        ConfigError: a setting or file of this party is wrong, or there is no finished run.
    """
    limits.check()
    return keep_open(lambda: Serving(collaborator, limits), task_id, stop or threading.Event())


class Serving(StandingTask, BesideTask, CollaboratorHalfTask):
    """One session of a standing link, with the hooks of a Collaborator's scheduler.

    Args:
        collaborator: the scheduler with the hooks.
        limits: what the Host may ask for.
    """

    purpose = "serve"
    subfolder = "serving"

    def __init__(self, collaborator: CollaboratorHooks, limits: ServeLimits) -> None:
        super().__init__(collaborator)
        self.limits = self._limits = limits
        self._trained: Trained
        self._own: list[str]
        self._kept: AgreedTable | None = None

    def check(self, run: Run) -> None:
        """Load the model and the ids, so that errors show before the party waits for the Host."""
        self._trained = trained_here(run)
        if self._trained.fusion == "masked_sum":
            raise ConfigError(
                "rows are not served with fusion='masked_sum': features that only a sum was to show"
                " would reach the Host one by one; train with fusion='separate' to serve"
            )
        run.predicts = True
        # Noise must never repeat, also not where a seed makes all else repeat.
        run.noise = secrets.token_bytes(32)
        load_models(self._trained, self.half)
        self.half.signature.serve(self._trained)
        ids = check_ids(self.hooks.call("load_local_ids"))
        self.half.signature.compare_columns()
        allowed = self._limits.allow_ids
        self._own = sorted(ids if allowed is None else allowed.intersection(ids))
        if not self._own:
            raise ConfigError("allow_ids leaves no id of load_local_ids to serve; give others")
        self._kept = agreed_table.kept(run.result.folder, self._own)

    def held(self, run: Run) -> Earlier | None:  # noqa: ARG002
        """Return the table of today, if there is one."""
        return self._kept.earlier if self._kept else None

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._trained.run.hex()

    def perform(self, run: Run) -> None:
        """Agree on the rows and the version, and answer requests until the Host ends the link."""
        (host,) = run.party.peers.values()
        self.met = True
        ids = self._ids_in_common(run, host)
        version = self._agree(run, host, ids)
        limits = {"minute": self._limits.max_rows_per_minute, "day": self._limits.max_rows_per_day}
        quota = RowQuota(run.result.folder / "served.json", limits, time.time)
        log = RequestLog(run, host.name)
        logger.info("serving %d rows for %s, version %s", len(ids), host.name, version.hex()[:12])
        try:
            with run.party.in_phase("serve", round_number=run.round), self.half.evaluating():
                answers = Answers(self, run, host, ids, version, quota, log)
                while answers.next():
                    self.served += 1
            with run.party.in_phase("finish"):
                run.party.leave(host)
        finally:
            quota.close()
            log.write()
            self.loop.guard.close()

    def _ids_in_common(self, run: Run, host: Peer) -> list[str]:
        """Return the sorted ids that the Host may ask for, from the table or an intersection."""
        if self._kept is not None and run.agreement.resume is not None:
            return self._kept.ids[host.name]
        most = self._limits.max_ids_per_day
        run.account_of_ids = f"{run.task_id}\0predictions\0{today()}"
        ids = sorted(
            intersect_as_collaborator(
                run,
                host,
                self._own,
                max_peer_ids=self.settings.max_peer_ids if most is None else most,
                predicts=True,
            )
        )
        agreed_table.keep(run, self._own, {host.name: ids})
        return ids

    def _agree(self, run: Run, host: Peer, ids: Sequence[str]) -> bytes:
        """Check the rows and models that the Host names, and return the version of both halves."""
        party, trained = run.party, self._trained
        plan = party.take(host, msg.ServePlan).of(msg.ServePlan)
        if (plan.run, plan.rounds) != (trained.run, trained.rounds):
            raise OtherRunError(
                f"the models of {host.name} are of another run ({plan.rounds} rounds) than those in"
                f" {trained.folder} ({trained.rounds} rounds); bring back those of one run",
                party=party.name,
            )
        digest = keyed_digest(run.agreement.secret, "serve", ids)
        if (plan.count, plan.ids) != (len(ids), digest):
            agreed_table.discard(run.result.folder)
            raise unlawful(host.name, "psi", "serves other rows than it has shown to hold")
        run.round = run.result.rounds = trained.rounds
        if plan.models != trained.which:
            self._trained = trained = read_trained(trained.folder, plan.models)
            try:
                load_models(trained, self.half)
            except ConfigError as error:
                raise OtherRunError(
                    f"{host.name} asks for the {plan.models} models: {error}; call mark_best"
                    " in test",
                    party=party.name,
                ) from error
        mine = half_digest(trained, [*self.half.models.saved, EXTRA])
        party.post(host, msg.ServeAccepted(mine))
        return joint_version(plan.version, mine)


class Answers:
    """Answers the requests of one session.

    Args:
        session: the session, with the hooks and the guard of this party.
        run: its run.
        host: the Host.
        ids: the ids of the table, sorted.
        version: the version of both halves of the model.
        quota: the limits on rows.
        log: gets what was asked, without ids.
    """

    def __init__(
        self,
        session: Serving,
        run: Run,
        host: Peer,
        ids: list[str],
        version: bytes,
        quota: RowQuota,
        log: RequestLog,
    ) -> None:
        self._session, self._run, self._host = session, run, host
        self._party, self._guard = run.party, session.loop.guard
        self._ids, self._version = ids, version
        self._quota, self._log = quota, log
        self._age = session.limits.max_age
        self._store = FeatureStore(len(ids), self._age)
        # What is sent again is the same. So without a defence each row is counted when a period
        # begins, in which it is sent once at most; with one, it is counted when it is first sent.
        settings = session.settings
        limited = settings.release_limits.are_set or run.plan.limits != LeakLimits()
        self._counts_rows = settings.embedding_defence is not None or limited
        self._released = 0

    def next(self) -> bool:
        """Wait for a request and answer it; return False if the Host ended the link instead."""
        while not self._host.inbox:
            self._party.pump(IDLE_SECONDS)
            self._log.tick()
        mail = self._party.take(self._host, msg.ServeRequest, msg.Finish)
        if isinstance(mail.message, msg.Finish):
            return False
        self._answer(mail)
        return True

    def _answer(self, mail: Mail) -> None:
        request = mail.of(msg.ServeRequest)
        rows = np.frombuffer(mail.payload, "<u4").astype(np.int64)
        if rows.max() >= len(self._ids):
            raise unlawful(self._host.name, "serve", "asks for rows that the table does not have")
        if request.version != self._version:
            self._refuse(request, "other_version")
            return
        fresh = self._fresh(rows)
        if wait := self._quota.grant(len(fresh)) if len(fresh) else 0:
            self._refuse(request, "limit", retry_after=max(0, wait))
            return
        try:
            self._compute(fresh)
        except ReleaseLimitError:
            self._refuse(request, "limit")
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
        ids = [self._ids[row] for row in rows.tolist()]
        if self._counts_rows:
            self._count(ids)
        batch = own_features(self._session.half, ids)
        if batch is None:
            raise FeatureError("iterate_predict_feature yields no features; yield one row per id")
        self._party.batch = self._released  # each release has noise of its own
        self._store.put(rows, self._guard.outgoing(batch, self._released, testing=True))
        self._released += 1

    def _count(self, ids: Sequence[str]) -> None:
        """Count one release of rows in the ledger, before it is sent."""
        self._run.passing = Pass("predict", ids)
        self._guard.leaves(FeatureBatch("tensor", {"": torch.empty(len(ids), 0)}, ids))

    def _refuse(self, request: msg.ServeRequest, why: Any, *, retry_after: int = 0) -> None:
        answer = msg.ServeAnswer(
            request.number, 0, self._version, refused=why, retry_after=retry_after
        )
        self._party.post(self._host, answer)
        self._log.note(0, 0, refused=1)


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


def allowed_ids(ids: Iterable[str] | None) -> frozenset[str] | None:
    """Return the ids of `allow_ids` after a check."""
    return None if ids is None else frozenset(check_ids(ids, "allow_ids"))
