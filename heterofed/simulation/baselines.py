"""Trains baselines for comparison with a joint run, if all data may be in one place.

The hooks of all parties run in one process, without messages. `pooled` trains every half, as one
joined model. `local` does the same with zeros for the other parties' features, so it uses the
Host's columns only, in the same architecture.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heterofed.errors import ConfigError, needing
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.hetero_nn.hooks import half_engine
from heterofed.hetero_nn.sites.settings import check_whole
from heterofed.hetero_nn.train.training import HostTraining
from heterofed.metrics import NO_METRICS
from heterofed.report.render import write_report
from heterofed.reporting import markup
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import fresh_folder, write_whole
from heterofed.simulation.one_graph import Baseline, Mode

MODES: tuple[Mode, ...] = ("local", "pooled")

FOLDER = "baselines"


@dataclass(slots=True)
class Comparison:
    """The metrics of a joint run beside those of its baselines.

    Attributes:
        tables: a CSV file for each metrics set, by name; it has the column `mode` (`joint`,
            `local`, `pooled`) and the columns of the set.
        models: the paths of each baseline's models, by mode and name.
    """

    tables: dict[str, Path] = field(default_factory=dict)
    models: dict[str, dict[str, Path]] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Return the last metrics of each model for a notebook."""
        return tables_of(self)


def tables_of(comparison: Comparison) -> str:
    """Return the last metrics of each model as HTML, with a column for each model."""
    shown = []
    for name, path in comparison.tables.items():
        with path.open(newline="", encoding="utf-8") as file:
            last = {row["mode"]: row for row in csv.DictReader(file)}
        keys = [key for key in next(iter(last.values()), {}) if key not in ("mode", "round")]
        rows = [(f"{name}: {key}", *(row[key] for row in last.values())) for key in keys]
        shown.append(markup.table(("last round", *last), rows))
    return "".join(shown)


def compare(
    host: HeteroNNHostScheduler,
    collaborators: Sequence[HeteroNNCollaboratorScheduler],
    *,
    task_id: str,
    modes: Sequence[Mode] = MODES,
) -> Comparison:
    """Train the baselines of a finished joint run, on the same ids and with the same seeds.

    Nothing is sent, so nothing is compressed, and defences of data that are sent have no effect.
    Poisson batches are those of the joint run if it was the last run of these objects.

    Args:
        host: the Host's scheduler.
        collaborators: the other parties' schedulers, in task order.
        task_id: the id of the finished task, whose results folder gets a folder `baselines`.
        modes: the baselines to train.

    Raises:
        ConfigError: a mode is unknown, there is no finished run, or the run used `label_dp`.
    """
    modes = check_modes(modes)
    check_comparable(host)
    folder = HostTraining(host).results_folder(task_id)
    if not (folder / "summary.json").exists():
        raise ConfigError(f"{folder} holds no run that has ended well; run the task first")
    fresh_folder(folder / FOLDER)
    done = Comparison()
    found = {"joint": _metrics_in(folder)}
    run = half_engine(host).run
    is_joint = run is not None and run.result.folder == folder
    agreement = run.maybe_agreement if run is not None and is_joint else None
    secret = agreement.secret if agreement is not None else bytes(32)
    for mode in modes:
        baseline = Baseline(host, collaborators, task_id, folder / FOLDER / mode, mode, secret)
        result = baseline.train()
        found[mode] = _metrics_in(result.folder)
        done.models[mode] = result.models
    for name in found["joint"]:
        path = folder / FOLDER / f"{name}.csv"
        write_whole(path, lambda file, n=name: file.write(_joined(n, found).encode()))  # type: ignore[misc]
        done.tables[name] = path
    with Harmless()("the report"):
        write_report(folder)
    return done


def check_modes(modes: Sequence[str]) -> tuple[Mode, ...]:
    """Check the names of baselines.

    Raises:
        ConfigError: there is none, or one is unknown.
    """
    are_listed = isinstance(modes, Sequence) and not isinstance(modes, str)
    if not are_listed or not modes or not all(mode in MODES for mode in modes):
        raise ConfigError(f"baselines={modes!r}: give some of {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in modes)


def check_comparable(host: object) -> None:
    """Check that baselines can be trained in the same way as the joint run.

    Raises:
        ConfigError: the joint run trains on labels that no other run can know, a role has sites, or
            the parties have the same columns.
    """
    if not isinstance(host, HeteroNNHostScheduler):
        raise ConfigError(
            "baselines are of a task in which parties have different columns, and a"
            f" {type(host).__name__} has none; leave out baselines"
        )
    check_whole(half_engine(host).settings, "a comparison with baselines")
    if half_engine(host).settings.label_dp is not None:
        raise ConfigError(
            "baselines: label_dp turns labels by coins of the joint run alone, so a baseline would"
            " train on other labels; compare runs without it"
        )


def _metrics_in(folder: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem not in NO_METRICS:
            with path.open(newline="", encoding="utf-8") as file:
                found[path.stem] = list(csv.DictReader(file))
    return found


def _joined(name: str, found: Mapping[str, Mapping[str, list[dict[str, str]]]]) -> str:
    rows = [{"mode": mode, **row} for mode, sets in found.items() for row in sets.get(name, [])]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(table: Path, metric: str, path: Path) -> Path:
    """Draw a metric by round as PNG, with a line for each mode.

    Args:
        table: one of `Comparison.tables`.
        metric: the column to draw.
        path: the path of the file, which ends in `.png`.

    Raises:
        ConfigError: matplotlib is not installed, or there is no such column.
    """
    with needing("plot", "a plot"):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or metric not in rows[0] or "round" not in rows[0]:
        raise ConfigError(f"{table} has no column {metric!r} by round; give a metric of the run")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for mode in dict.fromkeys(row["mode"] for row in rows):
        line = [row for row in rows if row["mode"] == mode]
        # The pooled line lies on the joint one where all is well: both must show.
        style = {"joint": "o-", "local": "s-", "pooled": "x--"}[mode]
        rounds = [int(row["round"]) for row in line]
        axes.plot(rounds, [float(row[metric]) for row in line], style, label=mode)
    axes.set(xlabel="round", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120), anywhere=True)
    return path
