"""Searches for settings with many trials of one task and one intersection of ids.

All parties are in one process (`search`), or they are real parties: the Host calls
`search_as_host`, and every other party calls `follow_search` with the same number of trials, so
that no party runs more trials than it allowed. Settings are chosen by the validation rows. Test
rows are never used to choose anything.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from heterofed import ConfigError, TaskResult, simulate
from heterofed.errors import NonFiniteError, needing
from heterofed.files import temporary_folder
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger("heterofed")

Settings = dict[str, Any]
Direction = Literal["maximize", "minimize"]
Parties = tuple[HeteroNNHostScheduler, Sequence[HeteroNNCollaboratorScheduler]]
Space = Mapping[str, Any]

MOST_TRIALS = 10_000
TRIAL, TRIALS = "search.trial", "search.trials"
"""The agreed settings for the number of the trial, from 0 (the last one repeats the best settings),
and for the number of trials.
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the task.

    Attributes:
        number: the number of the trial, from 0.
        settings: the settings that were tried.
        score: the score of the trial; NaN if it diverged.
        seconds: the time that it took.
    """

    number: int
    settings: Settings
    score: float
    seconds: float


@dataclass(slots=True)
class Search:
    """The result of a search.

    Attributes:
        best: the trial with the best score.
        trials: all trials, in their order.
        final: the result of the last run, with the best settings; None without such a run.
    """

    best: Trial
    trials: list[Trial]
    final: Any = field(default=None, repr=False)

    def table(self) -> pd.DataFrame:
        """Return a row for each trial: number, score, seconds, and its settings."""
        return pd.DataFrame(
            [
                {"trial": each.number, "score": each.score, "seconds": each.seconds} | each.settings
                for each in self.trials
            ]
        )


def search(
    make_parties: Callable[[Settings], Parties],
    space: Space,
    trials: int = 50,
    *,
    score: str = "validation.loss",
    direction: Direction = "minimize",
    seed: int = 0,
    task_id: str = "search",
    refit: bool = True,
) -> Search:
    """Try settings with all parties in this process; ids are intersected in the first trial only.

    Args:
        make_parties: gets the settings of a trial, and returns the Host's scheduler and a list of
            the others' schedulers, which are new ones each time.
        space: the space of each setting by name: a list of choices; a `range`; a pair (lowest,
            highest), with "log" as a third item to sample on a logarithmic scale; or a distribution
            of Optuna.
        trials: the number of trials.
        score: the metrics set and the column that is the score of a trial; the best round counts.
        direction: whether the score is to be minimized or maximized.
        seed: the seed of the search.
        task_id: the task id of all runs. Each run replaces the results of the one before, unless
            `make_parties` gives other results folders.
        refit: whether to run the best settings once more at the end, so that their results are
            kept.

    Raises:
        ConfigError: Optuna is not installed, or a setting is wrong.
        Exception: an error ended a trial; only a trial that diverged counts as a failed one.
    """
    _check(trials, direction, score)
    with temporary_folder() as home:

        def run(settings: Settings, _number: int) -> TaskResult:
            host, others = make_parties(settings)
            done = simulate(host, others, task_id=task_id, home=home)
            result: TaskResult = next(iter(done.results.values()))
            return result

        return _searched(run, space, trials, score, direction, seed, refit)


def search_as_host(
    make_host: Callable[[Settings, dict[str, str]], HeteroNNHostScheduler],
    space: Space,
    trials: int,
    *,
    task_id: str,
    score: str = "validation.loss",
    direction: Direction = "minimize",
    seed: int = 0,
) -> Search:
    """Try settings with real parties; each of them runs `follow_search` with as many trials.

    The best settings are run once more at the end, so that their models are kept. Ids are signed in
    the first run, and again only after a trial that diverged. Releases count as in any runs of one
    task: gradients of `trials + 1` runs reveal more about the labels than those of one.

    Args:
        make_host: gets the settings of a trial, and the settings that it has to pass on as
            `agreed=` or add to it. From these the others learn which trial it is and what else they
            need.
        space: the same as in `search`.
        trials: the number of trials, which is the same at all parties.
        task_id: the task id, which is the same at all parties and for all trials.
        score: the same as in `search`.
        direction: the same as in `search`.
        seed: the same as in `search`.

    Raises:
        ConfigError: the same as in `search`.
        TaskFailed: a trial failed.
    """
    _check(trials, direction, score)
    fresh = _Fresh()

    def run(settings: Settings, number: int) -> TaskResult:
        host = make_host(settings, {TRIAL: str(number), TRIALS: str(trials)})
        with fresh.watching():
            return host.launch_task(task_id, fresh.resume)

    return _searched(run, space, trials, score, direction, seed, refit=True)


def follow_search(
    make_collaborator: Callable[[dict[str, str]], HeteroNNCollaboratorScheduler],
    trials: int,
    *,
    task_id: str,
) -> TaskResult:
    """Take part in a search of the Host.

    Args:
        make_collaborator: gets the settings that it has to pass on as `agreed=`, so that a Host
            with another number of trials is refused before any id is sent. It returns a new
            scheduler each time, whose hooks can read the settings of the trial in `agreed`.
        trials: the number of trials that this party allows; one more run repeats the best settings.
        task_id: the same as in `launch_task`.

    Returns:
        The result of the last run, which has the best settings.

    Raises:
        ConfigError: the same as in `launch_task`, or the Host's runs are not those of this search.
        TaskFailed: a trial failed.
    """
    _check(trials)
    fresh = _Fresh()

    def follow(number: int) -> TaskResult:
        party = make_collaborator({TRIALS: str(trials)})
        with fresh.watching():
            result = party.launch_task(task_id, fresh.resume)
        if party.agreed.get(TRIAL) != str(number):
            raise ConfigError(
                f"follow_search: run {number} was to be trial {number} of this search, and the Host"
                f" announced {party.agreed.get(TRIAL, 'none')}: start the search anew at all"
                " parties"
            )
        return result

    for number in range(trials):
        with suppress(NonFiniteError):
            follow(number)
    return follow(trials)


class _Fresh:
    """Decides how the next run is launched: a run that diverged is not resumed."""

    resume: Literal["auto", "never"] = "auto"

    @contextmanager
    def watching(self) -> Iterator[None]:
        try:
            yield
        except NonFiniteError:
            self.resume = "never"
            raise
        self.resume = "auto"


def _searched(
    run: Callable[[Settings, int], TaskResult],
    space: Space,
    trials: int,
    score: str,
    direction: Direction,
    seed: int,
    refit: bool,
) -> Search:
    done: list[Trial] = []
    with _study(direction, seed) as study:
        distributions = _distributions(space)
        for number in range(trials):
            asked = study.ask(distributions)
            settings, began = dict(asked.params), time.monotonic()
            try:
                reached = _score_of(run(settings, number), score, direction)
            except NonFiniteError:
                reached = math.nan
            done.append(Trial(number, settings, reached, time.monotonic() - began))
            _tell(study, asked, reached)
            logger.info("search: trial %d of %d: %s = %.6g", number + 1, trials, score, reached)
    finished = [each for each in done if not math.isnan(each.score)]
    if not finished:
        raise NonFiniteError("search: all trials diverged; give a space of smaller learning rates")
    sign = 1 if direction == "minimize" else -1
    best = min(finished, key=lambda each: sign * each.score)
    return Search(best, done, run(dict(best.settings), trials) if refit else None)


def _score_of(result: TaskResult, score: str, direction: Direction) -> float:
    """Return the best value of a metric over the rounds of a run; NaN if it has none."""
    name, _, column = score.rpartition(".")
    if name not in result.metrics:
        raise ConfigError(
            f"score={score!r}: the run wrote no metrics set {name!r}; it has"
            f" {sorted(result.metrics)}"
        )
    table = pd.read_csv(result.metrics[name])
    if column not in table:
        raise ConfigError(f"score={score!r}: {name}.csv has the columns {list(table.columns)}")
    values = table[column].astype(float)
    return float(values.min() if direction == "minimize" else values.max())


def _check(trials: object, direction: str = "minimize", score: str = "validation.loss") -> None:
    if isinstance(trials, bool) or not isinstance(trials, int) or not 1 <= trials <= MOST_TRIALS:
        raise ConfigError(f"trials={trials!r}: give a number from 1 to {MOST_TRIALS}")
    if direction not in ("maximize", "minimize"):
        raise ConfigError(f"direction={direction!r}: give 'maximize' or 'minimize'")
    if "." not in score:
        raise ConfigError(f"score={score!r}: give a metrics set and its column: 'validation.loss'")


@contextmanager
def _study(direction: Direction, seed: int) -> Iterator[optuna.Study]:
    """Return a study of Optuna that logs nothing, because each trial is logged here."""
    optuna = _optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(seed=seed)
        yield optuna.create_study(direction=direction, sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)


def _tell(study: optuna.Study, asked: optuna.Trial, reached: float) -> None:
    if math.isnan(reached):
        study.tell(asked, state=_optuna().trial.TrialState.FAIL)
    else:
        study.tell(asked, reached)


def _optuna() -> Any:
    with needing("search", "a search"):
        import optuna
    return optuna


def _distributions(space: Space) -> dict[str, Any]:
    if not space:
        raise ConfigError("space is empty: give the settings to try, such as {'width': [16, 32]}")
    return {name: _distribution(name, tried) for name, tried in space.items()}


def _distribution(name: str, tried: Any) -> Any:
    """Return the distribution of Optuna for a setting.

    Raises:
        ConfigError: the space has none of the possible forms.
    """
    distributions = _optuna().distributions
    try:
        match tried:
            case distributions.BaseDistribution():
                return tried
            case range():
                return distributions.IntDistribution(tried.start, tried[-1], step=tried.step)
            case list():
                return distributions.CategoricalDistribution(tried)
            case (int() as low, int() as high, *log) if log in ([], ["log"]):
                return distributions.IntDistribution(low, high, log=bool(log))
            case (int() | float() as low, int() | float() as high, *log) if log in ([], ["log"]):
                return distributions.FloatDistribution(float(low), float(high), log=bool(log))
    except (ValueError, IndexError) as error:
        raise ConfigError(f"space[{name!r}]={tried!r}: {error}") from None
    raise ConfigError(
        f"space[{name!r}]={tried!r}: give a list of choices, a range, (lowest, highest) or"
        " (lowest, highest, 'log')"
    )
