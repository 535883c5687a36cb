"""Answers requests for joint predictions at a Collaborator, one by one and within its limits."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from heterofed.compute.alignment import SortedIdSet, check_ids, keyed_digest
from heterofed.errors import (
    ConfigError,
    HeteroFedError,
    ResultsError,
    RowCountError,
    TaskFailed,
)
from heterofed.events import Callback, Event, StillWaiting
from heterofed.hetero_nn.half_task import CollaboratorHalfTask
from heterofed.hetero_nn.hooks import CollaboratorHooks, half_engine
from heterofed.hetero_nn.predict.models import asked_models, check_same_run, load_models
from heterofed.hetero_nn.predict.quota import Quota, counted_day
from heterofed.hetero_nn.predict.rows import check_some
from heterofed.hetero_nn.train.collaborator_loop import CollaboratorLoop
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.intersection.collaborator import intersect_as_collaborator
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.reporting.log_lines import facts
from heterofed.reporting.tracebacks import plain_endings
from heterofed.reporting.units import seconds_shown
from heterofed.runs.artifacts import Trained, trained_here
from heterofed.runs.beside import BesideTask, launch_beside, log_request
from heterofed.runs.run import Run
from heterofed.runs.settings import is_count

logger = logging.getLogger("heterofed")

IDLE_SECONDS = 3600.0
"""The seconds between two signs of life of a server that nobody asks."""

PAUSE_SECONDS = 1.0
"""The pause in seconds after a request that failed, to spare a Host that is training."""


@plain_endings()
def serve(
    collaborator: CollaboratorHooks,
    task_id: str,
    *,
    max_rows_per_day: int,
    max_ids_per_day: int | None = None,
    allow_ids: Iterable[str] | None = None,
    requests: int = 0,
) -> int:
    """Implement `HeteroNNCollaboratorScheduler.serve_predictions`."""
    most_ids = half_engine(collaborator).settings.max_peer_ids
    if max_ids_per_day is not None:
        most_ids = max_ids_per_day
    for name, value in (
        ("max_rows_per_day", max_rows_per_day),
        ("max_ids_per_day", most_ids),
        ("requests", requests),
    ):
        if not is_count(value):
            raise ConfigError(f"{name}={value!r}: give a whole number from 0 on")
    allowed = None if allow_ids is None else frozenset(check_ids(allow_ids, "allow_ids"))
    served = rows = 0
    while not requests or served < requests:
        request = Serving(collaborator, max_rows_per_day, most_ids, allowed)
        try:
            launch_beside(request, task_id)
            rows += request.rows
        except KeyboardInterrupt:
            if requests:
                raise
            logger.info("stopped; predicted %d rows in all", rows)
            return rows
        except Exception as error:
            # Either no request came within join_timeout, or the error was logged and sent to the
            # Host. The next request may succeed.
            if requests or not (isinstance(error, TaskFailed) or request.is_to_blame(error)):
                raise
            if not isinstance(error, TaskFailed):  # these are logged already
                told = None if isinstance(error, HeteroFedError) else error
                logger.error("the request has failed: %s", error, exc_info=told)
            time.sleep(PAUSE_SECONDS)
        served += 1
    return rows


class Serving(BesideTask, CollaboratorHalfTask):
    """One request, with the hooks of a Collaborator's scheduler.

    Args:
        collaborator: the scheduler with the hooks.
        max_rows_per_day: the most rows to predict per day.
        max_ids_per_day: the most ids that are intersected for the Host per day.
        allowed: the ids of rows that may be predicted; None allows all.

    Attributes:
        rows: the number of rows that were predicted.
    """

    purpose = "predict"
    subfolder = "predictions"

    def __init__(
        self,
        collaborator: CollaboratorHooks,
        max_rows_per_day: int,
        max_ids_per_day: int,
        allowed: frozenset[str] | None,
    ) -> None:
        super().__init__(collaborator)
        self._allowed = allowed
        self._max_rows_per_day, self._max_ids_per_day = max_rows_per_day, max_ids_per_day
        self._trained: Trained
        self._ids: list[str]
        self.rows = self._sent = 0
        self._quota: Quota | None = None
        self._met = self._sending = False

    def make_loop(self) -> CollaboratorLoop:
        """Return a loop that sends this party's rows alone, also at a site of a role."""
        return CollaboratorLoop(self.owner, self.half, self.settings)

    def is_to_blame(self, error: Exception) -> bool:
        """Return whether the request may have caused an error, by its ids or by its plan."""
        hook_failed = self.run is not None and self.run.failed_hook is not None
        return self._met and (hook_failed or isinstance(error, HeteroFedError))

    def check(self, run: Run) -> None:
        """Load the model and the ids, so that errors show before the party waits for others."""
        self._trained = trained_here(run)
        if self._trained.fusion == "masked_sum":
            raise ConfigError(
                "there are no joint predictions with fusion='masked_sum': features that only a sum"
                " was to show would reach the Host one by one; train with fusion='separate' to"
                " predict"
            )
        run.round = run.result.rounds = self._trained.rounds
        run.predicts = True
        load_models(self._trained, self.half)
        self.half.signature.serve(self._trained)
        ids = check_ids(self.hooks.call("load_local_ids"))
        self.half.signature.compare_columns()
        self._ids = sorted(ids if self._allowed is None else self._allowed.intersection(ids))
        if not self._ids:
            raise ConfigError(
                "allow_ids leaves no id of load_local_ids to predict; return some of the ids that"
                " it is given"
            )

    def heard(self, callbacks: Sequence[Callback]) -> Sequence[Callback]:
        """Return the callbacks without the frequent events that no request has come.

        In their place an idle server logs a sign of life once an hour.
        """
        return [*(_patient(each) for each in callbacks), SignOfLife()]

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._trained.run.hex()

    def perform(self, run: Run) -> None:
        """Answer the request, and log its result."""
        (host,) = run.party.peers.values()
        self._met = True
        try:
            self._answer(run, host)
        except BaseException as error:
            with contextlib.suppress(OSError, ResultsError):  # the first error is raised
                if self._quota is not None and not self._sending:
                    self._quota.give_back()
                log_request(run, host=host.name, sent=self._sent, outcome=type(error).__name__)
            raise
        log_request(run, host=host.name, sent=self._sent, outcome="served")
        logger.info("predicted %d rows for %s", self.rows, host.name)

    def _answer(self, run: Run, host: Peer) -> None:
        party = run.party
        self.loop.check_plan()
        if run.plan.fusion == "masked_sum":
            raise unlawful(host.name, "join", "asks for a prediction with fusion='masked_sum'")
        # Predictions are counted per day and apart from training, because years of requests must
        # not use up the ids of a run.
        run.account_of_ids = f"{run.task_id}\0predictions\0{counted_day(run.ledger)}"
        ids = sorted(
            intersect_as_collaborator(
                run,
                host,
                self._ids,
                self._further_ids,
                max_peer_ids=self._max_ids_per_day,
                predicts=True,
            )
        )
        self._agree(run, host, ids)
        party.post(host, msg.PredictAccepted())
        party.take(host, msg.BeginTest)
        with (
            party.in_phase("predict", round_number=run.round, unit="batches"),
            self.half.evaluating(),
        ):
            self._send(run, host, ids)
        party.take(host, msg.Finish)
        self.rows = run.result.ids = len(ids)
        with party.in_phase("finish"):
            party.leave(host)

    def _further_ids(self, common: SortedIdSet, key: int) -> list[str]:
        """Return the ids by a further key of the rows that may be predicted."""
        ids = self.half.further_ids(common, key)
        return ids if self._allowed is None else sorted(self._allowed.intersection(ids))

    def _agree(self, run: Run, host: Peer, ids: Sequence[str]) -> None:
        """Check the rows that the Host requests, and count and log them before any is computed."""
        party = run.party
        plan = party.take(host, msg.PredictPlan).of(msg.PredictPlan)
        check_same_run(plan, self._trained, host.name, party.name)
        secret = run.agreement.secret
        if (plan.count, plan.ids) != (len(ids), keyed_digest(secret, "predict", ids)):
            raise unlawful(host.name, "psi", "asks for other rows than it has shown to hold")
        self._trained = asked_models(plan, self._trained, self.half, host.name)
        most = self._max_rows_per_day
        self._quota = Quota(run.task_id, party.name, most, run.ledger)
        self._quota.take(len(ids))
        log_request(run, host=host.name, rows=len(ids))

    def _send(self, run: Run, host: Peer, ids: Sequence[str]) -> None:
        hook, feed = "iterate_predict_feature", FeatureFeed(run.party, host)

        def before(rows: int) -> None:
            check_some(rows, hook)
            self._sending = True

        if ids:
            for rows in self.loop.sending(feed, hook, ids, before=before):
                self._sent += rows
        if self._sent != len(ids):
            raise RowCountError(
                f"{hook} yielded {self._sent} rows for {len(ids)} ids; yield one row per id",
                numbers=(self._sent, len(ids)),
            )
        feed.end()
        feed.settle()


class SignOfLife:
    """Logs, once in `IDLE_SECONDS`, that a server of predictions waits for a request."""

    def __init__(self) -> None:
        self._due = IDLE_SECONDS

    def __call__(self, event: Event) -> None:
        """Take an event of the wait for a request."""
        if isinstance(event, StillWaiting) and event.seconds >= self._due:
            self._due += IDLE_SECONDS
            idle = seconds_shown(event.seconds)
            logger.info("idle: no request for %s; still serving", idle, extra=facts(event))


def _patient(callback: Callback) -> Callable[[Event], None]:
    """Return a callback that drops the frequent events of a server that waits for days."""

    def call(event: Event) -> None:
        if not isinstance(event, StillWaiting):
            callback(event)

    return call
