"""Types the arguments that all signers and all requesters share; base classes have the defaults."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from psi.executors import Pool
    from psi.storage.budget import Budget
    from psi.storage.key_store import KeptKey
    from psi.storage.result_store import Resume


class PartySettings(TypedDict, total=False):
    """The arguments that both roles share."""

    workers: int | None
    executor: Executor | Pool | str | None
    bucket_ids: int
    scratch: str | os.PathLike[str] | None
    max_peer_ids: int


class SignerSettings(PartySettings, total=False):
    """The arguments of every signer; see `psi.signing.Signer`."""

    budget: Budget | None
    kept: KeptKey | None
    key_leaves: bool | None


class RequesterSettings(PartySettings, total=False):
    """The arguments of every requester; see `psi.requesting.Requester`."""

    chunk_ids: int
    budget: Budget | None
    resume: Resume | None
