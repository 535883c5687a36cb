"""Finds the ids that are common to all parties, where the ids of a role may be divided among sites.

An id is common if every Collaborator has it that is no site, and one site of each role.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from heterofed.errors import EmptyIntersectionError, SitesOverlapError
from heterofed.protocol.plan import RoleSites, SitesOverlap

NOBODY = 0xFF


class Divided:
    """The common ids of a run, by their positions among the Host's ids.

    Args:
        roles: the sites of each role that has some.
        overlap: what to do about an id that two sites of a role have.
        count: the number of the Host's ids.
        found: the positions of those that each connected Collaborator has.

    Attributes:
        common: the positions of the common ids, in ascending order.

    Raises:
        SitesOverlapError: two sites have one id, and `overlap` does not say who may have it.
    """

    def __init__(
        self,
        roles: Sequence[RoleSites],
        overlap: SitesOverlap,
        count: int,
        found: Mapping[str, array[int]],
    ) -> None:
        self._roles, self._found = roles, found
        self._sites = {
            each.role: _sites(each, count, found, is_error=overlap == "error")
            for each in roles
            if any(party in found for party in each.parties)
        }
        whole = [where for name, where in found.items() if self._role(name) is None]
        for sites in self._sites.values():
            whole.append(array("Q", (at for at, site in enumerate(sites) if site != NOBODY)))
        self.common = in_all(count, whole)

    def having(self, party: str) -> array[int]:
        """Return the positions of the common ids that a Collaborator has."""
        return self._of_site(party, self.common)

    def own(self, party: str) -> array[int]:
        """Return the positions of the ids that a Collaborator has and no other site answers for."""
        return self._of_site(party, self._found[party])

    def check(self) -> None:
        """Check that every site has a common id.

        Raises:
            EmptyIntersectionError: a site has none.
        """
        for role in self._roles:
            for party in role.parties:
                if not self.having(party):
                    raise EmptyIntersectionError(
                        f"{party} has no id that all other roles have; leave this site out of"
                        f" {role.role}, or compare how it writes its ids",
                        party=party,
                    )

    def site_of(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the number of the site that has each common id, by role.

        Args:
            names: the common ids, in the order of `common`.
        """
        return {
            role: {name: sites[at] for name, at in zip(names, self.common, strict=True)}
            for role, sites in self._sites.items()
        }

    def _of_site(self, party: str, positions: array[int]) -> array[int]:
        role = self._role(party)
        if role is None:
            return positions
        sites, own = self._sites[role.role], role.parties.index(party)
        return array("Q", (at for at in positions if sites[at] == own))

    def _role(self, party: str) -> RoleSites | None:
        return next((each for each in self._roles if party in each.parties), None)


def in_all(count: int, found: Sequence[array[int]]) -> array[int]:
    """Return the positions below `count` that all arrays in `found` contain, in ascending order."""
    parties = bytearray(count)
    for positions in found:
        for position in positions:
            parties[position] += 1
    return array("Q", (at for at, having in enumerate(parties) if having == len(found)))


def _sites(
    role: RoleSites, count: int, found: Mapping[str, array[int]], *, is_error: bool
) -> bytearray:
    """Return the number of the first site that has each id, or `NOBODY`."""
    sites, twice = bytearray([NOBODY]) * count, 0
    for number, party in enumerate(role.parties):
        for at in found.get(party, ()):
            if sites[at] == NOBODY:
                sites[at] = number
            else:
                twice += 1
    if twice and is_error:
        raise SitesOverlapError(
            f"{twice} ids are at more than one site of {role.role}; let each person's rows be at"
            " one site alone, or give sites_overlap='first', so that the first site in the list"
            " has them"
        )
    return sites
