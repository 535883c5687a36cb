"""Serves predictions at the Host: it asks the Collaborators for rows over standing links."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heterofed.compute.packed_ids import PackedIds
from heterofed.data.places import Places
from heterofed.errors import ConfigError
from heterofed.hetero_nn.feature_means import FeatureImputer, read_imputers
from heterofed.hetero_nn.half_task import HostHalfTask
from heterofed.hetero_nn.hooks import HostHooks, predicts
from heterofed.hetero_nn.models import HostModels
from heterofed.hetero_nn.predict.host import Missing
from heterofed.hetero_nn.serve import agreed_table
from heterofed.hetero_nn.serve.agreed_table import AgreedTable, Rows, joint_version
from heterofed.hetero_nn.serve.held_runs import HeldRuns, Served, Wanted
from heterofed.hetero_nn.serve.loaded import Loaded, load
from heterofed.hetero_nn.serve.partners import Link, Partner, Shared, watch_for_newcomers
from heterofed.hetero_nn.serve.request_queue import Request, RequestQueue, unavailable
from heterofed.hetero_nn.serve.scoring import Scorer
from heterofed.hetero_nn.serve.sessions import StandingTask, keep_open
from heterofed.hetero_nn.serve.switch import Switch
from heterofed.intersection.host import positions_of_each
from heterofed.protocol import messages as msg
from heterofed.rendezvous.agreement import Earlier
from heterofed.runs.artifacts import Trained, Which
from heterofed.runs.beside import BesideTask, log_request
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
    fresh: Callable[[], HostHooks] | None = None,
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
        fresh: makes another scheduler like `host`, with which another version is loaded while this
            one serves. Without it the link is opened anew for another version.

    Returns:
        The number of batches of requests that were answered.

    Raises:
        ConfigError: a setting or file of this party is wrong, or there is no finished run.
    """
    stop = threading.Event()
    settings, last = HostServes(models, missing_party, max_age, load_timeout), LastServed()

    def session() -> StandingTask:
        if queue.is_leaving:
            stop.set()
        return Serving(host, queue, settings, stop, fresh, last)

    return keep_open(session, task_id, stop)


@dataclass(frozen=True, slots=True)
class HostServes:
    """The settings with which a Host serves; see `serve_scores`."""

    models: Which
    missing: Missing
    max_age: float
    load_timeout: float


@dataclass(slots=True)
class LastServed:
    """The run that this process has served last; empty before the first."""

    run: bytes = b""


@dataclass(frozen=True, slots=True)
class HostVersion:
    """One version of the model at the Host.

    Attributes:
        loaded: the Host's half.
        imputers: the imputer of each Collaborator, in task order.
        digest: the digest of the Host's half.
    """

    loaded: Loaded[HostModels]
    imputers: dict[str, FeatureImputer]
    digest: bytes


class Serving(StandingTask, BesideTask, HostHalfTask):
    """One session of standing links, with the hooks of a Host's scheduler.

    Args:
        host: the scheduler with the hooks.
        queue: where requests come from.
        serves: the settings.
        stop: is set once the queue has left.
        fresh: see `serve_scores`.
        last: the run that is served stays the same when the parties connect again.
    """

    purpose = "serve"
    subfolder = "serving"

    def __init__(
        self,
        host: HostHooks,
        queue: RequestQueue,
        serves: HostServes,
        stop: threading.Event,
        fresh: Callable[[], HostHooks] | None,
        last: LastServed,
    ) -> None:
        super().__init__(host)
        self._last = last
        self._queue, self._serves, self._stop, self._fresh = queue, serves, stop, fresh
        self._held: HeldRuns
        self._wish: Wanted | None = None
        self._version: HostVersion
        self._links: dict[str, Link] = {}
        self._ids: PackedIds
        self._index: Places
        self._shared: dict[str, Shared]
        self._kept: AgreedTable | None = None

    @property
    def _own(self) -> PackedIds:
        """The sorted ids of this party's table."""
        return self._version.loaded.ids

    def expected(self) -> Sequence[str]:
        """Return the parties to wait for, in task order."""
        return [name for each in self._parties.values() for name in each]

    @property
    def _parties(self) -> dict[str, tuple[str, ...]]:
        """The parties of each key in projections."""
        trained = self._version.loaded.trained
        return {key: trained.parties_of(key) for key in self._version.imputers}

    def check(self, run: Run) -> None:
        """Load the models and the ids, so that errors show before the party waits for others."""
        missing = self._serves.missing
        if missing not in ("error", "mean", "zero"):
            raise ConfigError(f"missing_party={missing!r}: give 'error', 'mean' or 'zero'")
        if not predicts(type(self.owner)):
            raise ConfigError("define predict_a_batch, which gives the predictions of a batch")
        if self.settings.id_keys > 1:
            raise ConfigError(
                "rows are matched by several keys, which serving does not do; run predict"
            )
        self._held = HeldRuns(run.result.folder.parent, self._serves.models)
        # A wish that comes from now on, while the parties meet, is not granted by this run.
        self._wish = self._held.wanted()
        self._version = self._load(run, self.owner, self._held.first(self._last.run))
        trained = self._version.loaded.trained
        self.half = self._version.loaded.half
        run.round = run.result.rounds = trained.rounds
        self._kept = agreed_table.kept(run.result.folder, self._own)
        if self._kept is not None:
            run.order = self._kept.plan.seed  # part of the plan with which the parties go on

    def _load(
        self, run: Run, owner: HostHooks, trained: Trained, *, anew: bool = False
    ) -> HostVersion:
        if "masked_sum" in (trained.fusion, self.settings.fusion):
            raise ConfigError(
                "rows are not served with fusion='masked_sum': their features would travel"
                " unmasked; measure the model in `test`"
            )
        loaded = load(owner, run, trained, HostModels, anew=anew)
        return HostVersion(loaded, read_imputers(trained), loaded.digest("feature_means"))

    def _load_another(
        self, run: Run, fresh: Callable[[], HostHooks], trained: Trained
    ) -> HostVersion:
        """Load another version beside the one that is served."""
        version = self._load(run, fresh(), trained, anew=True)
        same = list(version.imputers) == list(self._version.imputers)
        same &= trained.roles == self._version.loaded.trained.roles
        if not same or version.loaded.ids != self._own:
            raise ConfigError(
                "it is of other parties than the link, or the table has other ids by now; start"
                " this party again"
            )
        version.loaded.warm()
        return version

    def held(self, run: Run) -> Earlier | None:  # noqa: ARG002
        """Return the table of today, if there is one."""
        return self._kept.earlier if self._kept else None

    def open_folder(self, run: Run) -> None:
        """Make the folder within that of the trained run."""
        super().open_folder(run)
        run.result.run = self._version.loaded.trained.run.hex()

    def perform(self, run: Run) -> None:
        """Agree on the rows and the version, and answer requests until the queue leaves."""
        self.met = True
        party = run.party
        self._settle_rows(run)
        self._links = {name: Link(party.peers[name]) for name in self.expected()}
        self._propose(run, self._version)
        answers = {
            name: party.take(each.peer, msg.ServeAccepted).of(msg.ServeAccepted)
            for name, each in self._links.items()
        }
        scorer = self._scorer(run, self._version, answers)
        watch_for_newcomers(party)
        logger.info("serving %d rows, version %s", len(self._ids), scorer.version.hex()[:12])
        parties, shown = list(self._links), scorer.version.hex()
        log_request(run, rows=len(self._ids), parties=parties, version=shown)
        with party.in_phase("serve", round_number=run.round), self.half.evaluating():
            self._serve(run, scorer)
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(run.round))
            for peer in list(party.peers.values()):
                party.take_leave(peer)

    def _serve(self, run: Run, scorer: Scorer) -> None:
        trained, wish = self._version.loaded.trained, self._wish
        self._last.run = trained.run
        served = Served(trained.run.hex(), scorer.version.hex(), wish.turn if wish else 0)
        self._held.tell(served)
        switch = Switch[HostVersion](
            self._held,
            served,
            self._fresh and functools.partial(self._load_another, run, self._fresh),
            functools.partial(self._propose, run),
            self._links,
        )
        try:
            self._queue.open(scorer.version)
            while self._goes_on(switch):
                if requests := self._queue.take(scorer.most_rows, IDLE_SECONDS):
                    self._answer(scorer, requests)
                run.party.pump(0)
                scorer.drop_late()
                if (agreed := switch.step()) is not None:
                    scorer = self._taken_over(run, scorer, *agreed)
                    switch.granted(agreed[0].loaded.trained.run, scorer.version)
        finally:
            self._queue.close()
            switch.close()
            scorer.close()

    def _goes_on(self, switch: Switch[HostVersion]) -> bool:
        """Return whether the session goes on."""
        if switch.needs_new_link:
            return False
        if not self._queue.is_leaving or self._queue.rows_waiting or switch.is_asking:
            return True
        self._stop.set()
        return False

    def _taken_over(
        self,
        run: Run,
        scorer: Scorer,
        version: HostVersion,
        answers: Mapping[str, msg.ServeAccepted],
    ) -> Scorer:
        """Return the scorer of another version, which answers all requests from now on."""
        scorer.close()
        self._version, self._last.run = version, version.loaded.trained.run
        another = self._scorer(run, version, answers)
        self._queue.open(another.version)
        log_request(run, rows=len(self._ids), version=another.version.hex())
        return another

    def _answer(self, scorer: Scorer, requests: Sequence[Request]) -> None:
        try:
            self._queue.settle(scorer.score(requests))
        except BaseException:
            self._queue.settle([(each, unavailable()) for each in requests])
            raise
        self.served += 1

    def _settle_rows(self, run: Run) -> None:
        """Find out which rows are served, and which of them each Collaborator has."""
        own, matched = self._own, self._match(run)
        is_served = np.ones(len(own), bool)
        if self._serves.missing == "error":
            for names in self._parties.values():
                has = np.zeros(len(own), bool)
                for name in names:
                    has[matched[name]] = True
                is_served &= has
        served = np.flatnonzero(is_served)
        self._ids = own.take(served)
        self._index = Places(self._ids)
        secret = run.agreement.secret
        self._shared = {name: Shared.of(secret, own, matched[name], served) for name in matched}

    def _match(self, run: Run) -> dict[str, Rows]:
        """Return the positions of the own ids that each party has, from the table or an
        intersection.
        """
        if self._kept is not None and run.agreement.resume is not None:
            return {name: self._kept.rows(name) for name in self._kept.places}
        only_common = self._serves.missing == "error"
        roles = self._version.loaded.trained.roles
        with contextlib.closing(agreed_table.to_intersect(self._own)) as own:
            found = positions_of_each(run, own, only_common=only_common, roles=roles)
        matched = {name: np.array(each, np.int64) for name, each in found.items()}
        agreed_table.keep(run, self._own, matched)
        return matched

    def _propose(self, run: Run, version: HostVersion) -> None:
        """Tell each Collaborator the rows, and the models that they are to be served with."""
        trained = version.loaded.trained
        for name, link in self._links.items():
            rows = self._shared[name]
            plan = (trained.run, trained.rounds, trained.which, rows.count, rows.digest)
            run.party.post(link.peer, msg.ServePlan(*plan, version.digest))

    def _scorer(
        self, run: Run, version: HostVersion, answers: Mapping[str, msg.ServeAccepted]
    ) -> Scorer:
        """Return the scorer of a version on which all parties have agreed."""
        version.loaded.join(run, releases=False)
        partners = []
        for key, names in self._parties.items():
            for name in names:
                places = self._shared[name].places
                joint = joint_version(version.digest, answers[name].version)
                link = self._links[name]
                partners.append(Partner(link, key, version.imputers[key], joint, places))
        alone = len(partners) == 1
        joint = joint_version(*(each.version for each in partners))
        return Scorer(
            version.loaded.half,
            run.party,
            partners,
            self._ids,
            self._index,
            partners[0].version if alone else joint,
            by_mean=self._serves.missing,
            max_age=self._serves.max_age,
            load_timeout=self._serves.load_timeout,
        )
