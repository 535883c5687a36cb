"""Serves predictions at the Host: it asks the Collaborators for rows over standing links."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from heterofed.compute.alignment import check_ids, keyed_digest
from heterofed.errors import ConfigError, PeerLostError
from heterofed.hetero_nn.feature_means import FeatureImputer, read_imputers
from heterofed.hetero_nn.half_task import HostHalfTask
from heterofed.hetero_nn.hooks import HostHooks, predicts
from heterofed.hetero_nn.predict.host import Missing
from heterofed.hetero_nn.predict.models import load_models
from heterofed.hetero_nn.serve import agreed_table
from heterofed.hetero_nn.serve.agreed_table import AgreedTable, half_digest, joint_version
from heterofed.hetero_nn.serve.request_queue import Request, RequestQueue, unavailable
from heterofed.hetero_nn.serve.scoring import Partner, Scorer
from heterofed.hetero_nn.serve.sessions import StandingTask, keep_open
from heterofed.hetero_nn.sites.settings import check_whole
from heterofed.intersection.host import match_each
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.rendezvous.agreement import Earlier
from heterofed.runs.artifacts import Trained, Which, trained_here
from heterofed.runs.beside import BesideTask, log_request
from heterofed.runs.extra_modules import EXTRA
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

IDLE_SECONDS = 0.2
"""The longest time in seconds between two looks at the links while no request comes."""


def serve_scores(
    host: HostHooks,
    task_id: str,
    queue: RequestQueue,
    *,
    models: Which = "last",
    missing_party: Missing = "error",
    max_age: float = 3600.0,
    load_timeout: float = 0.0,
) -> int:
    """Answer the requests of a queue with the models of a finished run, until the queue leaves.

    Args:
        host: the scheduler with the hooks.
        task_id: the id of the finished task.
        queue: where requests come from.
        models: whether to use the models of the last round or of the best.
        missing_party: the replacement for rows that a party does not have, as in `predict`.
        max_age: the time in seconds for which this party's own features of a row are kept; 0
            computes them anew for each request.
        load_timeout: the longest time in seconds that `load_features` may take; 0 sets no limit.

    Returns:
        The number of batches of requests that were answered.

    Raises:
        ConfigError: a setting or file of this party is wrong, or there is no finished run.
    """
    stop = threading.Event()

    def session() -> StandingTask:
        if queue.is_leaving:
            stop.set()
        return Serving(host, queue, models, missing_party, max_age, load_timeout, stop)

    return keep_open(session, task_id, stop)


class Serving(StandingTask, BesideTask, HostHalfTask):
    """One session of standing links, with the hooks of a Host's scheduler.

    Args:
        host: the scheduler with the hooks.
        queue: where requests come from.
        models, missing, max_age, load_timeout: see `serve_scores`.
        stop: is set once the queue has left.
    """

    purpose = "serve"
    subfolder = "serving"

    def __init__(
        self,
        host: HostHooks,
        queue: RequestQueue,
        models: Which,
        missing: Missing,
        max_age: float,
        load_timeout: float,
        stop: threading.Event,
    ) -> None:
        super().__init__(host)
        self._queue, self._which, self._missing = queue, models, missing
        self._max_age, self._load_timeout, self._stop = max_age, load_timeout, stop
        self._trained: Trained
        self._imputers: dict[str, FeatureImputer]
        self._own: list[str]
        self._kept: AgreedTable | None = None

    def expected(self) -> Sequence[str]:
        """Return the parties to wait for, in task order."""
        return list(self._imputers)

    def check(self, run: Run) -> None:
        """Load the models and the ids, so that errors show before the party waits for others."""
        if self._missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing_party={self._missing!r}: give 'error', 'mean' or 'zero'")
        if not predicts(type(self.owner)):
            raise ConfigError("define predict_a_batch, which gives the predictions of a batch")
        if self.settings.id_keys > 1:
            raise ConfigError(
                "rows are matched by several keys, which serving does not do; run predict"
            )
        check_whole(self.settings, "serving")
        self._trained = trained_here(run, self._which)
        if "masked_sum" in (self._trained.fusion, self.settings.fusion):
            raise ConfigError(
                "rows are not served with fusion='masked_sum': their features would travel"
                " unmasked; measure the model in `test`"
            )
        self._imputers = read_imputers(self._trained)
        run.round = run.result.rounds = self._trained.rounds
        load_models(self._trained, self.half)
        self.half.signature.serve(self._trained)
        self._own = sorted(check_ids(self.hooks.call("load_local_ids")))
        self.half.signature.compare_columns()
        self._kept = agreed_table.kept(run.result.folder, self._own)
        if self._kept is not None:
            run.order = self._kept.plan.seed  # part of the plan with which the parties go on

    def held(self, run: Run) -> Earlier | None:  # noqa: ARG002
        """Return the table of today, if there is one."""
        return self._kept.earlier if self._kept else None

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._trained.run.hex()

    def perform(self, run: Run) -> None:
        """Agree on the rows and the version, and answer requests until the queue leaves."""
        self.met = True
        party = run.party
        matched = self._matched(run)
        ids = self._own
        if self._missing == "error":
            ids = sorted(set.intersection(*map(set, matched.values())))
        partners, version = self._agree(run, ids, matched)
        watch_for_newcomers(party)
        logger.info("serving %d rows, version %s", len(ids), version.hex()[:12])
        scorer = Scorer(
            self.half,
            party,
            partners,
            ids,
            version,
            by_mean=self._missing,
            max_age=self._max_age,
            load_timeout=self._load_timeout,
        )
        log_request(run, rows=len(ids), parties=list(matched), version=version.hex())
        try:
            with party.in_phase("serve", round_number=run.round), self.half.evaluating():
                self._queue.open(version)
                self._serve(party, scorer)
        finally:
            self._queue.close()
            scorer.close()
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(run.round))
            for peer in list(party.peers.values()):
                party.take_leave(peer)

    def _serve(self, party: Party, scorer: Scorer) -> None:
        while True:
            if requests := self._queue.take(scorer.most_rows, IDLE_SECONDS):
                self._answer(scorer, requests)
            elif self._queue.is_leaving:
                self._stop.set()
                return
            party.pump(0)
            scorer.drop_late()

    def _answer(self, scorer: Scorer, requests: Sequence[Request]) -> None:
        try:
            self._queue.settle(scorer.score(requests))
        except BaseException:
            self._queue.settle([(each, unavailable()) for each in requests])
            raise
        self.served += 1

    def _matched(self, run: Run) -> dict[str, list[str]]:
        """Return the sorted ids that each party has, from the table or an intersection."""
        if self._kept is not None and run.agreement.resume is not None:
            return self._kept.ids
        found = match_each(run, self._own, only_common=self._missing == "error")
        matched = {name: sorted(ids) for name, ids in found.items()}
        agreed_table.keep(run, self._own, matched)
        return matched

    def _agree(
        self, run: Run, ids: Sequence[str], matched: dict[str, list[str]]
    ) -> tuple[list[Partner], bytes]:
        """Tell each Collaborator the rows and models, and return the version of the whole model."""
        party, trained, secret = run.party, self._trained, run.agreement.secret
        mine = half_digest(trained, [*self.half.models.saved, "feature_means", EXTRA])
        for name, theirs in matched.items():
            digest = keyed_digest(secret, "serve", theirs)
            plan = (trained.run, trained.rounds, trained.which, len(theirs), digest, mine)
            party.post(party.peers[name], msg.ServePlan(*plan))
        partners = []
        for name, imputer in self._imputers.items():
            peer = party.peers[name]
            accepted = party.take(peer, msg.ServeAccepted).of(msg.ServeAccepted)
            at = {each: row for row, each in enumerate(matched[name])}
            places = np.fromiter((at.get(each, -1) for each in ids), np.int64, len(ids))
            partners.append(Partner(peer, imputer, joint_version(mine, accepted.version), places))
        if len(partners) == 1:
            return partners, partners[0].version
        return partners, joint_version(*(each.version for each in partners))


def watch_for_newcomers(party: Party) -> None:
    """End the session as soon as one of its Collaborators connects again.

    Its process has been restarted, so nobody needs to wait until its old link is given up.
    """
    judge = party.admission

    def admission(visitor: Peer, hello: Any) -> str | None:
        code = judge(visitor, hello)
        proven = visitor.channel.party
        if code == "duplicate_party" and hello.party in party.peers and proven:
            raise PeerLostError(
                f"{hello.party} has been restarted and connects again (phase serve); wait until it"
                " is back",
                party=hello.party,
                happened=f"{hello.party} has been restarted",
            )
        return code

    party.admission = admission
