"""Checks a receipt, offline, with nothing but public keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from heterofed.identity.receipt.lines import (
    FORMAT,
    Chain,
    Hash,
    Line,
    Signature,
    changed,
    encoded,
)
from heterofed.identity.receipt.statements import Statement, disagreements, read_signed, to_seal
from heterofed.identity.signing import has_signed
from heterofed.identity.task_terms import signing_keys, terms_digest
from heterofed.protocol.messages import Signed
from heterofed.protocol.plan import PartyName

T = TypeVar("T")


class _Began(msgspec.Struct):
    format: int
    task: str
    run: str
    party: PartyName


class _Terms(msgspec.Struct):
    terms: str
    digest: Hash


class _Ended(msgspec.Struct):
    rounds: int = -1
    error: str = ""


class _Told(msgspec.Struct, forbid_unknown_fields=True):
    peer: PartyName
    statement: str
    signature: Signature


class _Sealed(msgspec.Struct, forbid_unknown_fields=True):
    signature: Signature


@dataclass
class Checked:
    """The content of a receipt that was accepted.

    Attributes:
        party: the party that wrote and sealed it.
        task, run: the ids of the task and of the run.
        terms: the digest of the last terms.
        keys: the public keys in these terms, by party.
        rounds: the rounds that were trained; None if the run did not end as planned.
        stopped: the name of the error that ended the run early; else empty.
        resumed: how often the run went on after an interruption.
        said: the party's own statements, by the party to which they were made.
        heard: the last statement of each other party.
    """

    party: str
    task: str
    run: str
    terms: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    rounds: int | None = None
    stopped: str = ""
    resumed: int = 0
    said: dict[str, list[Statement]] = field(default_factory=dict)
    heard: dict[str, Statement] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The parties of which it has no signed statement."""
        return [each for each in self.keys if each != self.party and each not in self.heard]

    @property
    def contradicted(self) -> dict[str, list[str]]:
        """The fields that other parties signed differently, by party."""
        found = {peer: self._differs(peer, theirs) for peer, theirs in self.heard.items()}
        return {peer: fields for peer, fields in found.items() if fields}

    def _differs(self, peer: str, theirs: Statement) -> list[str]:
        said = self.said.get(peer, [])
        answered = [each for each in said if theirs.hash == each.answers] or [
            each for each in said if each.hash == theirs.answers
        ]
        return disagreements(answered[-1], theirs) if answered else ["answers"]


def check_receipt(content: bytes, known: Mapping[str, str] | None = None) -> Checked:
    """Check a receipt.

    Args:
        content: the bytes of the file.
        known: public keys by party, which the reader has from elsewhere. The receipt's own terms
            must list the same ones.

    Raises:
        ConfigError: something in it was changed or is missing, or the right key did not sign it.
    """
    chain = Chain(content)
    if [each.what for each in chain.lines[:2]] != ["began", "terms"]:
        raise changed("the lines with what was agreed are missing")
    began = _body(chain.lines[0], _Began)
    if began.format != FORMAT:
        raise changed(f"it has format {began.format}, and this version reads {FORMAT}")
    found = Checked(began.party, began.task, began.run)
    for line in chain.lines:
        _note(found, line)
    _check_seal(chain, found.keys.get(found.party, ""))
    for party, key in (known or {}).items():
        if found.keys.get(party) != key:
            raise changed(
                f"its terms list another signing key of {party} than you gave, or none, so it is of"
                " other terms, or somebody else made it"
            )
    return found


def check_together(receipts: Sequence[Checked]) -> None:
    """Check that the receipts of several parties of one run belong together.

    Raises:
        ConfigError: they are of other runs or terms, or one party holds a statement that the
            receipt of the party which signed it does not have.
    """
    by_party = {each.party: each for each in receipts}
    first = receipts[0]
    for one in receipts:
        if (one.task, one.run, one.terms) != (first.task, first.run, first.terms):
            raise changed(f"the one of {one.party} is of another run, or of other terms")
        for peer, heard in one.heard.items():
            other = by_party.get(peer)
            if other is not None and heard not in other.said.get(one.party, []):
                raise changed(
                    f"{one.party} holds a signed statement of {peer} that this receipt of {peer}"
                    f" does not have, so {peer} has written more than one"
                )


# -- within --------------------------------------------------------------------------------------


def _body(line: Line, kind: type[T]) -> T:
    try:
        return msgspec.convert(line.body, kind)
    except msgspec.ValidationError:
        raise changed(f"line {line.n} ({line.what}) lacks a field, or has a wrong one") from None


def _keys(agreed: _Terms) -> dict[str, str]:
    """Return the public keys of the parties, from the terms that the receipt quotes."""
    terms = agreed.terms.encode()
    if terms_digest(terms) != agreed.digest:
        raise changed("its terms do not have their digest")
    try:
        return signing_keys(terms)
    except ValueError:
        raise changed("its terms cannot be read") from None


def _check_seal(chain: Chain, key: str) -> None:
    last = chain.lines[-1]
    if last.what != "sealed":
        raise changed("it is not sealed, so its run has not ended, or lines were removed")
    signature = bytes.fromhex(_body(last, _Sealed).signature)
    if encoded(last) != chain.raw[-1] or not has_signed(key, to_seal(last.prev), signature):
        raise changed("the seal is not of these lines, or not of its party's key")


def _note(found: Checked, line: Line) -> None:
    match line.what:
        case "terms":
            agreed = _body(line, _Terms)
            found.terms, found.keys = agreed.digest, _keys(agreed)
        case "ended" | "stopped":
            ended = _body(line, _Ended)
            found.rounds = ended.rounds if line.what == "ended" else None
            found.stopped = ended.error
        case "resumed":
            found.resumed += 1
        case "said":
            peer, statement = _statement(line, found.party, found.keys)
            if (statement.head, statement.lines) != (line.prev, line.n):
                raise changed(f"line {line.n} states another receipt than this one")
            found.said.setdefault(peer, []).append(statement)
        case "heard":
            peer = _body(line, _Told).peer
            found.heard[peer] = _statement(line, peer, found.keys)[1]
        case _:
            pass


def _statement(line: Line, by: str, keys: Mapping[str, str]) -> tuple[str, Statement]:
    """Return the other party of a statement in a line, and the statement, which `by` signed."""
    told = _body(line, _Told)
    signed = Signed(told.statement.encode(), bytes.fromhex(told.signature))
    statement = read_signed(signed, keys.get(by, ""))
    if statement is None or statement.party != by:
        raise changed(f"line {line.n} has no statement that {by} signed")
    return told.peer, statement
