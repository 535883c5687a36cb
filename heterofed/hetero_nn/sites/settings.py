"""Reads and checks the Host's settings of sites: the names of the sites of each role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from heterofed.errors import ConfigError
from heterofed.protocol.plan import (
    MAX_ROLES,
    MAX_SITES,
    RoleSites,
    SitesOverlap,
    SitesShare,
)
from heterofed.reporting.results import check_name
from heterofed.runs.settings import is_count

MOST_BATCHES = 2**31

Sites = Mapping[str, Sequence[str]]


def site_key(role: object, site: object) -> str:
    """Return the feature key of the party that is a site of a role."""
    return f"{role}.{site}"


def parties_of(collaborators: Any, sites: Any) -> Any:
    """Return the Collaborators to wait for: in place of each role with sites, its sites.

    Values of a wrong type are returned as they are, because they are checked later.

    Args:
        collaborators: the number of roles, or their names.
        sites: the names of the sites of each role that has some.
    """
    if not sites or not _is_named(sites):
        return collaborators
    if isinstance(collaborators, int) and not isinstance(collaborators, bool):
        return collaborators + sum(len(each) - 1 for each in sites.values())
    if isinstance(collaborators, str) or not isinstance(collaborators, Sequence):
        return collaborators
    return [
        party
        for role in collaborators
        for party in ([site_key(role, each) for each in sites[role]] if role in sites else [role])
    ]


def plan_of_sites(sites: Sites | None) -> tuple[RoleSites, ...]:
    """Return the sites of each role as they stand in the plan."""
    return tuple(
        RoleSites(role, tuple(site_key(role, each) for each in names))
        for role, names in (sites or {}).items()
    )


def check_sites(settings: Any) -> None:
    """Check the settings of a Host whose roles may have sites.

    Args:
        settings: the `HostSettings`.

    Raises:
        ConfigError: a setting is wrong, or does not go with sites; the message names it.
    """
    sites = settings.sites
    if settings.sites_overlap not in get_args(SitesOverlap):
        known = " or ".join(map(repr, get_args(SitesOverlap)))
        raise ConfigError(f"sites_overlap={settings.sites_overlap!r}: give {known}")
    if settings.sites_share not in get_args(SitesShare):
        known = " or ".join(map(repr, get_args(SitesShare)))
        raise ConfigError(f"sites_share={settings.sites_share!r}: give {known}")
    if not is_count(settings.sites_every, 1) or settings.sites_every > MOST_BATCHES:
        raise ConfigError(f"sites_every={settings.sites_every!r}: give 1 to {MOST_BATCHES} batches")
    if sites is None:
        return
    if not _is_named(sites) or not 0 < len(sites) <= MAX_ROLES:
        raise ConfigError(
            f"sites={sites!r}: give the names of 2 to {MAX_SITES} sites for each role that has"
            " some, as in {'shop': ['north', 'south']}"
        )
    for role, names in sites.items():
        for name in (role, *names):
            check_name(name, "sites")
    _check_fits(settings)


def check_whole(settings: Any, what: str) -> None:
    """Refuse what works only with one party for each role.

    Args:
        settings: the settings of a Host or a Collaborator.
        what: what is refused.

    Raises:
        ConfigError: a role has sites.
    """
    if getattr(settings, "sites", None) or getattr(settings, "site", None) is not None:
        raise ConfigError(
            f"{what} does not go with sites: it takes every row of a batch from each party, and a"
            " site has only some of them; use one party that has all rows of the role"
        )


def _is_named(sites: Any) -> bool:
    return isinstance(sites, Mapping) and all(
        isinstance(each, Sequence)
        and not isinstance(each, str)
        and 1 < len(each) <= MAX_SITES
        and len({str(name) for name in each}) == len(each)
        for each in sites.values()
    )


def _check_fits(settings: Any) -> None:
    expected = settings.collaborators
    for each in plan_of_sites(settings.sites):
        listed = isinstance(expected, int) or set(each.parties) <= set(expected)
        if not listed:
            raise ConfigError(
                f"sites has the role {each.role}, which collaborators does not list; add it there"
            )
    if not settings.batch_size:
        raise ConfigError(
            "sites needs batch_size: give it, and use self.batches in the hooks of all parties"
        )
    unfit = {
        "fusion": settings.fusion != "separate",
        "max_staleness": settings.max_staleness != 0,
        "early_gradients": bool(settings.early_gradients),
        "party_dropout": settings.party_dropout > 0,
        "final_rows": settings.final_rows > 0,
        "id_keys": settings.id_keys != 1,
        "the limit min_batch": (settings.limits or {}).get("min_batch") is not None,
    }
    for name, is_set in unfit.items():
        if is_set:
            raise ConfigError(f"sites does not go with {name}; leave one of the two out")
