"""Serves rows at a Collaborator, which answers a Host's requests over a standing link."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Sequence

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.errors import (
    ConfigError,
)
from heterofed.hetero_nn.half_task import CollaboratorHalfTask
from heterofed.hetero_nn.hooks import CollaboratorHooks
from heterofed.hetero_nn.predict.models import asked_models, check_same_run, load_models
from heterofed.hetero_nn.predict.quota import today
from heterofed.hetero_nn.serve import agreed_table
from heterofed.hetero_nn.serve.agreed_table import AgreedTable, half_digest, joint_version
from heterofed.hetero_nn.serve.answers import Answers, RequestLog, ServeLimits
from heterofed.hetero_nn.serve.row_quota import RowQuota
from heterofed.hetero_nn.serve.sessions import StandingTask, keep_open
from heterofed.hetero_nn.sites.settings import check_whole
from heterofed.intersection.collaborator import intersect_as_collaborator
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.rendezvous.agreement import Earlier
from heterofed.runs.artifacts import Trained, trained_here
from heterofed.runs.beside import BesideTask
from heterofed.runs.extra_modules import EXTRA
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


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
        self._limits = limits
        self._trained: Trained
        self._own: list[str]
        self._kept: AgreedTable | None = None

    def check(self, run: Run) -> None:
        """Load the model and the ids, so that errors show before the party waits for the Host."""
        check_whole(self.settings, "serving")
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
                answers = Answers(
                    self.half, self.loop.guard, self._limits, run, host, ids, version, quota, log
                )
                with contextlib.closing(answers):
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
        party = run.party
        plan = party.take(host, msg.ServePlan).of(msg.ServePlan)
        check_same_run(plan, self._trained, host.name, party.name)
        digest = keyed_digest(run.agreement.secret, "serve", ids)
        if (plan.count, plan.ids) != (len(ids), digest):
            agreed_table.discard(run.result.folder)
            raise unlawful(host.name, "psi", "serves other rows than it has shown to hold")
        run.round = run.result.rounds = self._trained.rounds
        self._trained = trained = asked_models(plan, self._trained, self.half, host.name)
        mine = half_digest(trained, [*self.half.models.saved, EXTRA])
        party.post(host, msg.ServeAccepted(mine))
        return joint_version(plan.version, mine)


def allowed_ids(ids: Iterable[str] | None) -> frozenset[str] | None:
    """Return the ids of `allow_ids` after a check."""
    return None if ids is None else frozenset(check_ids(ids, "allow_ids"))
