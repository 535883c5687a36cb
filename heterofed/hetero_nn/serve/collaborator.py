"""Serves rows at a Collaborator, which answers a Host's requests over a standing link."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import ConfigError
from heterofed.hetero_nn.half_task import CollaboratorHalfTask
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.predict.models import asked_models, check_same_run
from heterofed.hetero_nn.predict.quota import counted_day
from heterofed.hetero_nn.serve import agreed_table
from heterofed.hetero_nn.serve.agreed_table import AgreedTable
from heterofed.hetero_nn.serve.answers import Answers, RequestLog
from heterofed.hetero_nn.serve.desk import Desk, Table
from heterofed.hetero_nn.serve.held_runs import HeldRuns
from heterofed.hetero_nn.serve.loaded import Loaded, load
from heterofed.hetero_nn.serve.row_quota import RowQuota, place_of_counts
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.hetero_nn.serve.sessions import StandingTask, keep_open
from heterofed.hetero_nn.train.collaborator_loop import CollaboratorLoop
from heterofed.intersection.collaborator import common_as_collaborator
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.rendezvous.agreement import Earlier
from heterofed.runs.artifacts import Trained
from heterofed.runs.beside import BesideTask
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


def serve_rows(
    collaborator: CollaboratorHooks,
    task_id: str,
    limits: ServeLimits,
    *,
    stop: threading.Event | None = None,
    leave: threading.Event | None = None,
    fresh: Callable[[], CollaboratorHooks] | None = None,
) -> int:
    """Answer a Host's requests for single rows until interrupted; see `heterofed serve`.

    Args:
        collaborator: the scheduler with the hooks.
        task_id: the id of the finished task.
        limits: what the Host may ask for.
        stop: ends the link once it is set and the Host has ended its session.
        leave: ends the session at once when it is set; the Host is told.
        fresh: makes another scheduler like `collaborator`, with which another version is loaded
            while this one serves; without it this party takes over another version with a new link
            only.

    Returns:
        The number of requests that were answered.

    Raises:
        ConfigError: a setting or file of this party is wrong, or there is no finished run.
    """
    limits.check()
    stop = stop or threading.Event()
    leave = leave or threading.Event()
    return keep_open(lambda: Serving(collaborator, limits, leave, fresh), task_id, stop)


class Serving(StandingTask, BesideTask, CollaboratorHalfTask):
    """One session of a standing link, with the hooks of a Collaborator's scheduler.

    Args:
        collaborator: the scheduler with the hooks.
        limits: what the Host may ask for.
        leave, fresh: see `serve_rows`.
    """

    purpose = "serve"
    subfolder = "serving"

    def __init__(
        self,
        collaborator: CollaboratorHooks,
        limits: ServeLimits,
        leave: threading.Event,
        fresh: Callable[[], CollaboratorHooks] | None,
    ) -> None:
        super().__init__(collaborator)
        self._limits, self._leave, self._fresh = limits, leave, fresh
        self._held: HeldRuns
        self._loaded: Loaded[HalfModels]
        self._own: PackedIds
        self._kept: AgreedTable | None = None

    def check(self, run: Run) -> None:
        """Load the model and the ids, so that errors show before the party waits for the Host."""
        run.predicts = True
        self._held = HeldRuns(run.result.folder.parent)
        self._loaded = self._load(run, self.owner, self._held.first())
        self._own = self._served_ids(self._loaded)
        if not self._own:
            raise ConfigError("allow_ids leaves no id of load_local_ids to serve; give others")
        self._kept = agreed_table.kept(run.result.folder, self._own)

    def _load(
        self, run: Run, owner: CollaboratorHooks, trained: Trained, *, anew: bool = False
    ) -> Loaded[HalfModels]:
        if trained.fusion == "masked_sum":
            raise ConfigError(
                "rows are not served with fusion='masked_sum': features that only a sum was to show"
                " would reach the Host one by one; train with fusion='separate' to serve"
            )
        return load(owner, run, trained, HalfModels, anew=anew)

    def _served_ids(self, loaded: Loaded[HalfModels]) -> PackedIds:
        allowed = self._limits.allow_ids
        ids = loaded.ids
        return ids if allowed is None else PackedIds(each for each in ids if each in allowed)

    def held(self, run: Run) -> Earlier | None:  # noqa: ARG002
        """Return the table of today, if there is one."""
        return self._kept.earlier if self._kept else None

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._loaded.trained.run.hex()

    def perform(self, run: Run) -> None:
        """Agree on the rows and the version, and answer requests until the Host ends the link."""
        (host,) = run.party.peers.values()
        self.met = True
        ids = self._ids_in_common(run, host)
        table = Table(ids, keyed_digest(run.agreement.secret, "serve", ids))
        plan = self._first_plan(run, host, table)
        limits = {"minute": self._limits.max_rows_per_minute, "day": self._limits.max_rows_per_day}
        place = place_of_counts(run.task_id, run.party.name, run.ledger)
        quota = RowQuota(place, limits, time.time)
        log = RequestLog(run, host.name)

        def answers(loaded: Loaded[HalfModels], version: bytes) -> Answers:
            loaded.join(run, releases=True)
            half = loaded.half
            owner: Any = half.owner
            guard = CollaboratorLoop(owner, half, self.settings).guard
            of = (half, guard, self._limits, half.run, host, ids, version, quota, log)
            return Answers(*of)

        another = functools.partial(self._load_another, run)
        desk = Desk(run.party, host, table, another, answers, log, self._leave)
        try:
            with (
                run.party.in_phase("serve", round_number=run.round),
                self._loaded.half.evaluating(),
                contextlib.closing(desk),
            ):
                run.party.post(host, msg.ServeAccepted(desk.take_up(plan, self._loaded)))
                logger.info("serving %d rows for %s", len(ids), host.name)
                while desk.next():
                    self.served += 1
            with run.party.in_phase("finish"):
                run.party.leave(host)
        finally:
            quota.close()
            log.write()

    def _ids_in_common(self, run: Run, host: Peer) -> PackedIds:
        """Return the sorted ids that the Host may ask for, from the table or an intersection."""
        if self._kept is not None and run.agreement.resume is not None:
            return self._own.take(self._kept.rows(host.name))
        most = self._limits.max_ids_per_day
        run.account_of_ids = f"{run.task_id}\0predictions\0{counted_day(run.ledger)}"
        most = self.settings.max_peer_ids if most is None else most
        with contextlib.closing(agreed_table.to_intersect(self._own)) as own:
            found = common_as_collaborator(run, host, own, max_peer_ids=most, predicts=True)
        places = np.array(found, np.int64)
        agreed_table.keep(run, self._own, {host.name: places})
        return self._own.take(places)

    def _first_plan(self, run: Run, host: Peer, table: Table) -> msg.ServePlan:
        """Return the plan with the version to begin with, after it was loaded."""
        party = run.party
        plan = party.take(host, msg.ServePlan).of(msg.ServePlan)
        if not table.fits(plan):
            agreed_table.discard(run.result.folder)
            raise unlawful(host.name, "psi", "serves other rows than it has shown to hold")
        found = self._held.find(plan.run)
        if found is not None and found.run != self._loaded.trained.run:
            self._loaded = self._load(run, self.owner, found)
            self._check_ids(self._loaded)
        self._loaded.join(run, releases=True)
        trained = self._loaded.trained
        check_same_run(plan, trained, host.name, party.name)
        run.round = run.result.rounds = trained.rounds
        half = self._loaded.half
        self._loaded = replace(self._loaded, trained=asked_models(plan, trained, half, host.name))
        return plan

    def _load_another(self, run: Run, plan: msg.ServePlan) -> Loaded[HalfModels] | None:
        """Load another version beside the one that is served; None if it is not here."""
        found = self._held.find(plan.run, plan.models)
        if found is None or found.rounds != plan.rounds:
            return None
        if self._fresh is None:
            raise ConfigError(
                "another version is loaded beside this one only with `fresh`; give it to serve_rows"
            )
        loaded = self._load(run, self._fresh(), found, anew=True)
        self._check_ids(loaded)
        loaded.warm()
        return loaded

    def _check_ids(self, loaded: Loaded[HalfModels]) -> None:
        if self._served_ids(loaded) != self._own:
            raise ConfigError("the table has other ids by now; start this party again")


def allowed_ids(ids: Iterable[str] | None) -> frozenset[str] | None:
    """Return the ids of `allow_ids` after a check."""
    return None if ids is None else frozenset(check_ids(ids, "allow_ids"))
