"""What the parties of a task agreed on, as its file says it: only public things.

The *terms* of a task are the fields that must be the same at every party: who takes part, with
which keys, until when, and the plan. They have a canonical form that the parties compare. Where
the Host listens, how the file is formatted, and which keys a party has revoked is its own affair.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from heterofed.errors import ConfigError
from heterofed.identity.keys import fingerprint
from heterofed.protocol.plan import MAX_PARTIES, PartyName, Plan

Purpose: TypeAlias = Literal["train", "psi"]

MAX_TERMS_BYTES = 1 << 16

NOT_AGREED = frozenset(
    {
        "host",
        "collaborators",
        "seed",
        "credit",
        "calculation_timeout",
        "schedule_timeout",
        "wait_for_peers",
        "checkpoint_batches",
        "agreed",
    }
)
"""Fields of the plan that are no terms: named elsewhere in the file, secret until the run, or the
Host's to tune."""

_NUMERIC = re.compile(r"tcp://(?:[\d.]+|\[.*\]):\d+", re.ASCII)

KEY_CHARACTERS = 40
"""Of a key in Z85."""

PublicKey = Annotated[
    str, Meta(min_length=KEY_CHARACTERS, max_length=KEY_CHARACTERS, pattern=r"\A[!-~]*\Z")
]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A party of a task.

    Attributes:
        party: its feature key.
        key: its public key; None only in a task that does without keys.
        expires: last day (UTC) on which the key is good; None: no such day.
    """

    party: PartyName
    key: PublicKey | None = None
    expires: date | None = None


class _Agreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The terms, without the plan's fields: they are checked as a `Plan`."""

    task: PartyName
    purpose: Purpose
    expires: date | None
    host: Member
    collaborators: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_PARTIES)]
    plan: dict[str, Any]


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a task file holds.

    Attributes:
        format: version of this format.
        task: id of the task; also the name of the file.
        address: where Collaborators reach the Host, `tcp://HOST:PORT`.
        bind: where the Host listens, where that is another address (NAT, containers).
        purpose: "train", or "psi" for a task that only intersects ids.
        expires: last day (UTC) on which the task may run.
        revoked: public keys that this party no longer trusts.
        host: the Host.
        collaborators: the Collaborators, in task order.
        plan: agreed settings, as fields of `Plan`; those left out are at their default.
    """

    format: Literal[1] = 1
    task: PartyName
    address: str
    bind: str | None = None
    purpose: Purpose = "train"
    expires: date | None = None
    revoked: Annotated[tuple[PublicKey, ...], Meta(max_length=1024)] = ()
    host: Member
    collaborators: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_PARTIES)]
    plan: dict[str, Any] = {}

    @property
    def members(self) -> tuple[Member, ...]:
        """All parties, the Host first."""
        return (self.host, *self.collaborators)

    @property
    def is_keyless(self) -> bool:
        """Whether the task does without keys."""
        return all(each.key is None for each in self.members)

    @property
    def listens_at(self) -> str:
        """What the Host binds: `bind`, or the address, or every interface where that is a name."""
        if self.bind or _NUMERIC.fullmatch(self.address):
            return self.bind or self.address
        return "tcp://*:" + self.address.rpartition(":")[2]

    def member(self, party: str) -> Member:
        """The party of this name.

        Raises:
            ConfigError: it has no part in the task.
        """
        for each in self.members:
            if each.party == party:
                return each
        raise ConfigError(
            f"task {self.task!r} has no party {party!r}; it has:"
            f" {', '.join(each.party for each in self.members)}"
        )

    def make_plan(self) -> Plan:
        """The agreed plan; what is no term is at its default."""
        names = {"host": self.host.party}
        return msgspec.convert(
            self.plan | names | {"collaborators": [each.party for each in self.collaborators]},
            Plan,
        )

    def terms(self) -> bytes:
        """The terms in their canonical form."""
        agreed = _Agreed(
            task=self.task,
            purpose=self.purpose,
            expires=self.expires,
            host=self.host,
            collaborators=self.collaborators,
            plan=agreed_fields(self.make_plan()),
        )
        return msgspec.json.encode(agreed, order="sorted")

    def check_usable(self, today: date | None = None) -> None:
        """Check that no key and not the task itself has expired or been revoked.

        Raises:
            ConfigError: naming the party and the day.
        """
        today = today or datetime.now(UTC).date()
        if self.expires and today > self.expires:
            raise ConfigError(
                f"task {self.task!r} expired on {self.expires}: agree on a new task file"
            )
        for each in self.members:
            if each.key in self.revoked:
                raise ConfigError(
                    f"the key of {each.party} is revoked in the file of task {self.task!r}: have"
                    f" {each.party} make a new one (heterofed keys rotate) and list that"
                )
            if each.expires and today > each.expires:
                raise ConfigError(
                    f"the key of {each.party} expired on {each.expires}: have {each.party} make a"
                    " new one (heterofed keys rotate) and list it in the task file"
                )


# -- terms ---------------------------------------------------------------------------------------


def agreed_fields(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that are terms, as plain values."""
    fields: dict[str, Any] = msgspec.to_builtins(plan)
    return {name: value for name, value in fields.items() if name not in NOT_AGREED}


def terms_digest(terms: bytes) -> str:
    """SHA-256 of terms, hexadecimal: by which consent is remembered."""
    return hashlib.sha256(b"heterofed terms\0" + terms).hexdigest()


def shown_terms(terms: bytes) -> dict[str, str]:
    """Terms field by field, for people.

    Raises:
        ValueError: these bytes are no terms (they may come from a peer).
    """
    if len(terms) > MAX_TERMS_BYTES:
        raise ValueError("too long for terms")
    try:
        agreed = msgspec.json.decode(terms, type=_Agreed)
        names = {"host": agreed.host.party}
        plan = msgspec.convert(
            agreed.plan | names | {"collaborators": [each.party for each in agreed.collaborators]},
            Plan,
        )
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        raise ValueError("these are no terms of a task") from None
    members = (agreed.host, *agreed.collaborators)
    keys = {f"key of {each.party}": fingerprint(each.key) for each in members if each.key}
    days = {f"last day of {each.party}": str(each.expires) for each in members if each.expires}
    return {
        "task": agreed.task,
        "purpose": agreed.purpose,
        "expires": str(agreed.expires or "never"),
        **keys,
        **days,
        **shown_plan(plan),
    }


def shown_plan(plan: Plan) -> dict[str, str]:
    """The terms in a plan, for people."""
    return {
        "host": plan.host,
        "collaborators": ", ".join(plan.collaborators),
        **{name: _shown(value) for name, value in agreed_fields(plan).items()},
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """What differs between two sets of fields, one clause each."""
    return [
        f"{name}: {here.get(name, 'not set')} here, {there.get(name, 'not set')} there"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]


def settle(plan: Plan, task: TaskFile) -> Plan:
    """The plan of a Host whose settings are `plan`, under a task file.

    A term that the settings leave at its default is as the file says.

    Raises:
        ConfigError: settings and file differ; it names every field.
    """
    defaults = agreed_fields(Plan(host=plan.host, collaborators=plan.collaborators))
    given, agreed = agreed_fields(plan), agreed_fields(task.make_plan())
    differ = [
        f"{name} is {_shown(value)} in the constructor and {_shown(agreed[name])} in the file"
        for name, value in given.items()
        if value not in (defaults[name], agreed[name])
    ]
    if differ:
        raise ConfigError(
            f"the settings differ from the file of task {task.task!r}: {'; '.join(differ)}; change"
            " the one or the other"
        )
    kept = {name: getattr(plan, name) for name in NOT_AGREED}
    return msgspec.structs.replace(task.make_plan(), **kept)


def _shown(value: object) -> str:
    # One word for what is not set: some fields have "none" as a value, others None.
    return str(value).lower() if isinstance(value, bool | None) else str(value)


# -- files ---------------------------------------------------------------------------------------
