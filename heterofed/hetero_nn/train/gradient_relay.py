"""Relays, at the Host, the tags by which Collaborators compare their gradients."""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail
from heterofed.protocol.messages import GradientsSeen, Message, SeenByOthers


class TagRelay:
    """Receives the features of a round or part of a round, and relays the tags in between.

    Args:
        party: the Host.
        names: the names of all Collaborators, in the plan's order.
    """

    def __init__(self, party: Party, names: Sequence[str]) -> None:
        self._party = party
        self._names = tuple(names)
        self._tags: dict[int, dict[str, dict[str, bytes]]] = {}

    def take_all(self, *kinds: type[Message]) -> dict[str, Mail]:
        """Receive messages as `Party.take_all` does, and relay the tags before and after them.

        Raises:
            RemoteProtocolError: a party continued without sending tags that the others wait for.
        """
        party, mails = self._party, dict[str, Mail]()
        for peer in party.peers.values():  # with staleness, other messages come before them
            while (early := peer.pick(GradientsSeen)) is not None:
                self._note(peer.name, early.of(GradientsSeen))
        while len(mails) < len(party.peers):
            # Parties that wait for others' tags.
            waiting = {name for tags in self._tags.values() for name in tags}
            missing = [each for each in party.peers.values() if each.name not in mails]
            owing = [each for each in missing if each.inbox or each.name not in waiting]
            if not owing:
                (name, *_) = mails.keys() - waiting
                raise unlawful(name, party.phase, "sent features before the tags of gradients")
            for name, mail in party.take_all(*kinds, GradientsSeen, peers=owing).items():
                if isinstance(mail.message, GradientsSeen):
                    self._note(name, mail.message)
                else:
                    mails[name] = mail
        return {name: mails[name] for name in party.peers}

    def _note(self, name: str, message: GradientsSeen) -> None:
        others = [each for each in self._names if each != name]
        tags = self._tags.setdefault(message.batch, {})
        tags[name] = dict(zip(others, message.tags, strict=True))
        if len(tags) < len(self._names):
            return
        del self._tags[message.batch]
        for peer in self._party.peers.values():
            theirs = tuple(tags[each][peer.name] for each in self._names if each != peer.name)
            self._party.post(peer, SeenByOthers(message.round, message.batch, theirs))
