"""Adds up, at the Host, the masked parts of a role's sites, which it cannot read."""

from __future__ import annotations

from heterofed.errors import ConfigError, SitesDifferError
from heterofed.messaging.aborts import unlawful
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Mail
from heterofed.privacy.mask_exact import added_up
from heterofed.protocol.messages import Message, SiteShare, SiteSum
from heterofed.protocol.plan import Plan, RoleSites


class SumRelay:
    """Receives the features of a round or part of a round, and adds up gradients in between.

    Args:
        party: the Host.
        plan: the plan, which has sites.
    """

    def __init__(self, party: Party, plan: Plan) -> None:
        self._party, self._plan = party, plan
        self._parts: dict[str, dict[str, Mail]] = {}

    def begin(self) -> None:
        """Add up the first weights of the sites of each role, before training begins.

        Raises:
            ConfigError: only some sites of a role are trained.
            SitesDifferError: the sites' models differ in size.
        """
        for role in self._plan.sites:
            peers = [self._party.peers[name] for name in role.parties]
            if len({each.session.trainable for each in peers}) > 1:
                raise ConfigError(
                    f"the sites of {role.role} train one model; give all of them the same"
                    " is_feature_trainable"
                )
            self._add_up(role, self._party.take_all(SiteShare, peers=peers))

    def take_all(self, *kinds: type[Message]) -> dict[str, Mail]:
        """Receive messages as `Party.take_all` does, and add up the parts that come before them.

        Raises:
            SitesDifferError: the sites of a role have different models.
        """
        party, mails = self._party, dict[str, Mail]()
        while len(mails) < len(party.peers):
            waiting = {name for parts in self._parts.values() for name in parts}
            owing = [
                each
                for each in party.peers.values()
                if each.name not in mails and each.name not in waiting
            ]
            if not owing:
                (name, *_) = mails.keys() & {each for r in self._plan.sites for each in r.parties}
                raise unlawful(name, party.phase, "went on without its part of a sum")
            for name, mail in party.take_all(*kinds, SiteShare, peers=owing).items():
                if isinstance(mail.message, SiteShare):
                    self._note(name, mail)
                else:
                    mails[name] = mail
        return {name: mails[name] for name in party.peers}

    def _note(self, name: str, mail: Mail) -> None:
        role = self._plan.sites_with(name)
        if role is None:
            raise unlawful(name, self._party.phase, "sent a part of a sum, and is no site")
        parts = self._parts.setdefault(role.role, {})
        parts[name] = mail
        if len(parts) == len(role.parties):
            del self._parts[role.role]
            self._add_up(role, parts)

    def _add_up(self, role: RoleSites, parts: dict[str, Mail]) -> None:
        """Send all sites the sum of their parts."""
        first, *others = role.parties
        said = {name: parts[name].of(SiteShare) for name in role.parties}
        for name in others:
            same = len(parts[name].payload) == len(parts[first].payload)
            if not same or said[name].check != said[first].check:
                raise SitesDifferError(
                    f"the feature models of {first} and {name} are not the same (weights,"
                    f" {'' if same else 'sizes, '}or settings of the optimizer); return the same"
                    " model and optimizer from the hooks of all sites, and change them alike",
                    party=name,
                )
        with self._party.computing():
            total = added_up([parts[name].payload for name in role.parties])
        keys = dict(zip(others, said[first].keys, strict=False))
        for name in role.parties:
            message = SiteSum(said[first].round, said[first].batch, keys.get(name))
            self._party.post(self._party.peers[name], message, [total])
