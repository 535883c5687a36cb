"""Defines all errors of a private set intersection, as one tree.

PSIError
├── IdsError            this party's own ids cannot be used
│   └── ChangedIdsError they are not those of a stored set, or of its interrupted creation
├── BudgetError         the peer asks for more than it may have
│   ├── LimitError      the number that the peer may have is used up
│   └── NotAllowedError the owner of a stored set has not allowed this peer to ask
├── StoreError          the files of a stored set are missing or damaged
├── StateError          this program called a method out of order
├── FaultError          this machine computed a wrong signature; nothing of it was sent
├── LibraryError        this machine has no library that can compute the protocol
├── ExecutorError       this party's executor cannot be used
│   └── WorkerError     a worker of it was lost too often, or returned wrong bytes
└── PeerError           the peer sent something that a check refuses
    ├── KeyRefusedError the peer's key is malformed or its proof does not hold
    ├── ValueRefusedError a value is out of range, malformed or repeated
    ├── CountError      more or fewer values than were announced
    ├── FilterRefusedError a filter is malformed, too coarse or of another domain
    ├── SignatureError  a signed value does not verify
    ├── StaleSetError   the peer asks for a set that was replaced
    └── ProofError      a claimed match is unknown, repeated or surplus
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class PSIError(Exception):
    """The base of all errors of psi."""


class IdsError(PSIError):
    """This party's own ids cannot be used: not strings, repeated, or not encodable as UTF-8.

    What to do: give unique strings.
    """


class ChangedIdsError(IdsError):
    """The ids or their order are not those of a stored set, or of its interrupted creation, whose
    domain may differ too.

    What to do: give the same, or create the set anew (with `fresh=True` after an interruption).
    """


class BudgetError(PSIError):
    """The peer asks for more signatures than its budget allows, counted over all runs of this task.

    What to do: find out why; raise the budget only if the peer's set really is that large.
    """


class LimitError(BudgetError):
    """The peer asks for more than is left of its limit, counted over all runs of this task."""


class NotAllowedError(BudgetError):
    """The owner of a stored set has not allowed this peer to ask.

    What to do: if the peer may ask, call `StoredSet.allow` at the owner.
    """


class StoreError(PSIError):
    """The files of a stored set are missing or damaged.

    What to do: create the stored set again, and ship its filter again.
    """


class StateError(PSIError):
    """A method was called out of order, which is a bug in the calling program."""


class FaultError(PSIError):
    """This machine computed a wrong signature, or its crypto library failed; nothing was released.

    A wrong signature would have given the private key away.
    What to do: run again; if it stays, suspect the memory, the processor or the library.
    """


class LibraryError(PSIError, OSError):
    """This machine has no library that can compute the protocol.

    What to do: install what the message names, or choose the other protocol.
    """


class ExecutorError(PSIError):
    """This party's executor cannot be used: its address is wrong, its library is missing, it does
    not answer, or the secret key must not be sent to it.

    What to do: what the message says, or leave the executor out.
    """


class WorkerError(ExecutorError):
    """A worker of this party's executor was lost over the same chunk again and again, or returned
    wrong bytes. Nothing of them was used.

    What to do: see the workers' logs and memory, and install the same version everywhere.
    """


class PeerError(PSIError):
    """The peer sent something that a check refuses.

    What to do: run the same version on both sides; if it stays, do not trust the peer.
    """


class KeyRefusedError(PeerError):
    """The peer's RSA key has a wrong size, exponent or modulus, or its proof does not hold."""


class ValueRefusedError(PeerError):
    """A value of the peer is out of range, malformed, not invertible or repeated."""


class CountError(PeerError):
    """The peer sent more or fewer values than were announced, or announced an impossible number."""


class FilterRefusedError(PeerError):
    """A filter is malformed, hits more ids than allowed, or was made for another domain."""


class StaleSetError(PeerError):
    """The peer asks for a stored set that was replaced, or that never existed.

    What to do: ship the filter of the current set to the peer.
    """


class SignatureError(PeerError):
    """A value that the peer signed does not verify."""


class ProofError(PeerError):
    """A match that the peer claims is unknown, repeated or more than there can be."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add the path to an `OSError` from inside, because errors of open files do not name it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise
