"""The command group `heterofed receipt`, which checks receipts of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heterofed.errors import ConfigError

if TYPE_CHECKING:
    from heterofed.identity.receipt.check import Checked


@click.group()
def receipt() -> None:
    """Check the receipts that parties keep of their runs."""


@receipt.command("verify")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="PARTY=KEY",
    help="Require this signing key, which you have from the party itself; repeat it for each.",
)
def receipt_verify(files: tuple[Path, ...], keys: tuple[str, ...]) -> None:
    """Check receipts offline, and say what they prove and what not.

    Receipts of several parties of one run are also compared with each other.
    """
    from heterofed.cli.task import signing_key
    from heterofed.identity.receipt.check import check_receipt, check_together

    known = dict(signing_key(each, "--key") for each in keys)
    found = [check_receipt(path.read_bytes(), known) for path in files]
    check_together(found)
    for each in found:
        click.echo("\n".join(_told(each, known)))
    if any(each.contradicted for each in found):
        raise ConfigError(
            "the parties signed different statements; compare their receipts, and ask both"
        )


def _told(found: Checked, known: Mapping[str, str]) -> Iterator[str]:
    """Yield lines that say what a receipt proves and what not."""
    rounds = f"{found.rounds} rounds"
    if found.rounds is None:
        rounds = f"ended early by {found.stopped}" if found.stopped else "not ended"
    times = f", resumed {found.resumed} times" if found.resumed else ""
    yield f"Receipt of {found.party}: task {found.task}, run {found.run}, {rounds}{times}."
    yield f"Terms: {found.terms}"
    yield f"PROVED: {found.party} signed all of it, and nothing was changed since."
    for each in found.heard:
        if fields := found.contradicted.get(each):
            yield f"CONTRADICTED: {each} signed something else about {', '.join(fields)}."
        else:
            yield (
                f"PROVED: {each} signed the same terms, rounds and messages between itself and"
                f" {found.party}."
            )
    for each in found.missing:
        yield f"NOT PROVED: that {each} agrees; there is no signed statement of it."
    if unknown := [each for each in (found.party, *found.heard) if each not in known]:
        yield (
            f"NOT PROVED: that the keys are those of {', '.join(unknown)}. They are the ones in the"
            " terms: compare them with the parties', and give --key."
        )
    yield (
        f"NOT PROVED: that what {found.party} measured of itself (leaks, epsilons, models, sizes)"
        " is true. It is its own word, which it can no longer change."
    )
