"""Writes the receipt of a run at one party, and exchanges statements with the others at its end.

The receipt is `receipt.jsonl` in the results folder, one chain over all restarts. Each line is
written before the checkpoint of which it tells. It holds numbers, digests, names of parties and the
terms, but no id, label, column or secret key.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from heterofed._version import __version__
from heterofed.errors import LeakLimitError, ResumeError, TaskFailed
from heterofed.files import append, heterofed_home, read, truncate, writing
from heterofed.identity import consent
from heterofed.identity.receipt.lines import FORMAT, Chain, What, encoded, hash_of
from heterofed.identity.receipt.statements import (
    Statement,
    disagreements,
    read_signed,
    to_seal,
)
from heterofed.identity.signing import load_signing_key
from heterofed.identity.task_terms import signing_keys, terms_digest
from heterofed.messaging.transcript import BEGINNING, Transcript
from heterofed.protocol.messages import Mark, Signed
from heterofed.protocol.plan import Plan
from heterofed.protocol.states import Role
from heterofed.runs.no_receipt import NoReceipt
from heterofed.runs.run import Run
from heterofed.runs.term_limits import TASK

logger = logging.getLogger("heterofed")

NAME = "receipt.jsonl"

COUNTED = ("rounds", "bytes")
"""The counts in the ledger for limits of the terms."""


SYNCED = ("said", "sealed")
"""Lines that survive a power cut, with all before them, before anything else happens. A cut may
cost the others; a kill costs none.
"""


def opened_receipt(run: Run) -> NoReceipt:
    """Return the receipt of a run whose results folder exists, to which lines can be added.

    Raises:
        ResumeError: the receipt of a resumed run is gone, or was changed.
        ConfigError: this party's signing key cannot be read.
    """
    path = run.result.folder / NAME
    signs = bool(run.terms and signing_keys(run.terms))
    return Receipt(run, path) if signs or path.exists() else NoReceipt()


class Receipt(NoReceipt):
    """The receipt of one run at one party whose terms list signing keys.

    Args:
        run: the run.
        path: the file of the receipt.
    """

    def __init__(self, run: Run, path: Path) -> None:
        self._run, self._path = run, path
        self._transcript = run.transcript or Transcript(is_host=True)
        run.state.new_leaks.clear()
        self._said: dict[str, Statement] = {}
        self._heard: dict[str, Statement] = {}
        self._chain = self._read()
        self._resumed: dict[str, Any] | None = None  # the line that stands before the next one
        if self._chain.lines:
            mark = run.agreement.resume if run.maybe_agreement else None
            place = {} if mark is None else {"round": mark.round, "batch": mark.batch}
            self._resumed = {**place, "versions": _versions()}
        else:
            self._begin()
        self._keys = signing_keys(self._agree())
        self._key = load_signing_key(run.result.party, heterofed_home())

    # -- the run -----------------------------------------------------------------------------

    def note(self, mark: Mark) -> None:
        """See `NoReceipt`."""
        run = self._run
        links = run.state.kept.links = self._transcript.digests()
        if mark == Mark(0):
            ids = {"own": (run.state.own_ids or (0,))[0], "common": run.result.ids}
            rows = {"train": len(run.state.train_ids), "test": len(run.state.test_ids)}
            self._add("split", ids=ids, rows=rows, links=links)
            return
        leaks = [
            {"party": each.party, "attack": each.attack, each.measure: each.value}
            for each in run.state.new_leaks
        ]
        run.state.new_leaks.clear()
        place = {"round": mark.round, "batch": mark.batch}
        sent = run.party.bytes_sent
        self._add("round", **place, links=links, leaks=leaks, spent=self._spent(), bytes_sent=sent)

    def go_on_from(self, links: Mapping[str, str]) -> None:
        """See `NoReceipt`."""
        self._run.state.new_leaks.clear()
        self._transcript.go_on_from(links)

    def end(self) -> None:
        """See `NoReceipt`."""
        if self._chain.last("began", "resumed", "ended") == "ended":
            return
        run = self._run
        self._add(
            "ended",
            rounds=run.round,
            models={name: _digest(path) for name, path in sorted(run.result.models.items())},
            defences=run.defences,
            spent=self._spent(),
        )

    def stop(self, error: BaseException) -> None:
        """See `NoReceipt`. A limit of the terms ends a task for good, so it is sealed then."""
        if self._run.complete:
            return
        found: dict[str, Any] = {"error": type(error).__name__}
        if isinstance(error, TaskFailed):
            found["party"] = error.party or ""
        if isinstance(error, LeakLimitError):
            found |= {"measure": error.measure, "value": error.value, "limit": error.limit}
        self._add("stopped", **found, spent=self._spent())
        if isinstance(error, LeakLimitError):
            self.seal()

    def seal(self) -> None:
        """See `NoReceipt`."""
        if self._chain.lines[-1].what == "sealed":
            return
        self._flush()
        signature = self._key.sign(to_seal(self._chain.head))
        self._add("sealed", signature=signature.hex())
        logger.info("receipt: %s", self._path)

    # -- the others --------------------------------------------------------------------------

    def say(self, peer: str) -> Signed | None:
        """See `NoReceipt`. A Collaborator answers the statement that it has heard."""
        self._flush()
        answers = self._heard[peer].hash if peer in self._heard else ""
        if self._run.party.role is Role.HOST:
            self._transcript.end(peer)
        statement = self._said[peer] = self._statement(peer, answers)
        signed = statement.signed_by(self._key)
        self._add("said", **_told(peer, signed))
        return signed

    def hear(self, peer: str, signed: Signed | None) -> None:
        """See `NoReceipt`."""
        theirs = read_signed(signed, self._keys.get(peer, "")) if signed is not None else None
        if signed is None or theirs is None or theirs.party != peer:
            why = "nothing signed" if signed is None else "nothing that its key signed"
            self._add("unheard", peer=peer, why=why)
            logger.warning("%s has sent %s, and the receipt says so", peer, why)
            return
        self._heard[peer] = theirs
        self._add("heard", **_told(peer, signed))
        if differ := disagreements(self._said.get(peer) or self._statement(peer, ""), theirs):
            logger.warning(
                "%s signed another statement of this run than this party's (%s): the two have not"
                " seen the same run; keep both receipts",
                peer,
                ", ".join(differ),
            )

    def _statement(self, peer: str, answers: str) -> Statement:
        run = self._run
        return Statement(
            task=run.task_id,
            run=run.agreement.run.hex(),
            party=run.party.name,
            peer=peer,
            terms=terms_digest(run.terms),
            plan=hash_of(encoded(_as_sent(run.plan))),
            rounds=run.round,
            link=self._transcript.digests().get(peer, BEGINNING.hex()),
            lines=len(self._chain.lines),
            head=self._chain.head,
            answers=answers,
        )

    # -- within ------------------------------------------------------------------------------

    def _read(self) -> Chain:
        """Return the lines of this run so far; one that a kill cut off is removed."""
        try:
            content = read(self._path)
        except FileNotFoundError:
            content = b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with writing(self._path):
                truncate(self._path, len(whole))
        goes_on = self._run.maybe_agreement is not None and self._run.agreement.resume is not None
        chain = Chain(whole)
        if goes_on and not chain.lines:
            raise ResumeError(
                f"the receipt {self._path} of this run is gone; bring it back, or start all parties"
                ' with resume="never"'
            )
        return chain

    def _begin(self) -> None:
        run = self._run
        self._add(
            "began",
            format=FORMAT,
            task=run.task_id,
            run=run.kept_record.run.hex(),
            party=run.result.party,
            versions=_versions(),
        )

    def _agree(self) -> bytes:
        """Return the terms, which are written if they are new."""
        before = [each.body["terms"] for each in self._chain.lines if each.what == "terms"]
        terms = self._run.terms or before[-1].encode()
        if not before or before[-1].encode() != terms:
            digest, party = terms_digest(terms), self._run.result.party
            found = consent.on_record(heterofed_home(), self._run.task_id, party, digest)
            self._add("terms", terms=terms.decode(), digest=digest, consent=found)
        return terms

    def _spent(self) -> dict[str, float]:
        """Return the epsilons and releases so far, and what was used of limits that count."""
        run = self._run
        limits, ledger = run.kept_record.plan.limits, run.opened_ledger()
        used = {each: ledger.counted(TASK, each) for each in COUNTED if limits.of(each) is not None}
        return {**run.spent(), **used}

    def _flush(self) -> None:
        if self._resumed is not None:
            body, self._resumed = self._resumed, None
            self._add("resumed", **body)

    def _add(self, what: What, **body: Any) -> None:
        self._flush()
        with writing(self._path):
            append(self._path, self._chain.add(what, **body), sync=what in SYNCED)


def _told(peer: str, signed: Signed) -> dict[str, str]:
    return {
        "peer": peer,
        "statement": signed.text.decode(),
        "signature": signed.signature.hex(),
    }


def _as_sent(plan: Plan) -> Plan:
    """Return a plan with the types that its receiver has: a whole number may be a float there."""
    return msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


def _versions() -> dict[str, str]:
    return {"heterofed": __version__, "python": platform.python_version()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
