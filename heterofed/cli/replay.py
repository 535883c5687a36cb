"""The command `heterofed replay`, which runs one's own side of a recorded run again."""

from __future__ import annotations

import pdb as debugger
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from heterofed.runs.records.replay import Replayed

EXIT_DIFFERS = 1


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--round",
    "round_number",
    type=click.IntRange(min=1),
    required=True,
    help="Replay a batch of this round, counted from 1.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=0),
    required=True,
    help="Replay this train batch of the round, counted from 0.",
)
@click.option(
    "--program",
    metavar="COMMAND",
    help="Run this program of yours, such as 'host.py --rounds 5', in place of the one that"
    " launched the task.",
)
@click.option(
    "--pdb",
    "debug",
    is_flag=True,
    help="Stop in the debugger at your hook of that batch, and where an exception is raised.",
)
def replay(run: str, round_number: int, batch: int, program: str | None, debug: bool) -> None:
    """Run your own side of a recorded run again, without the other parties, and compare it.

    It goes from the nearest checkpoint to the batch, and names the first difference from the
    record, which is exit code 1. The program that launched the task runs once more for it, but the
    task itself is not launched, and nothing is sent. RUN is a results folder, or a task id where
    ./heterofed_runs has one party's results of it. The task must have been launched with
    record="inbound".
    """
    from heterofed.cli.report import find_run
    from heterofed.runs.records.program import given_program, run_program
    from heterofed.runs.records.replay import Stage

    stage = Stage(find_run(run), round_number, batch, pdb=debug)
    launched = stage.beginning.program if program is None else given_program(shlex.split(program))
    try:
        with stage.taking_over():
            run_program(launched)
    except Exception as error:
        if debug:
            debugger.post_mortem(error.__traceback__)
        raise
    found = stage.outcome
    click.echo("\n".join(_told(found, stage.beginning.party)))
    if not found.is_same:
        raise SystemExit(EXIT_DIFFERS)


def _told(found: Replayed, party: str) -> Iterator[str]:
    """Yield lines that say what was compared, and what differs."""
    yield (
        f"{party}, round {found.round}, batch {found.batch}: replayed from {found.begun} to"
        f" {found.ended}"
    )
    same = f"{found.messages} messages, {found.tensors} tensors in them, {found.checkpoints}"
    yield f"the same, bit for bit: {same} checkpoints"
    for name, (then, now) in found.versions.items():
        yield f"{name} was {then} in the run, and is {now}"
    if found.difference is not None:
        yield f"DIFFERENT: {found.difference.words()}"
