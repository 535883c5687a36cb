"""The content of a task file: the terms that the parties of a task agreed on, and local fields.

The *terms* are the fields that must be equal at every party: the parties, their public keys, the
last days, and the plan. The parties compare them in a canonical form. Local fields, such as the
address at which the Host listens and the keys that a party has revoked, may differ. Nothing in a
task file is secret.
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
        "id_keys",
        "final_rows",
    }
)
"""The fields of the plan that are not terms: they are elsewhere in the file, secret until the run,
or left to the Host.
"""

LIMITS = "limits"
"""The field of the plan that is a table of its own in a task file."""

_NUMERIC = re.compile(r"tcp://(?:[\d.]+|\[.*\]):\d+", re.ASCII)

KEY_CHARACTERS = 40
"""The length of a key in Z85."""

PublicKey = Annotated[
    str, Meta(min_length=KEY_CHARACTERS, max_length=KEY_CHARACTERS, pattern=r"\A[!-~]*\Z")
]


SigningPublicKey = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""An Ed25519 public key in hexadecimal digits."""


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A party of a task.

    Attributes:
        party: the party's feature key.
        key: the party's public key; None only in a task without keys.
        expires: the last day (UTC) on which the key is valid, or None for no limit.
        signing: the public key of the party's receipts; None if the parties sign none.
    """

    party: PartyName
    key: PublicKey | None = None
    expires: date | None = None
    signing: SigningPublicKey | None = None


class _Agreed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The terms without the fields of the plan, which are checked as a `Plan`."""

    task: PartyName
    purpose: Purpose
    expires: date | None
    host: Member
    collaborators: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_PARTIES)]
    plan: dict[str, Any]


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of a task file.

    Attributes:
        format: the version of this format.
        task: the id of the task, which is also the name of the file.
        address: the address at which Collaborators reach the Host, `tcp://HOST:PORT`.
        bind: the address at which the Host listens, if it differs (NAT, containers).
        purpose: "train", or "psi" for a task that only intersects ids.
        expires: the last day (UTC) on which the task may run, or None for no limit.
        revoked: the public keys that this party no longer trusts.
        host: the Host.
        collaborators: the Collaborators, in task order.
        plan: the agreed settings, as fields of `Plan`; fields that are left out have their
            defaults.
        limits: the limits on what may leave a party, as fields of `LeakLimits`.
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
    limits: dict[str, Any] = {}

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
        """The address at which the Host listens.

        It is `bind` if that is set, else `address`. If the host of `address` is a name, the Host
        listens at its port on every interface.
        """
        if self.bind or _NUMERIC.fullmatch(self.address):
            return self.bind or self.address
        return "tcp://*:" + self.address.rpartition(":")[2]

    def member(self, party: str) -> Member:
        """Return the party of this name.

        Raises:
            ConfigError: the task has no such party.
        """
        for each in self.members:
            if each.party == party:
                return each
        raise ConfigError(
            f"task {self.task!r} has no party {party!r}; name one of:"
            f" {', '.join(each.party for each in self.members)}"
        )

    def make_plan(self) -> Plan:
        """Return the agreed plan; fields that are not terms have their defaults."""
        names = {"host": self.host.party, LIMITS: self.limits}
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
        """Check that the task and its keys have not expired and that no key was revoked.

        Raises:
            ConfigError: one of them has; the message names the party and the day.
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
    """Return the fields of a plan that are terms, as plain values.

    Limits, sites, recording and a take-home model are left out if there are none, so that terms
    without them have the digest that they had before there were any.
    """
    fields: dict[str, Any] = msgspec.to_builtins(plan)
    absent = {LIMITS} if not fields[LIMITS] else set()
    if not plan.sites:
        absent |= {name for name in fields if name.startswith("sites")}
    absent |= {name for name in ("recording", "take_home") if not fields[name]}
    return {name: value for name, value in fields.items() if name not in NOT_AGREED | absent}


def terms_digest(terms: bytes) -> str:
    """Return the SHA-256 of terms in hexadecimal, to which a consent refers."""
    return hashlib.sha256(b"heterofed terms\0" + terms).hexdigest()


def shown_terms(terms: bytes) -> dict[str, str]:
    """Return the terms as readable text, by field.

    Raises:
        ValueError: the bytes, which may come from a peer, are not terms.
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
        raise ValueError("these bytes are not the terms of a task") from None
    members = (agreed.host, *agreed.collaborators)
    keys = {f"key of {each.party}": fingerprint(each.key) for each in members if each.key}
    signing = {f"signing key of {each.party}": each.signing for each in members if each.signing}
    days = {f"last day of {each.party}": str(each.expires) for each in members if each.expires}
    return {
        "task": agreed.task,
        "purpose": agreed.purpose,
        "expires": str(agreed.expires or "never"),
        **keys,
        **signing,
        **days,
        **shown_plan(plan),
    }


def signing_keys(terms: bytes) -> dict[str, str]:
    """Return the public keys of receipts in terms, by party; it is empty if no party signs.

    Raises:
        ValueError: the bytes are not terms.
    """
    try:
        agreed = msgspec.json.decode(terms, type=_Agreed)
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        raise ValueError("these bytes are not the terms of a task") from None
    members = (agreed.host, *agreed.collaborators)
    return {each.party: each.signing for each in members if each.signing}


def shown_plan(plan: Plan) -> dict[str, str]:
    """Return the terms in a plan as readable text, by field."""
    return {
        "host": plan.host,
        "collaborators": ", ".join(plan.collaborators),
        **{name: _shown(value) for name, value in agreed_fields(plan).items() if name != LIMITS},
        **{
            f"limit {name}": _shown(value)
            for name, value in msgspec.to_builtins(plan.limits).items()
        },
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return a clause for each field in which two sets of fields differ."""
    return [
        f"{name}: {here.get(name, 'not set')} here, {there.get(name, 'not set')} there"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]


TRAINING_ONLY = frozenset(
    {
        "batch_size",
        "checkpoint_batches",
        "compress_gradients",
        "final_rows",
        "loss_reduction",
        "max_rounds",
        "max_staleness",
        "shuffle",
    }
)
"""The terms without a meaning where a finished model predicts."""


LEFT_TO_THE_HOST = ("batch_size", "max_rounds")
"""The terms that the Host decides where the task file leaves them at 0."""


def with_decisions(agreed: Plan, plan: Plan) -> Plan:
    """Return agreed terms, with what they leave to the Host taken from the Host's plan."""
    left = {name: getattr(plan, name) for name in LEFT_TO_THE_HOST if not getattr(agreed, name)}
    return msgspec.structs.replace(agreed, **left)


def settle(plan: Plan, task: TaskFile, *, trains: bool = True) -> Plan:
    """Combine a Host's settings with its task file.

    Terms that the settings leave at their defaults are taken from the file, and those that the file
    leaves to the Host from the settings.

    Args:
        plan: the plan that follows from the Host's settings.
        task: the task file.
        trains: whether the task trains; otherwise the file's terms of training are taken as well.

    Raises:
        ConfigError: settings and file differ; the message names every field.
    """
    defaults = agreed_fields(Plan(host=plan.host, collaborators=plan.collaborators))
    terms = with_decisions(task.make_plan(), plan)
    given, agreed = agreed_fields(plan), agreed_fields(terms)
    differ = [
        f"{name} is {_shown(value)} in the constructor and {_shown(agreed.get(name))} in the file"
        for name, value in given.items()
        if value not in (defaults.get(name), agreed.get(name))
        if trains or name not in TRAINING_ONLY
    ]
    if differ:
        raise ConfigError(
            f"the settings differ from the file of task {task.task!r}: {'; '.join(differ)}; change"
            " the settings or the file"
        )
    kept = {name: getattr(plan, name) for name in NOT_AGREED}
    return msgspec.structs.replace(terms, **kept)


def _shown(value: object) -> str:
    # Use one word for fields that are not set: some have the value "none", others None.
    return str(value).lower() if isinstance(value, bool | None) else str(value)


# -- files ---------------------------------------------------------------------------------------
