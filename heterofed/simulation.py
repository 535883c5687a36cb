"""All parties of a task in one process: the same schedulers over a network in memory.

One party runs at a time, each with random generators of its own, as if it were alone in its
process. Knows nothing of a scheduler but its settings and its `launch_task`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from heterofed import console
from heterofed.baselines import Comparison, Mode, check_comparable, check_modes, compare
from heterofed.errors import ConfigError, JoinTimeoutError, RemoteProtocolError, TaskAborted
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.prediction import predict as host_predict
from heterofed.hetero_nn.serving import serve as serve_predictions
from heterofed.lifecycle import Scheduler, is_count
from heterofed.place import Place
from heterofed.plan import Coding, Plan
from heterofed.protocol.messages import Features, Gradients, Message, Welcome
from heterofed.tensors import unpack
from heterofed.training import RandomState
from heterofed.transport.base import Channel, Endpoint, Event, Received
from heterofed.transport.memory import Hub, MemoryEndpoint
from heterofed.wire import Decoder


@dataclass(frozen=True, slots=True)
class Crossing:
    """One message that a party received.

    Attributes:
        sender: feature key of the party it came from.
        message: its header.
        payload: the bytes that followed: blinded values, tags, tensors.
        coding: how features or gradients travelled.
    """

    sender: str
    message: Message
    payload: bytes
    coding: Coding = "none"

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of features or gradients by name; empty for any other message."""
        if not isinstance(self.message, Features | Gradients):
            return {}
        payload = bytearray(self.payload)
        return unpack(self.message.tensors, payload, self.sender, coding=self.coding)


@dataclass(slots=True)
class Simulation:
    """What came of a simulated task.

    Attributes:
        results: what each party's `launch_task` (or other part) returned, by feature key, the
            Host's first.
        received: every message that each party received, in order.
        comparison: with the baselines, where some were asked for.
    """

    results: dict[str, Any]
    received: dict[str, list[Crossing]] = field(repr=False)
    comparison: Comparison | None = None


def simulate(
    host: Scheduler,
    collaborators: Sequence[Scheduler],
    *,
    task_id: str,
    latency_ms: float = 0.0,
    mbit: float | None = None,
    baselines: Sequence[Mode] = (),
    rehearse: bool = False,
) -> Simulation:
    """Run a task with all its parties in this process.

    Messages, bytes and weights are those of separate processes, given the same seeds. Results are
    written where each party would write them. The Host runs on the calling thread.

    Args:
        host: the Host's scheduler.
        collaborators: the other parties'.
        task_id: as for `launch_task`.
        latency_ms: milliseconds that a frame is under way between the Host and a Collaborator.
        mbit: megabits per second, in each direction between the Host and each Collaborator; None:
            no limit. Both make the run take as long as such a link would.
        baselines: what to train afterwards for comparison: `local`, `pooled` or both (see
            `heterofed.baselines`).
        rehearse: only one batch from end to end, as for `launch_task`.

    Raises:
        ConfigError: parties that cannot be in one task; nothing was done.
        Exception: what ended the task, at the party where it began, with a note that names it.
    """
    _check(host, collaborators, latency_ms, mbit)
    _check_expected(host, collaborators)
    modes = check_modes(baselines) if baselines else ()
    if modes:
        if rehearse:
            raise ConfigError("baselines are of a run that was trained; a rehearsal has none")
        if isinstance(host, HeteroNNHostScheduler):
            check_comparable(host)
    how: dict[str, Any] = {"rehearse": True} if rehearse else {}
    network = _Network(latency_ms / 1e3, mbit * 1e6 / 8 if mbit else None)
    done = _together(
        network,
        (host, functools.partial(host.launch_task, task_id, **how)),
        [(each, functools.partial(each.launch_task, task_id, **how)) for each in collaborators],
    )
    if modes:
        parties: Any = (host, _in_task_order(host, collaborators))
        done.comparison = compare(*parties, task_id=task_id, modes=modes)
    return done


def simulate_prediction(
    host: HeteroNNHostScheduler,
    collaborators: Sequence[HeteroNNCollaboratorScheduler],
    *,
    task_id: str,
    ids: Sequence[str] | None = None,
    latency_ms: float = 0.0,
    mbit: float | None = None,
    **settings: Any,
) -> Simulation:
    """Predict with all parties in this process, with the models of a finished run.

    Args:
        host: the Host's scheduler; its result is what `predict` returns.
        collaborators: the parties that are there; theirs are the numbers of rows.
        task_id: of the finished task.
        ids: as for `predict`.
        latency_ms: as for `simulate`.
        mbit: as for `simulate`.
        settings: further arguments of `predict`.

    Raises:
        ConfigError: parties that cannot be in one task; nothing was done.
        Exception: what ended the prediction, at the party where it began.
    """
    _check(host, collaborators, latency_ms, mbit)
    settings = {"parties": [each._settings.feature_key for each in collaborators], **settings}
    serve = functools.partial(serve_predictions, max_rows_per_day=2**62, requests=1)
    network = _Network(latency_ms / 1e3, mbit * 1e6 / 8 if mbit else None)
    return _together(
        network,
        (host, lambda: host_predict(host, task_id, ids, **settings)),
        [(each, functools.partial(serve, each, task_id)) for each in collaborators],
    )


_Work = tuple[Scheduler, Callable[[], Any]]


def _together(network: _Network, host: _Work, collaborators: Sequence[_Work]) -> Simulation:
    """Run what each party does."""
    with console.attached(), TemporaryDirectory(prefix="heterofed-") as ledger:
        network.ledger = Path(ledger)
        runs = [_PartyRun(*each, network) for each in collaborators]
        first = _PartyRun(*host, network, is_host=True)
        network.parties = {run.key: run for run in (first, *runs)}
        threads = [threading.Thread(target=run, name=run.key, daemon=True) for run in runs]
        before = RandomState.now()
        for thread in threads:
            thread.start()
        try:
            first()
        finally:
            for thread in threads:
                thread.join()
            before.restore()
    network.raise_first()
    return Simulation(
        {key: run.result for key, run in network.parties.items()},
        {key: run.received for key, run in network.parties.items()},
    )


def _check(
    host: Scheduler, collaborators: Sequence[Scheduler], latency_ms: float, mbit: float | None
) -> None:
    parties = [host, *collaborators]
    if not collaborators or not all(isinstance(each, Scheduler) for each in parties):
        raise ConfigError("simulate takes a Host's scheduler and a list of Collaborators'")
    if not hasattr(host, "_collaborators"):
        raise ConfigError(f"the first party must be the Host, not a {type(host).__name__}")
    if any(hasattr(each, "_collaborators") for each in collaborators):
        raise ConfigError("there is one Host in a task; give the others as Collaborators")
    keys = [each._settings.feature_key for each in parties]
    folders = [(each._settings.results_dir, each._settings.shown_name) for each in parties]
    if len(set(keys)) != len(keys) or len(set(folders)) != len(folders):
        raise ConfigError(f"give every party a feature key and a name of its own: {keys}")
    for name, number in (("latency_ms", latency_ms), ("mbit", 1.0 if mbit is None else mbit)):
        least = 0.0 if name == "latency_ms" else 1e-6
        if isinstance(number, bool) or not isinstance(number, int | float) or number < least:
            raise ConfigError(f"{name}={number!r}: give a number above 0")


def _in_task_order(host: Any, collaborators: Sequence[Scheduler]) -> list[Scheduler]:
    by_name = {each._settings.feature_key: each for each in collaborators}
    expected = host._collaborators
    return [by_name[name] for name in (sorted(by_name) if is_count(expected) else expected)]


def _check_expected(host: Any, collaborators: Sequence[Scheduler]) -> None:
    expected = host._collaborators
    names = [each._settings.feature_key for each in collaborators]
    if (expected if is_count(expected) else sorted(expected)) not in (len(names), sorted(names)):
        raise ConfigError(
            f"the Host waits for collaborators={expected!r}, and simulate was given {names}"
        )


class _Network:
    """The hub, and whose turn it is."""

    def __init__(self, latency: float, rate: float | None) -> None:
        self.hub = Hub(latency=latency, rate=rate)
        self.turn = _Turn()
        self.parties: dict[str, _PartyRun] = {}
        self.listens = threading.Event()
        self.ended: list[_PartyRun] = []
        self.plan: Plan | None = None
        self.ledger = Path()

    @property
    def host(self) -> _PartyRun:
        return next(iter(self.parties.values()))

    def raise_first(self) -> None:
        """Raise what ended the task: the first error that is not about another party's end."""
        failed = [run for run in self.ended if run.error is not None]
        if not failed:
            return
        cause = next((run for run in failed if not isinstance(run.error, TaskAborted)), failed[0])
        if cause.error is not None:
            cause.error.add_note(f"heterofed: simulated party {cause.key}")
            raise cause.error


class _Turn:
    """Which party runs. Giving and taking may be repeated: Ctrl-C can come between any two steps,
    also while a party waits for its turn, and what follows must still work.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: object | None = None

    def take(self, party: object) -> None:
        """Wait until nobody else runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._owner in (None, party))
            self._owner = party

    def give(self, party: object) -> None:
        """Let others run, where it is this party's turn."""
        with self._changed:
            if self._owner is party:
                self._owner = None
                self._changed.notify_all()  # one alone may be about to be interrupted


class _PartyRun:
    """One party: its thread's work, its turns, and what it received."""

    def __init__(
        self,
        scheduler: Scheduler,
        work: Callable[[], Any],
        network: _Network,
        *,
        is_host: bool = False,
    ) -> None:
        self.key = scheduler._settings.feature_key
        self.result: Any = None
        self.error: BaseException | None = None
        self.received: list[Crossing] = []
        self._scheduler, self._work = scheduler, work
        self._network, self._is_host = network, is_host
        self._random = RandomState.now()

    def __call__(self) -> None:
        """Run the party to its end."""
        settings = self._scheduler._settings
        self._scheduler._settings = replace(settings, place=_MemoryPlace(self, self._network))
        try:
            with self._turn():
                self.result = self._work()
        except BaseException as error:  # handed on by raise_first
            self.error = error
        finally:
            self._scheduler._settings = settings
            self._network.ended.append(self)
            if self._is_host:
                self._network.listens.set()
            with self._network.hub.changed:
                self._network.hub.changed.notify_all()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._network.turn.take(self)
        try:
            self._random.restore()
            yield
        finally:
            self._random = RandomState.now()
            self._network.turn.give(self)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let others run for the length of the block."""
        self._random = RandomState.now()
        self._network.turn.give(self)
        try:
            yield
        finally:
            self._network.turn.take(self)
            self._random.restore()

    def look_around(self) -> None:
        """At the Host: notice a party that will not come.

        Raises:
            JoinTimeoutError: one has ended before the task began.
        """
        run = self._scheduler._run
        if not self._is_host or (run and run.party and run.party.phase != "join"):
            return
        for other in self._network.ended:
            if other.error is not None:
                raise JoinTimeoutError(f"{other.key} ended before the task began", party=other.key)


class _MemoryPlace(Place):
    """The network in memory as one party sees it."""

    described = "in this simulation"

    @property
    def ledger(self) -> Path:
        """A temporary one: all parties are in one process, so nothing is given away."""
        return self._network.ledger

    def __init__(self, run: _PartyRun, network: _Network) -> None:
        self._run, self._network = run, network

    @contextmanager
    def listen(self) -> Iterator[Endpoint]:
        endpoint = self._network.hub.listen()
        self._network.listens.set()
        yield _Tapped(endpoint, self._run, self._network)

    def connect(self) -> Endpoint:
        with self._run.waiting():
            self._network.listens.wait()
        host = self._network.host
        if host in self._network.ended:
            raise JoinTimeoutError(f"the Host {host.key} has ended", party=host.key)
        endpoint = self._network.hub.connect(self._run.key)
        return _Tapped(endpoint, self._run, self._network)


class _Tapped(Endpoint):
    """An endpoint that lets others run while it waits, and keeps what it received."""

    def __init__(self, inner: MemoryEndpoint, run: _PartyRun, network: _Network) -> None:
        self._inner, self._run, self._network = inner, run, network
        self._decoders: dict[Channel, Decoder] = {}

    def poll(self, timeout: float) -> list[Event]:
        events = self._inner.poll(0)
        if not events and timeout > 0:
            with self._run.waiting():
                events = self._inner.poll(timeout)
        if not events:
            self._run.look_around()
        for event in events:
            if isinstance(event, Received):
                self._keep(event)
        return events

    def flush(self, timeout: float) -> bool:
        with self._run.waiting():
            return self._inner.flush(timeout)

    def close(self, linger: float = 0.0) -> None:
        with self._run.waiting():
            self._inner.close(linger)

    def _keep(self, event: Received) -> None:
        decoder = self._decoders.setdefault(event.channel, Decoder(lambda _message, _size: None))
        try:
            complete = decoder.feed(event.frame)
        except RemoteProtocolError:
            return  # the party itself is about to say so
        if complete is not None:
            sender = event.channel.party or self._network.host.key
            message, payload = complete
            if isinstance(message, Welcome):
                self._network.plan = message.plan
            self._run.received.append(
                Crossing(sender, message, bytes(payload), self._coding(message))
            )

    def _coding(self, message: Message) -> Coding:
        plan = self._network.plan
        if plan is None or not isinstance(message, Features | Gradients):
            return "none"
        is_feature = isinstance(message, Features)
        return plan.compress_features if is_feature else plan.compress_gradients
