"""A Collaborator that answers joint predictions: within its limits, one request after another."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.autograd import evaluating, sharing_cores
from heterofed.errors import (
    ConfigError,
    HeteroFedError,
    OtherRunError,
    ResultsError,
    RowCountError,
    TaskFailed,
)
from heterofed.events import Callback, Event, StillWaiting
from heterofed.hetero_nn.predict.quota import Allowance, today
from heterofed.hetero_nn.predict.rows import check_some
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.hetero_nn.train.subtask import Errand, log_request
from heterofed.intersection.host import intersect_as_collaborator
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.reporting.tracebacks import plain_endings
from heterofed.runs.artifacts import (
    Trained,
    load_beside,
    load_weights,
    read_trained,
    take_signature,
    trained_here,
)
from heterofed.runs.connect import as_collaborator
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, party_of, plan_of
from heterofed.runs.settings import is_count

if TYPE_CHECKING:
    from heterofed.hetero_nn.collaborator import HeteroNNCollaboratorScheduler

logger = logging.getLogger("heterofed")

PAUSE_SECONDS = 1.0
"""After a request that failed, so that a Host that trains is not knocked at all the time."""


@plain_endings()
def serve(
    collaborator: HeteroNNCollaboratorScheduler,
    task_id: str,
    *,
    max_rows_per_day: int,
    max_ids_per_day: int | None = None,
    allow_ids: Iterable[str] | None = None,
    requests: int = 0,
) -> int:
    """See `HeteroNNCollaboratorScheduler.serve_predictions`."""
    most_ids = collaborator._heterofed_max_peer_ids if max_ids_per_day is None else max_ids_per_day
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
        request = _Request(collaborator, max_rows_per_day, most_ids, allowed)
        try:
            rows += request.launch_task(task_id)
        except KeyboardInterrupt:
            if requests:
                raise
            logger.info("stopped; predicted %d rows in all", rows)
            return rows
        except Exception as error:
            # Nobody asked for anything within join_timeout; or what went wrong stands in the log,
            # and the Host was told. The next request may do better.
            if requests or not (isinstance(error, TaskFailed) or request.is_to_blame(error)):
                raise
            if not isinstance(error, TaskFailed):  # those stand in the log already
                told = None if isinstance(error, HeteroFedError) else error
                logger.error("the request has failed: %s", error, exc_info=told)
            time.sleep(PAUSE_SECONDS)
        served += 1
    return rows


class _Request(Errand):
    """One request: the lifecycle of a task around the hooks of a Collaborator's scheduler."""

    FOLDER = "predictions"

    def __init__(
        self,
        collaborator: HeteroNNCollaboratorScheduler,
        max_rows_per_day: int,
        max_ids_per_day: int,
        allowed: frozenset[str] | None,
    ) -> None:
        super().__init__(collaborator)
        self._collaborator, self._allowed = collaborator, allowed
        self._max_rows_per_day, self._max_ids_per_day = max_rows_per_day, max_ids_per_day
        self._trained: Trained
        self._rows = self._sent = 0
        self._allowance: Allowance | None = None
        self._met = self._sending = False

    def is_to_blame(self, error: Exception) -> bool:
        """Whether the request may have caused an error: by its ids, or by its plan."""
        hook_failed = (
            self._heterofed_run is not None and self._heterofed_run.failed_hook is not None
        )
        return self._met and (hook_failed or isinstance(error, HeteroFedError))

    def launch_task(self, task_id: str) -> int:
        self._launch_beside(task_id)
        return self._rows

    def validate_context(self) -> None:
        super().validate_context()
        run = self._heterofed_run
        if run is None:
            return
        self._trained = trained_here(run)
        if self._trained.fusion == "masked_sum":
            raise ConfigError(
                "there are no joint predictions with fusion='masked_sum': features that only a sum"
                " was to show would reach the Host one by one"
            )
        run.round = run.result.rounds = self._trained.rounds
        run.predicts = True
        self._load()
        take_signature(self._trained, run)
        ids = check_ids(
            self._heterofed_call_hook("load_local_ids", self._collaborator.load_local_ids)
        )
        self._collaborator._heterofed_compare_columns(run)
        self._heterofed_ids = sorted(
            ids if self._allowed is None else self._allowed.intersection(ids)
        )
        if not self._heterofed_ids:
            raise ConfigError("allow_ids leaves no id of load_local_ids to predict")

    def _load(self) -> None:
        """Give the feature model the weights that are asked for.

        Raises:
            ConfigError: they are not there, or of another model.
        """
        model = self._collaborator._heterofed_made("feature_model")
        if model is not None:
            load_weights(self._trained, "feature_model", model)
        load_beside(self._trained, self._collaborator)

    def _heterofed_open_folder(self, run: Run) -> None:
        super()._heterofed_open_folder(run)
        run.result.run = self._trained.run.hex()

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_collaborator(
                run,
                self._heterofed_settings,
                [_patient(each) for each in callbacks],
                purpose="predict",
                timeouts=self._heterofed_timeouts(),
                trainable=False,
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_perform(self, run: Run) -> None:
        (host,) = party_of(run).peers.values()
        self._met = True
        try:
            self._answer(run, host)
        except BaseException as error:
            with contextlib.suppress(OSError, ResultsError):  # what went wrong is the error
                if self._allowance is not None and not self._sending:
                    self._allowance.give_back()
                log_request(run, host=host.name, sent=self._sent, outcome=type(error).__name__)
            raise
        log_request(run, host=host.name, sent=self._sent, outcome="served")
        logger.info("predicted %d rows for %s", self._rows, host.name)

    def _answer(self, run: Run, host: Peer) -> None:
        party = party_of(run)
        if plan_of(run).fusion == "masked_sum":
            raise unlawful(host.name, "join", "asks for a prediction with fusion='masked_sum'")
        # By day, and apart from training: what is asked in years must not use up what a run needs.
        run.account_of_ids = f"{run.task_id}\0predictions\0{today()}"
        ids = sorted(
            intersect_as_collaborator(
                run, host, self._heterofed_ids, max_peer_ids=self._max_ids_per_day, predicts=True
            )
        )
        self._agree(run, host, ids)
        party.post(host, msg.PredictAccepted())
        party.take(host, msg.BeginTest)
        model = self._collaborator._heterofed_made("feature_model")
        with (
            party.in_phase("predict", round_number=run.round, unit="batches"),
            evaluating(model, *modules_beside(self._collaborator, [model])),
        ):
            self._send(run, host, ids)
        party.take(host, msg.Finish)
        self._rows = run.result.ids = len(ids)
        with party.in_phase("finish"):
            party.leave(host)

    def _agree(self, run: Run, host: Peer, ids: Sequence[str]) -> None:
        """Compare what the Host means to predict; count and log the rows before any is computed."""
        party, trained = party_of(run), self._trained
        plan = party.take(host, msg.PredictPlan).of(msg.PredictPlan)
        if (plan.run, plan.rounds) != (trained.run, trained.rounds):
            raise OtherRunError(
                f"the models of {host.name} are of another run ({plan.rounds} rounds) than those in"
                f" {trained.folder} ({trained.rounds} rounds); bring back those of one run",
                party=party.name,
            )
        secret = run.agreement.secret if run.agreement else b""
        if (plan.count, plan.ids) != (len(ids), keyed_digest(secret, "predict", ids)):
            raise unlawful(host.name, "psi", "asks for other rows than it has shown to hold")
        if plan.models != trained.which:
            self._trained = read_trained(trained.folder, plan.models)
            try:
                self._load()
            except ConfigError as error:  # the Host's choice; no reason to serve no more
                raise OtherRunError(
                    f"{host.name} asks for the {plan.models} models: {error}", party=party.name
                ) from error
        most = self._max_rows_per_day
        self._allowance = Allowance(run.task_id, party.name, most, run.ledger)
        self._allowance.take(len(ids))
        log_request(run, host=host.name, rows=len(ids))

    def _send(self, run: Run, host: Peer, ids: Sequence[str]) -> None:
        party, owner, hook = party_of(run), self._collaborator, "iterate_predict_feature"
        feed = FeatureFeed(party, host)
        if ids:
            for layout, tensors, batch in owner._heterofed_features(run, hook, ids, grad=False):
                rows = check_some(len(next(iter(tensors.values()))), hook)
                self._sending = True
                feed.send(layout, tensors, owner._heterofed_proof(run, feed, hook, batch))
                self._sent += rows
        if self._sent != len(ids):
            raise RowCountError(
                f"{hook} yielded {self._sent} rows for {len(ids)} ids",
                numbers=(self._sent, len(ids)),
            )
        feed.end()
        feed.settle()


def _patient(callback: Callback) -> Callable[[Event], None]:
    """A server waits for days; it does not say so every ten seconds."""

    def call(event: Event) -> None:
        if not isinstance(event, StillWaiting):
            callback(event)

    return call
