"""Takes a standing link over to another version of the model, without a pause for requests.

The Host loads the version in a thread, and then asks every Collaborator to do the same. Until all
have agreed, requests are answered by the version before it. If one of them refuses, it goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from heterofed.hetero_nn.serve.held_runs import HeldRuns, Served, Wanted
from heterofed.hetero_nn.serve.partners import Link
from heterofed.hetero_nn.serve.sessions import shown
from heterofed.protocol.messages import ServeAccepted
from heterofed.runs.artifacts import Trained

logger = logging.getLogger("heterofed")

LOOK_SECONDS = 0.5
"""The time in seconds between two looks at which run is wanted."""

V = TypeVar("V")

REFUSED = {
    "other_version": "{party} holds no such run; bring it there by `heterofed models add`",
    "failed": "{party} could not load it; see its log",
}
"""The reasons for which a Collaborator does not serve a version, in words."""


class Switch(Generic[V]):
    """Looks which run is wanted, and has the parties agree on it.

    Args:
        held: the runs of this party.
        served: what is served now.
        load: loads a run here; it is called in a thread. None if only a new link can do so.
        propose: asks the Collaborators for a loaded version.
        links: the links by the name of the party.

    Attributes:
        needs_new_link: whether another run is wanted that is to be loaded for a new link.
    """

    def __init__(
        self,
        held: HeldRuns,
        served: Served,
        load: Callable[[Trained], V] | None,
        propose: Callable[[V], None],
        links: Mapping[str, Link],
    ) -> None:
        self._held, self._served, self._links = held, served, links
        self._load, self._propose = load, propose
        self._thread = ThreadPoolExecutor(1, "heterofed-version")
        self._wish = Wanted("")
        self._loading: Future[V] | None = None
        self._asked: V | None = None
        self._next_look = 0.0
        self.needs_new_link = False

    @property
    def is_asking(self) -> bool:
        """Whether a Collaborator still has to say whether it takes a version."""
        return self._asked is not None

    def step(self) -> tuple[V, dict[str, ServeAccepted]] | None:
        """Go on as far as nothing has to be waited for.

        Returns:
            A version on which all parties have agreed, with the answer of each Collaborator.
        """
        if self._asked is not None:
            return self._agreed(self._asked)
        if self._loading is None:
            self._look()
        elif self._loading.done():
            self._ask(self._loading)
        return None

    def granted(self, run: bytes, version: bytes) -> None:
        """Tell the operator that the version is served."""
        self._served = Served(run.hex(), version.hex(), self._wish.turn)
        self._held.tell(self._served)
        logger.info("version %s takes over", version.hex()[:12])

    def close(self) -> None:
        """Load nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        wish = self._held.wanted()
        if wish is None or wish.turn == self._served.turn:
            return
        self._wish = wish
        if wish.run == self._served.run:
            self.granted(bytes.fromhex(wish.run), bytes.fromhex(self._served.version))
            return
        found = next((each for each in self._held.all() if each.run.hex() == wish.run), None)
        if found is None:
            self._refuse("this party holds no such run")
        elif self._load is None:
            self.needs_new_link = True
        else:
            self._loading = self._thread.submit(self._load, found)

    def _ask(self, loading: Future[V]) -> None:
        self._loading = None
        try:
            version = loading.result(0)
        except Exception as error:
            self._refuse(shown(error))
        else:
            self._asked = version
            self._propose(version)

    def _agreed(self, version: V) -> tuple[V, dict[str, ServeAccepted]] | None:
        if not all(each.told for each in self._links.values()):
            return None
        self._asked = None
        told = {name: each.told.popleft() for name, each in self._links.items()}
        for name, answer in told.items():
            if answer.refused:
                self._refuse(REFUSED[answer.refused].format(party=name))
                return None
        return version, told

    def _refuse(self, why: str) -> None:
        logger.warning("the run %s does not take over: %s", self._wish.run[:12], why)
        served = self._served
        self._served = Served(served.run, served.version, self._wish.turn, why)
        self._held.withdraw(self._wish, served.run)
        self._held.tell(self._served)
