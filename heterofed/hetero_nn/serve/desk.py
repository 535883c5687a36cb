"""Answers one Host over a standing link, each request by the version that it names.

A further version is loaded in a thread, so that requests for those before it do not wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from heterofed.compute.packed_ids import PackedIds
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.serve.agreed_table import joint_version
from heterofed.hetero_nn.serve.answers import Answers, RequestLog, refuse
from heterofed.hetero_nn.serve.loaded import Loaded
from heterofed.hetero_nn.serve.sessions import shown
from heterofed.messaging.aborts import SIGTERM_EXIT, unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail, Peer
from heterofed.protocol import messages as msg

logger = logging.getLogger("heterofed")

IDLE_SECONDS, LOADING_SECONDS = 0.5, 0.02
"""The longest time in seconds between two looks at the link while no request comes, and while
a version is being loaded.
"""

MOST_VERSIONS = 2
"""The most versions that are held at once: the one that is served, and one before or after it."""

NO_VERSION = bytes(32)

Load = Callable[[msg.ServePlan], Loaded[HalfModels] | None]
"""Loads the half that a plan names; None if this party does not hold it."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rows on which the parties agreed.

    Attributes:
        ids: the ids, sorted.
        digest: their keyed digest.
    """

    ids: PackedIds
    digest: bytes

    def fits(self, plan: msg.ServePlan) -> bool:
        """Return whether a plan is for these rows."""
        return (plan.count, plan.ids) == (len(self.ids), self.digest)


class Desk:
    """Answers one Host in one session.

    Args:
        party: this party.
        host: the Host.
        table: the rows that it may ask for.
        load: loads a further version; it is called in a thread.
        make: makes what answers requests for a loaded version, with the version of both halves.
        log: gets what was asked, without ids.
        leave: ends the session once it is set.
    """

    def __init__(
        self,
        party: Party,
        host: Peer,
        table: Table,
        load: Load,
        make: Callable[[Loaded[HalfModels], bytes], Answers],
        log: RequestLog,
        leave: threading.Event,
    ) -> None:
        self._party, self._host, self._table, self._log = party, host, table, log
        self._load, self._make, self._leave = load, make, leave
        self._versions: dict[bytes, Answers] = {}
        self._digests: dict[tuple[bytes, str], bytes] = {}
        self._last = b""
        self._thread = ThreadPoolExecutor(1, "heterofed-version")
        self._loading: tuple[msg.ServePlan, Future[Loaded[HalfModels] | None]] | None = None

    def take_up(self, plan: msg.ServePlan, loaded: Loaded[HalfModels]) -> bytes:
        """Serve a version from now on, and return the digest of this party's half.

        If there are too many, one is dropped for which the last request was not.
        """
        mine = self._digests[plan.run, plan.models] = loaded.digest()
        version = joint_version(plan.version, mine)
        while len(self._versions) >= MOST_VERSIONS:
            unused = next(each for each in self._versions if each != self._last)
            self._versions.pop(unused).close()
        self._versions[version] = self._make(loaded, version)
        return mine

    def next(self) -> bool:
        """Wait for a request and answer it; return False if the Host ended the link instead.

        Raises:
            SystemExit: `leave` is set; the Host is told that this party goes.
        """
        while not self._host.inbox:
            self._party.pump(LOADING_SECONDS if self._loading else IDLE_SECONDS)
            self._log.tick()
            self._answer_plan()
            if self._leave.is_set():
                raise SystemExit(SIGTERM_EXIT)
        mail = self._party.take(self._host, msg.ServeRequest, msg.ServePlan, msg.Finish)
        match mail.message:
            case msg.ServePlan():
                self._begin_loading(mail.message)
            case msg.ServeRequest():
                self._answer(mail.message, mail)
                self._answer_plan()
            case _:
                return False
        return True

    def close(self) -> None:
        """Wait for nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for each in self._versions.values():
            each.close()

    def _answer(self, request: msg.ServeRequest, mail: Mail) -> None:
        rows = np.frombuffer(mail.payload, "<u4").astype(np.int64)
        if rows.max() >= len(self._table.ids):
            raise unlawful(self._host.name, "serve", "asks for rows that the table does not have")
        answers = self._versions.get(request.version)
        self._last = request.version
        if answers is None:
            refuse(self._party, self._host, request, "other_version")
            self._log.note(0, 0, refused=1)
        else:
            answers.answer(request, rows)

    def _begin_loading(self, plan: msg.ServePlan) -> None:
        if not self._table.fits(plan):
            raise unlawful(self._host.name, "serve", "asks for a version of other rows")
        mine = self._digests.get((plan.run, plan.models))
        if mine is not None and joint_version(plan.version, mine) in self._versions:
            self._party.post(self._host, msg.ServeAccepted(mine))
            return
        self._loading = plan, self._thread.submit(self._load, plan)

    def _answer_plan(self) -> None:
        """Tell the Host whether the version that it asked for is served, once this is known."""
        if self._loading is None or not self._loading[1].done():
            return
        (plan, loading), self._loading = self._loading, None
        try:
            loaded = loading.result(0)
            if loaded is None:
                self._party.post(self._host, msg.ServeAccepted(NO_VERSION, "other_version"))
                return
            mine = self.take_up(plan, loaded)
        except Exception as error:
            logger.error("a version cannot be served: %s", shown(error))
            self._party.post(self._host, msg.ServeAccepted(NO_VERSION, "failed"))
            return
        self._party.post(self._host, msg.ServeAccepted(mine))
        logger.info("serving another version too, of run %s", plan.run.hex()[:12])
