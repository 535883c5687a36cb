"""The Collaborators of a session at the Host: their links, and what each has of one version."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from heterofed.compute.alignment import keyed_digest
from heterofed.compute.packed_ids import PackedIds
from heterofed.errors import PeerLostError
from heterofed.hetero_nn.feature_means import FeatureImputer
from heterofed.hetero_nn.serve.feature_store import Rows
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail, Peer
from heterofed.protocol.messages import ServeAccepted, ServeAnswer

RowNumbers = np.ndarray[Any, np.dtype[np.int32]]
"""Numbers of rows; -1 stands for none."""


@dataclass(slots=True)
class Link:
    """The link to a Collaborator in one session.

    Attributes:
        peer: its connection.
        asked: the number of requests so far.
        late: the number of requests whose answers nobody awaits any more.
        told: what the Collaborator has said of further versions.
    """

    peer: Peer
    asked: int = 0
    late: int = 0
    told: deque[ServeAccepted] = field(default_factory=deque)

    def next(self, party: Party) -> Mail | None:
        """Return the next answer that is here; what is said of versions is kept aside."""
        while self.peer.inbox:
            mail = party.take(self.peer, ServeAnswer, ServeAccepted)
            if not isinstance(mail.message, ServeAccepted):
                return mail
            self.told.append(mail.message)
        return None

    def drop_late(self, party: Party) -> None:
        """Take answers that came after their deadline, and drop them.

        Raises:
            RemoteProtocolError: the Collaborator answers what was not asked.
        """
        while self.next(party) is not None:
            if not self.late:
                raise unlawful(self.peer.name, "serve", "answers what was not asked")
            self.late -= 1


@dataclass(frozen=True, slots=True)
class Shared:
    """The rows that the Host and a Collaborator have both, in one session.

    Attributes:
        count: the number of them.
        digest: the keyed digest of their ids.
        places: the number of each row that is served among them, int32; -1 if it is not.
    """

    count: int
    digest: bytes
    places: RowNumbers

    @classmethod
    def of(cls, secret: bytes, own: PackedIds, rows: Rows, served: Rows) -> Shared:
        """Return what two parties have in common.

        Args:
            secret: the key of the digest.
            own: the Host's ids, sorted.
            rows: the positions among them of the ids that the Collaborator has too, ascending.
            served: those of the ids that are served.
        """
        at = np.searchsorted(rows, served)
        at[at == len(rows)] = 0
        has = rows[at] == served if len(rows) else np.zeros(len(served), bool)
        places = np.where(has, at, -1).astype(np.int32)
        return cls(len(rows), keyed_digest(secret, "serve", own.take(rows)), places)


@dataclass(frozen=True, slots=True)
class Partner:
    """A Collaborator's part in one version of the model.

    Attributes:
        link: the link to it.
        key: the key of its features in projections: its own, or its role's if it is a site.
        imputer: describes its features in training, and replaces those of rows that it lacks.
        version: the version of its half and the Host's.
        places: the number of each row that is served in the table with it; -1 if it lacks the row.
    """

    link: Link
    key: str
    imputer: FeatureImputer
    version: bytes
    places: RowNumbers

    @property
    def peer(self) -> Peer:
        """The connection to it."""
        return self.link.peer

    @property
    def name(self) -> str:
        """The feature key of the party."""
        return self.link.peer.name


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
