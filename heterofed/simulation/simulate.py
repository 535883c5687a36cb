"""Runs all parties of a task in one process, with the same schedulers over a network in memory."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heterofed.compute.rng import RandomState
from heterofed.errors import ConfigError
from heterofed.files import temporary_folder
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.predict.collaborator import serve as serve_predictions
from heterofed.hetero_nn.predict.host import predict as host_predict
from heterofed.reporting import console, markup
from heterofed.reporting.task_result import TaskResult
from heterofed.reporting.tracebacks import plain_endings
from heterofed.runs.run import Resume
from heterofed.runs.scheduler import Scheduler, engine_of
from heterofed.runs.settings import (
    LeadSettings,
    Settings,
    check_collaborators,
    check_flag,
    given_path,
    is_count,
    is_number,
)
from heterofed.simulation.baselines import (
    Comparison,
    check_comparable,
    check_modes,
    compare,
    tables_of,
)
from heterofed.simulation.network import Crossing, Network, PartyRun
from heterofed.simulation.one_graph import Mode


@dataclass(slots=True)
class Simulation:
    """The results of a simulated task.

    Attributes:
        results: the result of each party's `launch_task` (or other method), by feature key, the
            Host's first.
        received: the messages that each party received, in order.
        comparison: the comparison with the baselines, if there are any.
    """

    results: dict[str, Any]
    received: dict[str, list[Crossing]] = field(repr=False)
    comparison: Comparison | None = None

    def _repr_html_(self) -> str:
        """Return the results of all parties for a notebook, the Host's unfolded."""
        first, *others = (
            each._repr_html_() if isinstance(each, TaskResult) else markup.card(name, repr(each))
            for name, each in self.results.items()
        )
        names = list(self.results)[1:]
        folded = [markup.folded(*each) for each in zip(names, others, strict=True)]
        compared = tables_of(self.comparison) if self.comparison else ""
        return "".join([first, compared, *folded])


@plain_endings()
def simulate(
    host: Scheduler,
    collaborators: Sequence[Scheduler],
    *,
    task_id: str,
    latency_ms: float = 0.0,
    mbit: float | None = None,
    baselines: Sequence[Mode] = (),
    rehearse: bool = False,
    resume: Resume = "never",
    home: str | Path | None = None,
) -> Simulation:
    """Run a task with all its parties in this process.

    Messages, bytes and weights are the same as in separate processes with the same seeds. Results
    are written where each party would write them. The Host runs on the calling thread.

    Args:
        host: the Host's scheduler.
        collaborators: the other parties' schedulers.
        task_id: the same as in `launch_task`.
        latency_ms: the time in milliseconds that a frame needs between the Host and a Collaborator.
        mbit: the megabits per second in each direction between the Host and each Collaborator; None
            sets no limit. With this or `latency_ms` the run takes as long as over such a link.
        baselines: the baselines to train afterwards for comparison: `local`, `pooled` or both (see
            `heterofed.simulation.baselines`).
        rehearse: whether to do only a dry run, as in `launch_task`.
        resume: the same as in `launch_task`, but by default a simulation starts anew.
        home: a folder in which simulations of one task keep what parties keep of each other, so
            that ids that have not changed are intersected once. Releases are then counted over all
            of these simulations. None uses a temporary folder.

    Raises:
        ConfigError: the parties cannot be in one task; nothing was done.
        Exception: an error ended the task at the party where it began; it has a note with that
            party.
    """
    _check(host, collaborators, latency_ms, mbit)
    _check_expected(host, collaborators)
    check_flag("rehearse", rehearse)
    modes = check_modes(baselines) if baselines else ()
    if modes:
        if rehearse:
            raise ConfigError(
                "baselines are of a run that was trained, and a rehearsal trains nothing; leave out"
                " one of baselines and rehearse"
            )
        check_comparable(host)
    how: dict[str, Any] = {"rehearse": True} if rehearse else {"resume": resume}
    network = Network(latency_ms / 1e3, mbit * 1e6 / 8 if mbit else None)
    network.home = None if home is None else given_path("home", home)
    done = _together(
        network,
        (host, functools.partial(host.launch_task, task_id, **how)),
        [(each, functools.partial(each.launch_task, task_id, **how)) for each in collaborators],
    )
    if modes:
        parties: Any = (host, _in_task_order(host, collaborators))
        done.comparison = compare(*parties, task_id=task_id, modes=modes)
    return done


@plain_endings()
def simulate_prediction(
    host: HeteroNNHostScheduler,
    collaborators: Sequence[HeteroNNCollaboratorScheduler],
    *,
    task_id: str,
    ids: Sequence[str] | None = None,
    latency_ms: float = 0.0,
    mbit: float | None = None,
    ask: Callable[[], Any] | None = None,
    **settings: Any,
) -> Simulation:
    """Predict with all parties in this process, with the models of a finished run.

    Args:
        host: the Host's scheduler, whose result is that of `predict`.
        collaborators: the schedulers of the parties that take part; their results are the numbers
            of rows.
        task_id: the id of the finished task.
        ids: the same as in `predict`.
        latency_ms: the same as in `simulate`.
        mbit: the same as in `simulate`.
        ask: a method of the Host that asks for one prediction and gives its result, such as
            `TabularHost.take_home` with its arguments bound; None calls `predict`.
        settings: further arguments of `predict`.

    Raises:
        ConfigError: the parties cannot be in one task; nothing was done.
        Exception: an error ended the prediction at the party where it began.
    """
    _check(host, collaborators, latency_ms, mbit)
    settings = {
        "parties": [_settings(each).feature_key for each in collaborators],
        **settings,
    }
    serve = functools.partial(serve_predictions, max_rows_per_day=2**62, requests=1)
    network = Network(latency_ms / 1e3, mbit * 1e6 / 8 if mbit else None)
    return _together(
        network,
        (host, ask or (lambda: host_predict(host, task_id, ids, **settings))),
        [(each, functools.partial(serve, each, task_id)) for each in collaborators],
    )


_Work = tuple[Scheduler, Callable[[], Any]]


def _together(network: Network, host: _Work, collaborators: Sequence[_Work]) -> Simulation:
    """Call the method of each party."""
    with console.attached(), temporary_folder() as ledger:
        network.ledger = network.home or ledger
        runs = [PartyRun(*each, network) for each in collaborators]
        first = PartyRun(*host, network, is_host=True)
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
    are_listed = isinstance(collaborators, Sequence) and len(collaborators) > 0
    parties = [host, *collaborators] if are_listed else []
    if not parties or not all(isinstance(each, Scheduler) for each in parties):
        raise ConfigError("simulate: give a Host's scheduler, and a list of Collaborators' ones")
    if not isinstance(_settings(host), LeadSettings):
        raise ConfigError(f"simulate: give the Host first, not a {type(host).__name__}")
    if any(isinstance(_settings(each), LeadSettings) for each in collaborators):
        raise ConfigError("there is one Host in a task; give the others as Collaborators")
    for each in parties:
        _settings(each).check_names()
    keys = [_settings(each).feature_key for each in parties]
    folders = [(_settings(each).results_dir, _settings(each).shown_name) for each in parties]
    if len(set(keys)) != len(keys) or len(set(folders)) != len(folders):
        raise ConfigError(f"give every party a feature key and a name of its own: {keys}")
    for name, number in (("latency_ms", latency_ms), ("mbit", 1.0 if mbit is None else mbit)):
        least = 0.0 if name == "latency_ms" else 1e-6
        if not (is_number(number) and number >= least):
            raise ConfigError(f"{name}={number!r}: give a number above 0")


def _in_task_order(host: Any, collaborators: Sequence[Scheduler]) -> list[Scheduler]:
    by_name = {_settings(each).feature_key: each for each in collaborators}
    expected = engine_of(host).settings.collaborators
    return [by_name[name] for name in (sorted(by_name) if is_count(expected) else expected)]


def _check_expected(host: Any, collaborators: Sequence[Scheduler]) -> None:
    expected = engine_of(host).settings.collaborators
    names = [_settings(each).feature_key for each in collaborators]
    check_collaborators(expected, _settings(host).feature_key)
    if (expected if is_count(expected) else sorted(expected)) not in (len(names), sorted(names)):
        raise ConfigError(
            f"the Host waits for collaborators={expected!r}, and simulate was given {names};"
            " give those that it waits for"
        )


def _settings(scheduler: Scheduler) -> Settings:
    settings: Settings = engine_of(scheduler).settings
    return settings
