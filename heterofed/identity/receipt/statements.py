"""Defines what a party signs: a statement to one other party, and the seal of its own receipt."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from heterofed.identity.receipt.lines import Hash, encoded, hash_of
from heterofed.identity.signing import SigningKey, has_signed
from heterofed.protocol.messages import MAX_STATEMENT_BYTES, Signed
from heterofed.protocol.plan import PartyName

SAYS, SEALS = b"heterofed statement\0", b"heterofed seal\0"
"""The beginnings of the bytes that are signed, so that neither kind passes for the other."""


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A statement of one party to another about a run.

    Attributes:
        task: the id of the task.
        run: the id of the run, 32 hexadecimal digits.
        party: the party that states this.
        peer: the party to which it is stated.
        terms: the digest of the terms.
        plan: the hash of the plan, which has also what the terms leave to the Host.
        rounds: the number of rounds that were trained.
        link: the digest of all messages between the two.
        lines: the number of lines that the party's receipt had then.
        head: the hash of the last of them.
        answers: the hash of the peer's statement that this one answers, or empty.
    """

    task: PartyName
    run: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    party: PartyName
    peer: PartyName
    terms: Hash
    plan: Hash
    rounds: Annotated[int, Meta(ge=0, le=2**40)]
    link: Hash
    lines: Annotated[int, Meta(ge=1, le=2**40)]
    head: Hash
    answers: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""

    @property
    def text(self) -> bytes:
        """The statement as it is signed and sent."""
        return encoded(self)

    @property
    def hash(self) -> str:
        """The hash to which an answer refers."""
        return hash_of(self.text)

    def signed_by(self, key: SigningKey) -> Signed:
        """Return the statement with its signature."""
        return Signed(self.text, key.sign(SAYS + self.text))


def read_signed(signed: Signed, key: str) -> Statement | None:
    """Return a statement, which may come from a peer; None if this key did not sign it."""
    if len(signed.text) > MAX_STATEMENT_BYTES:
        return None
    if not has_signed(key, SAYS + signed.text, signed.signature):
        return None
    try:
        found = msgspec.json.decode(signed.text, type=Statement)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return found if found.text == signed.text else None


def to_seal(head: str) -> bytes:
    """Return the bytes that seal a receipt whose last line has this hash."""
    return SEALS + bytes.fromhex(head)


def disagreements(mine: Statement, theirs: Statement) -> list[str]:
    """Return the fields in which another party's statement contradicts this party's own."""
    expected = {"party": mine.peer, "peer": mine.party}
    same = ("task", "run", "party", "peer", "terms", "plan", "rounds", "link")
    return [
        name for name in same if getattr(theirs, name) != expected.get(name, getattr(mine, name))
    ]
