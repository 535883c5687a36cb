"""Runs the tasks of `heterofed table` at this party, with a table and some options."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from heterofed.cli.own_party import name_in
from heterofed.cli.said import say
from heterofed.cli.sentences import translated
from heterofed.errors import ConfigError, EmptyIntersectionError
from heterofed.files import read
from heterofed.reporting.results import check_writable, write_whole
from heterofed.reporting.task_result import TaskResult
from heterofed.tabular import Source, TabularCollaborator, TabularHost, open_source
from heterofed.tabular.written import write_csv

if TYPE_CHECKING:
    from pandas import DataFrame

OF_SOURCE = ("table", "query", "delimiter", "encoding", "header")
"""The options that say how a table is opened."""

LABELLED = ("kind", "positive", "weight")
"""The options that say how labels are read."""

GIVEN = "table.json"
"""The name of the file in the results folder that says which columns have the ids."""


class Given(msgspec.Struct):
    """The settings that a prediction takes from the training.

    Attributes:
        ids: the columns of the ids.
        id_recipe, duplicates: the way in which ids are read.
        label, kind, positive, weight: the columns of labels and weights, and how they are read; the
            label is empty at a Collaborator.
    """

    ids: list[str]
    id_recipe: str | None = None
    duplicates: str = "error"
    label: list[str] = []
    kind: str = "auto"
    positive: str | None = None
    weight: str | None = None

    def reading(self, ids: Sequence[str] = ()) -> dict[str, Any]:
        """Return the arguments by which ids are read as in the training.

        Args:
            ids: the columns of the ids, if they are not those of the training.
        """
        chosen = list(ids) or self.ids
        return {"ids": chosen, "id_recipe": self.id_recipe, "duplicates": self.duplicates}


def train(
    *,
    location: str,
    task: str,
    role: str,
    party: str | None,
    results: Path,
    join_timeout: float,
    ids: Sequence[str],
    id_recipe: str | None,
    duplicates: str,
    columns: Sequence[str],
    leave_out: Sequence[str],
    seed: int | None,
    importance: bool,
    fresh: bool,
    label: Sequence[str],
    parties: int,
    psi: str,
    balanced: bool,
    watch: bool,
    **given: Any,
) -> dict[str, Any]:
    """Train at one party.

    Returns:
        A dict with the keys task, party, ids (of the intersection), rounds, best_round, seconds and
        folder. At the Host it also has metrics, which are those of the test rows with the best
        model. If the columns were measured, importance has a dict for each, with the keys party,
        column and drop.

    Raises:
        ConfigError: an option or the table is wrong; nothing was sent.
        TaskFailed: the task failed.
    """
    name = name_in(task, party, role, is_host=role == "host")
    check_writable(results.absolute())
    source = opened(location, **{name: given.pop(name) for name in OF_SOURCE})
    source.must_have([*ids, *label, *columns, *leave_out])
    taken = {*ids, *label, *leave_out, *(given[name] for name in ("weight", "group", "time"))}
    chosen = list(columns) or [name for name in source.columns if name not in taken]
    common: dict[str, Any] = {"ids": ids, "id_recipe": id_recipe, "duplicates": duplicates}
    common |= {"columns": chosen, "seed": seed, "importance": importance}
    common |= {"results_dir": results, "join_timeout": join_timeout, **_recording(given)}
    scheduler: TabularHost | TabularCollaborator
    if role == "host":
        scheduler = TabularHost(
            name,
            source,
            label=label,
            collaborators=parties,
            psi_protocol=psi,
            class_weights="balanced" if balanced else None,
            **common,
            **given,
        )
    else:
        scheduler = TabularCollaborator(name, source, **common)
    kept = Given(list(ids), id_recipe, duplicates, list(label), **_labelled(given, role))
    return _launched(scheduler, task, kept, fresh=fresh, watch=watch)


def _recording(given: dict[str, Any]) -> dict[str, str | None]:
    """Take the option out of those given that says whether this party records."""
    return {"record": "inbound" if given.pop("record") else None}


def _labelled(given: dict[str, Any], role: str) -> dict[str, Any]:
    """Return how labels are read, at the Host."""
    return {name: given[name] for name in LABELLED if role == "host"}


def opened(location: str, **given: Any) -> Source:
    """Open a table, and show what was found out about it."""
    source = open_source(location, **given)
    for note in source.notes:
        say(f"{source.name}: {translated(note)}", f"{source.name}: {note}")
    return source


def _launched(
    scheduler: TabularHost | TabularCollaborator,
    task: str,
    given: Given,
    *,
    fresh: bool,
    watch: bool,
) -> dict[str, Any]:
    """Train to the end, and store for predictions how ids are read."""
    if isinstance(scheduler, TabularHost) and scheduler.objective is not None:
        labels = scheduler.objective.labels
        # The classes are shown only on the screen of this party, because they must not be in a log.
        say(
            f"labels: {labels.said}",
            f"labels: {labels.kind}, {len(labels.classes)} classes"
            if labels.classes
            else labels.kind,
            event="LabelsRead",
            kind=labels.kind,
            classes=len(labels.classes),
        )
    try:
        result = scheduler.launch_task(task, resume="never" if fresh else "auto", watch=watch)
    except EmptyIntersectionError:
        say(scheduler.overlap_advice())
        raise
    kept = msgspec.json.encode(given)
    write_whole(result.folder / GIVEN, lambda file: file.write(kept))
    found = scheduler.evaluation if isinstance(scheduler, TabularHost) else None
    outcome = _trained(result, {} if found is None else found.metrics)
    if (measured := result.metrics.get("importance")) is not None:
        outcome["importance"] = _importance(measured)
    return outcome


def _importance(path: Path) -> list[dict[str, Any]]:
    """Return the columns of all parties, the most important of each first; a drop that means
    nothing is None.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    drops = [float(row["drop"]) for row in rows]
    return [
        row | {"drop": None if math.isnan(drop) else drop}
        for row, drop in zip(rows, drops, strict=True)
    ]


def _trained(result: TaskResult, metrics: dict[str, float]) -> dict[str, Any]:
    outcome: dict[str, Any] = {
        "task": result.task_id,
        "party": result.party,
        "ids": result.ids,
        "rounds": result.rounds,
        "best_round": result.best_round,
        "seconds": round(result.seconds, 3),
        "folder": str(result.folder),
    }
    defined = {k: float(v) for k, v in metrics.items() if not math.isnan(v)}
    return outcome | ({"metrics": defined} if metrics else {})


def predict(
    *,
    location: str,
    task: str,
    role: str,
    party: str | None,
    results: Path,
    join_timeout: float,
    ids: Sequence[str],
    out: Path,
    max_rows_per_day: int,
    requests: int,
    **of_source: Any,
) -> dict[str, Any]:
    """Predict at one party.

    Returns:
        A dict with the keys task, party and rows; at the Host also missing, the number of rows of
        its table without a prediction, and out.

    Raises:
        ConfigError: an option, the table or the trained model is wrong; nothing was sent.
        TaskFailed: the prediction failed.
    """
    name = name_in(task, party, role, is_host=role == "host")
    source = opened(location, **of_source)
    kept = given_in(results.absolute() / task / name)
    common = {**kept.reading(ids), "results_dir": results, "join_timeout": join_timeout}
    outcome: dict[str, Any] = {"task": task, "party": name}
    if role == "collaborator":
        collaborator = TabularCollaborator(name, source, **common)
        rows = collaborator.serve_predictions(
            task, max_rows_per_day=max_rows_per_day, requests=requests
        )
        return outcome | {"rows": rows}
    out = out.absolute()
    check_writable(out.parent)
    host = TabularHost(name, source, label=None, **common)
    frame = host.in_table_order(host.predict(task, models="best"))
    write_predictions(frame, out)
    missing = len(source) - len(frame)
    if missing:
        say(
            f"{missing} of the {len(source)} rows of {source.name} have no prediction: not every"
            f" other party has their ids, or they have none; {out.name} leaves them out",
            event="RowsMissing",
            missing=missing,
            rows=len(source),
        )
    return outcome | {"rows": len(frame), "missing": missing, "out": str(out)}


def write_predictions(frame: DataFrame, out: Path) -> None:
    """Write predictions as CSV."""
    write_whole(out, lambda file: write_csv(frame, file), anywhere=True)


def given_in(folder: Path) -> Given:
    """Return the settings with which the training read its ids.

    Raises:
        ConfigError: there is no training of this party and task in the folder.
    """
    try:
        return msgspec.json.decode(read(folder / GIVEN), type=Given)
    except (OSError, msgspec.MsgspecError):
        raise ConfigError(
            f"{folder} holds no model that `heterofed table train` has trained; train first, with"
            " the same --task, --party and --results"
        ) from None
