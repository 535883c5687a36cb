"""The `heterofed` command.

Exit codes: 0 done; 1 the task failed; 2 your input is wrong (usage, a setting, a file, a column or
ids), and nothing was sent; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from heterofed._version import __version__
from heterofed.cli import options, trust
from heterofed.cli.doctor import doctor
from heterofed.cli.language import explanation, users_language
from heterofed.cli.models import models
from heterofed.cli.new import new
from heterofed.cli.psi_set import psi_set
from heterofed.cli.receipt import receipt
from heterofed.cli.replay import replay
from heterofed.cli.said import is_json, say, say_error
from heterofed.cli.sentences import translated
from heterofed.cli.serve import serve as serve_command
from heterofed.cli.table import table
from heterofed.cli.watch import watch as watch_command
from heterofed.cli.ways import PSI_COMMAND
from heterofed.errors import ConfigError, DataError, HeteroFedError
from heterofed.files import fill_standard_streams
from heterofed.messaging.aborts import cause
from heterofed.rendezvous.ways import started_by
from heterofed.reporting.trackers.names import TRACKERS

UNSTORED = ("protocol", "psi_parties", "parties", "executor", "key_leaves", "fresh")
"""The options of `psi` that say nothing about a request to a stored set."""

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="heterofed")
def cli() -> None:
    """Train models together with parties that hold other columns of the same rows."""


@cli.command()
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Train this many rounds (epochs).",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Read MNIST from this folder, after a download to it if the data are not there.",
)
@options.RESULTS
@click.option(
    "--limit",
    type=(click.IntRange(min=1), click.IntRange(min=1)),
    metavar="TRAIN TEST",
    help="Use only this many images for training and for tests.",
)
@click.option(
    "--baseline",
    metavar="MODES",
    default="",
    help="Train baselines afterwards: local (the Host alone), pooled (one model of all columns), or"
    " local,pooled.",
)
@click.option(
    "--psi-protocol",
    type=click.Choice(["ecdh", "rsa"]),
    default="ecdh",
    show_default=True,
    help="Intersect ids by this protocol; rsa takes three times as long.",
)
@click.option(
    "--track",
    type=click.Choice(list(TRACKERS)),
    multiple=True,
    help="Send the Host's metrics to this tracker; the option may be repeated.",
)
@options.WATCH
@options.LOG_FORMAT
@options.AS_JSON
def demo(
    rounds: int,
    data: Path,
    results: Path,
    limit: tuple[int, int] | None,
    baseline: str,
    psi_protocol: str,
    track: tuple[str, ...],
    watch: bool,
    as_json: bool,
) -> None:
    """Train the split-MNIST example in two processes on this machine."""
    from heterofed.cli.demo import run_demo

    modes = [mode.strip() for mode in baseline.split(",") if mode.strip()]
    outcome = run_demo(
        rounds=rounds,
        data=data,
        results=results,
        limit=limit,
        baselines=modes,
        psi_protocol=psi_protocol,
        track=track,
        watch=watch,
    )
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        said = (
            f"test accuracy {outcome['accuracy']:.4f} after {outcome['rounds']} rounds,"
            f" {outcome['total_seconds']:.1f} s in all"
        )
        click.echo(f"{translated(said)}\n{outcome['metrics_csv']}")
        for mode, accuracy in outcome.get("baselines", {}).items():
            click.echo(translated(f"{mode}: test accuracy {accuracy:.4f}"))
        if "plot" in outcome:
            click.echo(outcome["plot"])


@cli.command()
@options.TASK
@click.option(
    "--role",
    type=click.Choice(["initiator", "collaborator"]),
    required=True,
    help="Take part in this role; the initiator chooses the protocol and learns the matches first.",
)
@options.IDS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Write those of your rows whose ids all parties have to this file, in their order, or to"
    " this new folder if --ids is one.",
)
@click.option(
    "--protocol",
    type=click.Choice(["rsa", "ecdh"]),
    default="rsa",
    show_default=True,
    help="Intersect ids by this protocol; only the initiator sets it.",
)
@options.JOINT
@click.option(
    "--stored",
    metavar="NAME",
    help="Ask the stored set of this name, which a collaborator keeps by `heterofed psi-set`; only"
    " the initiator sets it.",
)
@options.max_peer_ids(
    "Refuse more ids than this: at the initiator, from any one party; at a collaborator, from the"
    " initiator in all runs of the task together."
)
@options.EXECUTOR
@options.key_leaves("Let a collaborator's secret key be sent to an executor on other machines.")
@options.PARTY
@options.parties("Wait for this many collaborators; only the initiator sets it.")
@options.JOIN_TIMEOUT
@options.FRESH
@options.LOG_FORMAT
@options.AS_JSON
@click.pass_context
def psi(context: click.Context, /, column: str | None, as_json: bool, **given: Any) -> None:
    """Find out which of your ids the other parties have too, without revealing the others."""
    from heterofed.cli.psi import run_psi
    from heterofed.rendezvous.address import check_free

    if given["stored"] is not None:
        if given["role"] != "initiator":
            raise click.UsageError("--stored: its owner runs `heterofed psi-set serve` instead")
        options.refuse(context, UNSTORED, "a stored set is asked by a protocol of its own")
    with started_by(PSI_COMMAND):
        if given["role"] == "initiator":
            check_free(given["task"])
        outcome = run_psi(id_column=column, **given)
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        said = f"{outcome['matched']} of {outcome['ids']} ids matched: {outcome['out']}"
        click.echo(translated(said))


@cli.command()
@click.argument("run")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["html", "json", "md", "card"]),
    default="html",
    show_default=True,
    help="Write a page, data, Markdown, or a model card in the form of Hugging Face.",
)
@click.option(
    "--output",
    metavar="FILE",
    help="Write to this file, or print the report if it is -. The default is report.html (.json,"
    " .md; README.md for a card) in the results folder.",
)
def report(run: str, kind: Any, output: str | None) -> None:
    """Make the report of a run anew, also of one that failed or goes on.

    RUN is a results folder, or a task id where ./heterofed_runs has one party's results of it.
    """
    from heterofed.cli.report import run_report

    run_report(run, kind, output)


@cli.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("heterofed-bundle.zip"),
    show_default=True,
    help="Write this archive.",
)
def bundle(run: str, output: Path) -> None:
    """Pack versions, settings, timings and errors of a run for a question to the maintainers.

    Nothing of the data is in it: no id, label, feature, column, key, path or text of an error. RUN
    is a results folder, or a task id where ./heterofed_runs has one party's results of it.
    """
    from heterofed.cli.bundle import write_bundle

    for name in write_bundle(run, output.absolute()):
        click.echo(name)
    click.echo(translated(f"{output}: look at it before you send it"))


@cli.command()
@click.option("--verbose", "-v", is_flag=True, help="Show Python, the system and all packages too.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one line of JSON.")
def version(verbose: bool, as_json: bool) -> None:
    """Print the version; with --verbose, also the versions of what heterofed uses."""
    from heterofed.cli.version import versions

    found = versions()
    if as_json:
        click.echo(json.dumps(found))
    elif verbose:
        width = max(map(len, found))
        click.echo("\n".join(f"{name:{width}}  {value}" for name, value in found.items()))
    else:
        click.echo(f"heterofed {__version__}")


cli.add_command(trust.keys)
cli.add_command(trust.task)
cli.add_command(table)
cli.add_command(new)
cli.add_command(psi_set)
cli.add_command(watch_command)
cli.add_command(doctor)
cli.add_command(serve_command)
cli.add_command(receipt)
cli.add_command(replay)
cli.add_command(models)


def main() -> None:
    """Run the command; an error is printed as one sentence and sets the exit code."""
    fill_standard_streams()
    with users_language(cli):
        _run()


def _run() -> None:
    try:
        ended = cli.main(standalone_mode=False)
    except click.ClickException as error:
        if is_json():
            say_error(type(error).__name__, error.format_message())
        elif sys.stderr is not None:
            error.message = translated(error.message)  # type: ignore[misc] # before it is shown
            error.show()
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except HeteroFedError as error:
        say_error(cause(error), str(error), explanation(error) or "")
        is_input = isinstance(error, ConfigError | DataError) and not error.begun
        sys.exit(EXIT_USAGE if is_input else EXIT_FAILED)
    if isinstance(ended, int):  # what a command gave to `Context.exit`
        sys.exit(ended)
