"""Private set intersection: two parties learn which ids both hold, and little else.

    from psi import intersect
    intersect(["ann", "bob"], ["bob", "eve"])       # both parties in this process: ["bob"]

Across a network each party holds one object and carries its bytes to the other: `signer(...)`
and `requester(...)`, by the protocol "rsa" or "ecdh". These objects know no socket and no clock.
Each side learns the size of the other's set. The requester learns the intersection first; the
signer learns only the matches that the requester proves to it.

This package imports neither heterofed nor torch. Its names are imported on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from psi.errors import (
    BudgetError,
    ChangedIdsError,
    CountError,
    ExecutorError,
    FaultError,
    FilterRefusedError,
    IdsError,
    KeyRefusedError,
    LibraryError,
    LimitError,
    NotAllowedError,
    PeerError,
    ProofError,
    PSIError,
    SignatureError,
    StaleSetError,
    StateError,
    StoreError,
    ValueRefusedError,
    WorkerError,
)

if sys.platform == "win32":  # files are opened by ways that Windows does not have
    raise ImportError("psi runs on Linux and macOS; on Windows install it within WSL 2")

if TYPE_CHECKING:
    from psi.cardinality import CountAnswerer, CountAsker, count_common
    from psi.ecdh.requester import ECDHRequester
    from psi.ecdh.signer import ECDHSigner
    from psi.hashing import domain
    from psi.multiparty.here import intersect_all
    from psi.multiparty.requester import JointRequester, common_positions
    from psi.multiparty.signer import JointSigner
    from psi.multiparty.zero_shares import ZeroShares
    from psi.protocols import Protocol, check_protocol, intersect, requester, signer
    from psi.requesting import Requester
    from psi.rsa.requester import RSARequester
    from psi.rsa.signer import RSASigner
    from psi.signing import Signer
    from psi.sources import column
    from psi.storage.budget import Budget
    from psi.storage.id_list import OwnIds
    from psi.storage.key_store import KeptKey
    from psi.storage.result_store import Resume
    from psi.unequal.answerer import SetAnswerer
    from psi.unequal.asker import SetAsker
    from psi.unequal.filter import Filter, FilterReceiver
    from psi.unequal.store import StoredSet

__all__ = [
    "Budget",
    "BudgetError",
    "ChangedIdsError",
    "CountAnswerer",
    "CountAsker",
    "CountError",
    "ECDHRequester",
    "ECDHSigner",
    "ExecutorError",
    "FaultError",
    "Filter",
    "FilterReceiver",
    "FilterRefusedError",
    "IdsError",
    "JointRequester",
    "JointSigner",
    "KeptKey",
    "KeyRefusedError",
    "LibraryError",
    "LimitError",
    "NotAllowedError",
    "OwnIds",
    "PSIError",
    "PeerError",
    "ProofError",
    "Protocol",
    "RSARequester",
    "RSASigner",
    "Requester",
    "Resume",
    "SetAnswerer",
    "SetAsker",
    "SignatureError",
    "Signer",
    "StaleSetError",
    "StateError",
    "StoreError",
    "StoredSet",
    "ValueRefusedError",
    "WorkerError",
    "ZeroShares",
    "check_protocol",
    "column",
    "common_positions",
    "count_common",
    "domain",
    "intersect",
    "intersect_all",
    "requester",
    "signer",
]

_LATE = {
    "Budget": "psi.storage.budget",
    "CountAnswerer": "psi.cardinality",
    "CountAsker": "psi.cardinality",
    "ECDHRequester": "psi.ecdh.requester",
    "ECDHSigner": "psi.ecdh.signer",
    "Filter": "psi.unequal.filter",
    "FilterReceiver": "psi.unequal.filter",
    "JointRequester": "psi.multiparty.requester",
    "JointSigner": "psi.multiparty.signer",
    "KeptKey": "psi.storage.key_store",
    "OwnIds": "psi.storage.id_list",
    "Protocol": "psi.protocols",
    "RSARequester": "psi.rsa.requester",
    "RSASigner": "psi.rsa.signer",
    "Requester": "psi.requesting",
    "Resume": "psi.storage.result_store",
    "SetAnswerer": "psi.unequal.answerer",
    "SetAsker": "psi.unequal.asker",
    "Signer": "psi.signing",
    "StoredSet": "psi.unequal.store",
    "ZeroShares": "psi.multiparty.zero_shares",
    "check_protocol": "psi.protocols",
    "column": "psi.sources",
    "common_positions": "psi.multiparty.requester",
    "count_common": "psi.cardinality",
    "domain": "psi.hashing",
    "intersect": "psi.protocols",
    "intersect_all": "psi.multiparty.here",
    "requester": "psi.protocols",
    "signer": "psi.protocols",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'psi' has no attribute {name!r}")
    value = getattr(import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
