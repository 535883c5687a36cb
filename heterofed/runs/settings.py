"""Holds and checks the arguments of a scheduler's constructor, and says what users may read of
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeAlias,
    TypeGuard,
    TypeVar,
    get_args,
    overload,
)

import msgspec

import psi
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.messaging.peer import Timeouts
from heterofed.protocol.plan import (
    MAX_AGREED,
    MAX_PARTIES,
    MAX_PEER_IDS,
    AgreedKey,
    AgreedValue,
    KeyBits,
    Plan,
    PSIParties,
    PSIProtocol,
)
from heterofed.rendezvous.backend import Place
from heterofed.reporting.results import check_name
from heterofed.runs.psi_executor import ExecutorChoice
from psi.protocols import NOT_HERE

T = TypeVar("T")

Record: TypeAlias = Literal["inbound"]
"""The part of the messages that a party records; its own answers come along, to be compared."""

MOST_DAYS = 3650
"""The most days for which a record is kept."""


class Shown(Generic[T]):
    """A value of ours that users may read as an attribute, and may replace with one of their own.

    It is not a property, so a subclass that assigns the name gets its own value. This disturbs
    nothing, since we never read these names ourselves.
    """

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Shown[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> T | Shown[T]:
        """Return the value, or this object itself if it is read from the class."""
        return self if instance is None else self._read(instance)


@dataclass(frozen=True, slots=True)
class ReleaseLimits:
    """The limits on what a party's user lets leave a task, over all of its runs together.

    Attributes:
        max_releases_per_row: the largest number of releases of any one row; None sets no limit.
        max_epsilon: the largest epsilon in each column of `privacy.csv` for which this party has a
            defence; None sets no limit.
        max_rollbacks: how often a run may be rolled back to the same checkpoint, by any party.
    """

    max_releases_per_row: int | None = None
    max_epsilon: float | None = None
    max_rollbacks: int = 10

    @property
    def are_set(self) -> bool:
        """Whether there is a limit on what is known of a row."""
        return self.max_releases_per_row is not None or self.max_epsilon is not None

    def check(self, *, defended: bool) -> None:
        """Refuse values that cannot work.

        Args:
            defended: whether this party has a defence that has an epsilon.

        Raises:
            ConfigError: a value is wrong; the message names the setting.
        """
        most, epsilon = self.max_releases_per_row, self.max_epsilon
        if most is not None and not is_count(most):
            raise ConfigError(f"max_releases_per_row={most!r}: give a whole number, or None")
        if not is_count(self.max_rollbacks):
            raise ConfigError(
                f"max_rollbacks={self.max_rollbacks!r}: give a whole number from 0 on"
            )
        if epsilon is None:
            return
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not epsilon > 0:
            raise ConfigError(f"max_epsilon={epsilon!r}: give a number above 0, or None")
        if not defended:
            raise ConfigError(
                f"max_epsilon={epsilon!r} needs a defence that has an epsilon; use ClippedGaussian,"
                " RandomisedResponse or DPSGD"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of a scheduler's constructor that every kind of task needs.

    Each field is the argument of that name, except `place`, where simulated parties meet.

    Attributes:
        psi_role: what this party does in an intersection; None if its tasks have none.
    """

    psi_role: ClassVar[Literal["signer", "requester"] | None] = "signer"

    feature_key: str
    name: str | None
    schedule_timeout: float
    data_channel_timeout: tuple[float, float]
    join_timeout: float
    results_dir: Path
    callbacks: tuple[Callback, ...]
    max_peer_ids: int
    psi_executor: Any = None
    psi_key_leaves: bool = False
    seed: int | None = None
    insecure: bool = False
    agreed: Mapping[str, str] = field(default_factory=dict)
    record: Record | None = None
    record_days: float = 7
    place: Place | None = None

    @classmethod
    def given(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the settings among the arguments of a constructor.

        Args:
            arguments: the arguments by name; those that are not settings are ignored.
        """
        named = {each.name for each in fields(cls)}
        values = {name: value for name, value in arguments.items() if name in named}
        values["results_dir"] = given_path("results_dir", values["results_dir"])
        with suppress(TypeError):  # no iterable, which `check` refuses
            values["callbacks"] = tuple(values["callbacks"])
        if values.get("agreed", ()) is None:
            values["agreed"] = {}
        return cls(**values)

    @property
    def shown_name(self) -> str:
        """The name of this party in logs and of its results folder."""
        return self.name or self.feature_key

    @property
    def lasting(self) -> dict[str, str]:
        """The settings of this party alone, which are in no plan, that a run cannot change: what
        they are, by name.
        """
        return {}

    def timeouts(self, calculation: float = 300.0) -> Timeouts:
        """Return the longest silence of peers that this party accepts until it knows the plan.

        Args:
            calculation: the longest silence in seconds of a party that computes, as given to the
                Host.
        """
        return Timeouts(calculation, self.schedule_timeout, self.data_channel_timeout[1])

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ConfigError: a value is wrong; the message names the setting.
        """
        self.check_names()
        check_seconds("schedule_timeout", self.schedule_timeout, least=0.001)
        both = self.data_channel_timeout
        if not isinstance(both, tuple | list) or len(both) != 2:
            raise ConfigError(
                f"data_channel_timeout={both!r}: give two numbers of seconds (link, byte)"
            )
        for seconds in both:
            check_seconds("data_channel_timeout", seconds, least=0.001)
        check_seconds("join_timeout", self.join_timeout)
        if self.seed is not None and not (is_count(self.seed) and self.seed < 2**63):
            raise ConfigError(
                f"seed={self.seed!r}: give a whole number from 0 to below 2**63, or None"
            )
        check_flag("insecure", self.insecure)
        if not is_count(self.max_peer_ids, 1):
            raise ConfigError(f"max_peer_ids={self.max_peer_ids!r}: give 1 to {MAX_PEER_IDS}")
        check_agreed(self.agreed)
        check_callbacks(self.callbacks)
        check_record(self.record, self.record_days)
        chosen = ExecutorChoice(self.psi_executor, self.psi_key_leaves)
        chosen.check(has_key=self.psi_role == "signer")

    def check_names(self) -> None:
        """Refuse a text that cannot be the name of a party or of its results folder.

        Raises:
            ConfigError: the text cannot be a name; the message names the setting.
        """
        check_name(self.feature_key, "feature_key")
        check_name(self.shown_name, "name")


@dataclass(frozen=True, kw_only=True)
class LeadSettings(Settings):
    """The arguments of the constructor of a party that the others join: a Host or a PSI
    initiator.
    """

    psi_role: ClassVar[Literal["signer", "requester"] | None] = "requester"

    collaborators: int | Sequence[str]
    calculation_timeout: float
    psi_protocol: PSIProtocol
    psi_bits: KeyBits
    psi_parties: PSIParties = "pairwise"

    def check(self) -> None:
        super().check()
        check_seconds("calculation_timeout", self.calculation_timeout)
        check_psi(self.psi_protocol, self.psi_bits, self.max_peer_ids)
        check_collaborators(self.collaborators, self.feature_key)
        check_psi_parties(self.psi_parties, self.psi_protocol, self.collaborators)

    def plan(self, collaborators: tuple[str, ...], **terms: Any) -> Plan:
        """Return the plan that this party announces.

        Args:
            collaborators: the feature keys of the Collaborators, in task order.
            terms: more fields of the plan.
        """
        return Plan(
            host=self.feature_key,
            collaborators=collaborators,
            calculation_timeout=float(self.calculation_timeout),
            schedule_timeout=float(self.schedule_timeout),
            psi_protocol=self.psi_protocol,
            psi_bits=self.psi_bits,
            max_peer_ids=self.max_peer_ids,
            agreed=tuple(sorted(self.agreed.items())),
            **terms,
        )


def check_callbacks(callbacks: object) -> None:
    """Refuse callbacks that cannot be called.

    Raises:
        ConfigError: a callback cannot be called; the message names the type of the first one.
    """
    if isinstance(callbacks, str) or not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks: give a list, not a {type(callbacks).__name__}")
    for callback in callbacks:
        if not callable(callback):
            raise ConfigError(
                f"callbacks: a {type(callback).__name__} cannot be called; give functions"
            )


def check_agreed(agreed: object) -> None:
    """Refuse agreed settings that cannot be sent.

    Raises:
        ConfigError: a setting cannot be sent; the message names the first one.
    """
    if not isinstance(agreed, Mapping):
        raise ConfigError(f"agreed={agreed!r}: give a dict of names and values, both strings")
    if len(agreed) > MAX_AGREED:
        raise ConfigError(f"agreed has {len(agreed)} settings; give {MAX_AGREED} at most")
    for name, value in agreed.items():
        try:
            msgspec.convert(name, AgreedKey)
        except msgspec.ValidationError:
            raise ConfigError(
                f"agreed: {name!r} cannot name a setting; give up to 64 small letters, digits,"
                " '_', '-' and '.', beginning with a letter"
            ) from None
        try:
            msgspec.convert(value, AgreedValue)
            value.encode()
        except (msgspec.ValidationError, UnicodeEncodeError):
            raise ConfigError(
                f"agreed: the value of {name!r} is {value!r}; give a string of at most 512"
                " characters on one line"
            ) from None


def check_record(record: object, days: object) -> None:
    """Refuse a value of `record`, or a time to keep a record, that cannot work.

    Raises:
        ConfigError: the value is wrong; the message names the setting.
    """
    if record not in (None, *get_args(Record)):
        raise ConfigError(f"record={record!r}: give 'inbound' or None")
    is_number = isinstance(days, int | float) and not isinstance(days, bool)
    if not is_number or not 0 < days <= MOST_DAYS:  # type: ignore[operator]
        raise ConfigError(f"record_days={days!r}: give a number of days up to {MOST_DAYS}")


def check_seconds(name: str, seconds: object, least: float = 0.0) -> None:
    """Refuse a value that is not a number of seconds.

    Raises:
        ConfigError: the value is not a number of seconds; the message names the setting.
    """
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not least <= seconds <= 10 * 365 * 86_400
    ):
        raise ConfigError(f"{name}={seconds!r}: give a number of seconds from {least:g} on")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a setting is a number, also one of NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_made(name: str, value: object, *kinds: type) -> None:
    """Refuse a value that is neither None nor an object of one of the classes.

    Raises:
        ConfigError: the value is something else, such as the class itself; the message names the
            setting.
    """
    if value is not None and not isinstance(value, kinds):
        names = " or ".join(f"{each.__name__}(...)" for each in kinds)
        raise ConfigError(f"{name}={value!r}: give {names}, or None")


def described(value: object) -> str:
    """Return what a setting is, equal in each process.

    Of what is the user's, such as a function, this is the name alone, because it may hold anything.
    """
    if value is None or type(value).__module__.partition(".")[0] == "heterofed":
        return repr(value)
    name: str = getattr(value, "__qualname__", type(value).__qualname__)
    return name


def given_path(name: str, value: Any) -> Path:
    """Return the path that a setting gives.

    Raises:
        ConfigError: the value is no path; the message names the setting.
    """
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name}={value!r}: give a path")
    return Path(value)


def check_flag(name: str, value: object) -> None:
    """Refuse a value that is neither True nor False.

    Raises:
        ConfigError: the value is not a bool; the message names the setting.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r}: give True or False")


def is_count(value: object, least: int = 0) -> bool:
    """Return whether a setting is a whole number that is at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_last_round(max_rounds: object) -> None:
    """Refuse a number of rounds that would never end the task.

    Raises:
        ConfigError: there is no last round.
    """
    if not is_count(max_rounds, least=1):
        raise ConfigError(
            f"max_rounds={max_rounds!r}: give a whole number of rounds from 1 on, or define"
            " is_task_finished"
        )


def check_collaborators(expected: object, host: str) -> None:
    """Check the `collaborators` that a Host is told to wait for.

    Raises:
        ConfigError: the value is neither a number of parties nor a list of unique feature keys of
        other parties.
    """
    if isinstance(expected, int) and not isinstance(expected, bool):
        if not 1 <= expected <= MAX_PARTIES:
            raise ConfigError(f"collaborators={expected}: give 1 to {MAX_PARTIES}")
        return
    names = (
        [] if isinstance(expected, str | bool) or not isinstance(expected, Sequence) else expected
    )
    if not 1 <= len(names) <= MAX_PARTIES or len(set(names)) != len(names):
        raise ConfigError(
            f"collaborators={expected!r}: give a number, or a list of unique feature keys"
        )
    for each in names:
        check_name(each, "collaborators")
    if host in names:
        raise ConfigError(
            f"collaborators={expected!r} lists {host}, which is the Host itself; leave it out"
        )


def check_psi_parties(
    parties: object, protocol: PSIProtocol, collaborators: int | Sequence[str]
) -> None:
    """Check the setting that hides pairwise intersections.

    Raises:
        ConfigError: it is unknown, or the other settings do not fit it.
    """
    if parties not in get_args(PSIParties):
        raise ConfigError(f"psi_parties={parties!r}: give {' or '.join(get_args(PSIParties))}")
    if parties == "pairwise":
        return
    if protocol != "ecdh":
        raise ConfigError('psi_parties="joint" needs psi_protocol="ecdh"; give both')
    if collaborators == 1 or (not isinstance(collaborators, int) and len(collaborators) == 1):
        raise ConfigError(
            'psi_parties="joint" needs two Collaborators or more; leave it out with one, whose'
            " intersection with the Host is the result"
        )


def check_psi(protocol: PSIProtocol, bits: object, max_peer_ids: int) -> None:
    """Check the settings of the intersection.

    Raises:
        ConfigError: the protocol or the key size is unknown, the number of ids is out of range, or
        this machine cannot compute the protocol.
    """
    if protocol not in (*get_args(PSIProtocol), *NOT_HERE):
        raise ConfigError(f"psi_protocol={protocol!r}: give {' or '.join(get_args(PSIProtocol))}")
    try:
        psi.check_protocol(protocol)
    except psi.LibraryError as error:
        raise ConfigError(f"psi_protocol={protocol!r}: {error}; or choose 'rsa'") from error
    if not is_count(max_peer_ids, 1) or max_peer_ids > MAX_PEER_IDS:
        raise ConfigError(f"max_peer_ids={max_peer_ids!r}: give 1 to {MAX_PEER_IDS}")
    if bits not in get_args(KeyBits):
        raise ConfigError(
            f"psi_bits={bits!r}: give one of {', '.join(map(str, get_args(KeyBits)))}"
        )
