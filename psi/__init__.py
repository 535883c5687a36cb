"""Private set intersection: two parties learn which ids both hold, and little else.

    from psi import intersect
    intersect(["ann", "bob"], ["bob", "eve"])       # both parties in this process: ["bob"]

Across a network each party holds one object and carries its bytes to the other: `RSASigner`
and `RSARequester`. They know no socket and no clock. What each side learns: the intersection
and the size of the other's set; the requester first, the signer only what is proved to it.

A library of its own: it imports neither heterofed nor torch. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from psi.errors import (
    BudgetError,
    CountError,
    FaultError,
    IdsError,
    KeyRefusedError,
    PeerError,
    ProofError,
    PSIError,
    SignatureError,
    StateError,
    ValueRefusedError,
)

if TYPE_CHECKING:
    from psi.budget import Budget
    from psi.hashing import domain
    from psi.in_process import intersect
    from psi.requester import RSARequester
    from psi.signer import RSASigner

__all__ = [
    "Budget",
    "BudgetError",
    "CountError",
    "FaultError",
    "IdsError",
    "KeyRefusedError",
    "PSIError",
    "PeerError",
    "ProofError",
    "RSARequester",
    "RSASigner",
    "SignatureError",
    "StateError",
    "ValueRefusedError",
    "domain",
    "intersect",
]

_LATE = {
    "Budget": "psi.budget",
    "RSARequester": "psi.requester",
    "RSASigner": "psi.signer",
    "domain": "psi.hashing",
    "intersect": "psi.in_process",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'psi' has no attribute {name!r}")
    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
