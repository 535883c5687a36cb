"""Defines the commands `heterofed table`, which turn a table at each party into a joint model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import click

from heterofed.cli import options
from heterofed.cli.options import all_of, is_given, refuse
from heterofed.cli.sentences import translated
from heterofed.cli.table_check import check
from heterofed.cli.table_overlap import count_overlap, overlap, show_overlap
from heterofed.cli.table_score import score
from heterofed.cli.table_take_home import take_home
from heterofed.cli.ways import COMMANDS
from heterofed.rendezvous.address import check_free
from heterofed.rendezvous.ways import started_by

Role = Literal["host", "collaborator"]


@click.group()
def table() -> None:
    """Train a joint model of tables, one at each party, and predict with it."""


_COMMON = all_of(
    options.TABLE,
    options.TASK,
    options.ROLE,
    options.PARTY,
    options.RESULTS,
    options.JOIN_TIMEOUT,
    options.AS_JSON,
)

_AT_HOST = all_of(
    click.option("--label", multiple=True, help="At the Host: column of the label, or several."),
    click.option(
        "--kind",
        type=click.Choice(["auto", "binary", "multiclass", "multilabel", "regression", "counts"]),
        default="auto",
        show_default=True,
        help="At the Host: what the label is; auto reads it from the labels.",
    ),
    click.option("--positive", help="At the Host: the class of a binary label to predict."),
    click.option("--weight", help="At the Host: column of the rows' weights."),
    click.option(
        "--balanced", is_flag=True, help="At the Host: let all classes count alike, rare ones too."
    ),
    click.option(
        "--model",
        type=click.Choice(["mlp", "logistic", "wide_deep", "deepfm"]),
        default="mlp",
        show_default=True,
        help="At the Host: what is trained.",
    ),
    click.option(
        "--rounds",
        "max_rounds",
        type=click.IntRange(min=1),
        default=30,
        show_default=True,
        help="At the Host: most rounds (epochs) to train.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(min=1),
        default=5,
        show_default=True,
        help="At the Host: rounds without a better validation loss after which training stops.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="At the Host: rows of a batch; 256 by default, and fewer where its table is small.",
    ),
    click.option(
        "--learning-rate",
        type=click.FloatRange(min=0, min_open=True),
        default=2e-3,
        show_default=True,
        help="At the Host: of all parties.",
    ),
    click.option(
        "--test",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.2,
        show_default=True,
        help="At the Host: share of the common rows that only tell how good the model is.",
    ),
    click.option(
        "--validation",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.1,
        show_default=True,
        help="At the Host: share of the other rows that stops training early.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="At the Host: another one gives another split.",
    ),
    click.option(
        "--stratify", is_flag=True, help="At the Host: every class in the same share in each part."
    ),
    click.option("--group", help="At the Host: column whose equal rows go into one part."),
    click.option("--time", help="At the Host: column of a time; the latest rows are the test."),
    click.option(
        "--folds",
        type=click.IntRange(min=0, max=1000),
        default=0,
        show_default=True,
        help="At the Host: k-fold cross-validation; a task for each fold.",
    ),
    click.option(
        "--fold",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="At the Host: which fold is the test, from 0.",
    ),
    options.parties("At the Host: Collaborators to wait for, where there is no task file."),
    click.option(
        "--psi",
        type=click.Choice(["ecdh", "rsa"]),
        default="ecdh",
        show_default=True,
        help="At the Host: how ids are intersected.",
    ),
    options.JOINT,
    click.option(
        "--recording",
        is_flag=True,
        help="At the Host: let every party --record, where there is no task file.",
    ),
)


@table.command()
@_COMMON
@click.option(
    "--id",
    "ids",
    multiple=True,
    required=True,
    help="Column of the ids; several are joined, or are keys tried in order (see --id-recipe).",
)
@options.ID_RECIPE
@options.DUPLICATES
@click.option(
    "--column", "columns", multiple=True, help="A column to learn from; else all but ids and label."
)
@click.option("--leave-out", multiple=True, help="A column not to learn from.")
@click.option("--seed", type=int, help="Only to repeat a run: others may guess it.")
@options.FRESH
@click.option(
    "--record",
    is_flag=True,
    help="Keep what the others send, encrypted and for 7 days, so that `heterofed replay` can run"
    " your side of any batch again; the terms must allow it (recording).",
)
@options.WATCH
@options.LOG_FORMAT
@click.option(
    "--importance",
    is_flag=True,
    help="Measure what each column is worth, on test rows that leave once more for each of them;"
    " every party has to say so.",
)
@click.option(
    "--overlap-only",
    is_flag=True,
    help="Only count the ids that the parties share, as `table overlap` does, and train nothing.",
)
@_AT_HOST
@click.pass_context
def train(context: click.Context, /, role: Role, as_json: bool, **given: Any) -> None:
    """Train a joint model: run this at every party, each with its own TABLE.

    TABLE is a CSV or Parquet file, or the address of a database. Columns are prepared by what they
    hold, on this party's train rows alone, and what was fitted is kept with this party's half.
    """
    from heterofed.cli.table_tasks import train as run

    overlap_only = given.pop("overlap_only")
    if role == "collaborator":
        refuse(context, [each.name for each in _host_options()], _DECIDES)
        if given["duplicates"] == "many":
            raise click.UsageError("--duplicates many: only the Host's rows may be many to one")
    elif not given["label"] and not overlap_only:
        raise click.UsageError("the Host needs --label, the column of the label")
    if given["columns"] and given["leave_out"]:
        raise click.UsageError("give --column or --leave-out, not both")
    if overlap_only:
        counted = {name: given[name] for name in _COUNTED}
        with started_by(COMMANDS):
            show_overlap(count_overlap(role=role, **counted), as_json=as_json)
        return
    with started_by(COMMANDS):
        if role == "host":
            check_free(given["task"])
            given |= _agreed(context, given["task"])
        _show(run(role=role, **given), as_json)


def _agreed(context: click.Context, task: str) -> dict[str, Any]:
    """Return the options that were not given and are among the terms of the task file."""
    from heterofed.cli.own_party import terms_of

    terms = terms_of(task)
    if terms is None:
        return {}
    agreed = {"psi": terms.psi_protocol, "max_rounds": terms.max_rounds}
    agreed["batch_size"] = terms.batch_size
    return {name: value for name, value in agreed.items() if value and not is_given(context, name)}


_COUNTED = (
    *("location", "table", "query", "delimiter", "encoding", "header", "ids", "id_recipe"),
    *("task", "party", "parties", "results", "join_timeout"),
)
"""The options of a training that a count of common ids needs too."""


@table.command()
@_COMMON
@click.option("--id", "ids", multiple=True, help="Column of the ids; that of the training, else.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("predictions.csv"),
    show_default=True,
    help="At the Host: gets the predictions, in the order of TABLE.",
)
@click.option(
    "--max-rows-per-day",
    type=click.IntRange(min=0),
    default=1_000_000,
    show_default=True,
    help="At a Collaborator: most rows to compute in a day (UTC).",
)
@click.option(
    "--requests",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="At a Collaborator: end after so many requests; 0: serve until interrupted.",
)
@click.option(
    "--take-home",
    is_flag=True,
    help="At the Host: predict all rows by the model of `table take-home`, without any other"
    " party.",
)
@options.LOG_FORMAT
@click.pass_context
def predict(context: click.Context, /, role: Role, as_json: bool, **given: Any) -> None:
    """Predict the rows of TABLE that all parties have: run this at every party of the training.

    The Host gets the predictions of the best round's models; a Collaborator computes its part of
    the rows that are asked for.
    """
    from heterofed.cli.table_take_home import predict_alone
    from heterofed.cli.table_tasks import predict as run

    others = {"host": ["max_rows_per_day", "requests"], "collaborator": ["out", "take_home"]}
    refuse(context, others[role], f"it is not for a {role}")
    if given.pop("take_home"):
        _show(predict_alone(**given), as_json)
        return
    with started_by(COMMANDS):
        if role == "host":
            check_free(given["task"], turns="predict")
        _show(run(role=role, **given), as_json)


table.add_command(check)
table.add_command(overlap)
table.add_command(score)
table.add_command(take_home)


def _host_options() -> Iterable[click.Parameter]:
    @_AT_HOST
    def command() -> None:
        """Have the options of the Host."""

    return list(getattr(command, "__click_params__", []))


def _show(outcome: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(outcome))
        return
    for name, value in outcome.pop("metrics", {}).items():
        click.echo(f"  {name:<20} {value:.4f}")
    _show_importance(outcome.pop("importance", []))
    for name, value in outcome.items():
        click.echo(f"{name:<12} {value}")


def _show_importance(columns: list[dict[str, Any]]) -> None:
    """Show the most important columns, and where all of them are."""
    if not columns:
        return
    click.echo(translated("what each column is worth (how much worse the model is without it):"))
    for each in columns[:_MOST_COLUMNS]:
        drop = translated("no value") if each["drop"] is None else f"{each['drop']:.4f}"
        click.echo(f"  {each['party'] + ' ' + each['column']:<32} {drop}")
    if len(columns) > _MOST_COLUMNS:
        more = len(columns) - _MOST_COLUMNS
        click.echo(translated(f"  ... and {more} more in importance.csv"))


_DECIDES = "the Host decides, which has no --role collaborator"
_MOST_COLUMNS = 20
