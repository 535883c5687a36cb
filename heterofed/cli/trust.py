"""The command groups `heterofed keys` and `heterofed task`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from heterofed.cli.sentences import translated
from heterofed.errors import ConfigError

if TYPE_CHECKING:
    from heterofed.identity.keys import Key

NAME_OF_TASK = "TASK|FILE"


@click.group()
def keys() -> None:
    """Make and show this party's keys."""


@keys.command("new")
@click.argument("party")
def keys_new(party: str) -> None:
    """Make a key pair, and print the public key and its fingerprint.

    The private key stays in a file that only you can read. Give the public key to the others.
    """
    from heterofed.identity.keys import new_key

    _show(new_key, party)


@keys.command("show")
@click.argument("party")
def keys_show(party: str) -> None:
    """Print the public key (first line) and its fingerprint (second line), to compare by phone."""
    from heterofed.identity.keys import load_key

    _show(load_key, party)


@keys.command("signing")
@click.argument("party")
def keys_signing(party: str) -> None:
    """Print the public key by which the party signs receipts; it is made if there is none.

    Give it to the Host, who lists it in the task file (`heterofed task new --signing`).
    """
    from heterofed.files import heterofed_home
    from heterofed.identity.signing import make_signing_key
    from heterofed.reporting.results import check_name

    click.echo(make_signing_key(check_name(party, "party"), heterofed_home()).public)


@keys.command("rotate")
@click.argument("party")
def keys_rotate(party: str) -> None:
    """Replace the key pair by a new one; the old one is deleted.

    Task files that list the old key no longer work; have the new public key listed in them.
    """
    from heterofed.identity.keys import rotate_key

    _show(rotate_key, party)


def _show(get: Callable[[str, Path], Key], party: str) -> None:
    from heterofed.files import heterofed_home
    from heterofed.reporting.results import check_name

    key = get(check_name(party, "party"), heterofed_home())
    click.echo(f"{key.public}\n{key.fingerprint}")


@click.group()
def task() -> None:
    """Make, check and accept task files, which hold the terms that the parties agree on."""


@task.command("new")
@click.argument("task_id", metavar="TASK")
@click.option(
    "--host",
    required=True,
    help="Make this party the Host; its key pair must be on this machine.",
)
@click.option(
    "--address",
    required=True,
    help="Let Collaborators reach the Host at this address, tcp://HOST:PORT.",
)
@click.option(
    "--collaborator",
    "collaborators",
    required=True,
    multiple=True,
    metavar="PARTY=PUBKEY",
    help="Add this Collaborator with its public key; repeat the option for each, in task order.",
)
@click.option(
    "--signing",
    multiple=True,
    metavar="PARTY=KEY",
    help="Let all parties sign receipts; repeat the option with the key of each Collaborator.",
)
@click.option("--bind", help="Let the Host listen at this address, if it differs (behind NAT).")
@click.option(
    "--purpose",
    type=click.Choice(["train", "psi"]),
    default="train",
    show_default=True,
    help="Train a model, or only intersect ids.",
)
@click.option(
    "--table",
    is_flag=True,
    help="Agree on what `heterofed table train` uses: shuffle=true and psi_protocol=ecdh.",
)
@click.option(
    "--plan",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Agree on this setting, such as max_rounds=5 or psi_protocol=ecdh, which hides pairwise"
    " intersections of three or more parties unless psi_parties=pairwise is given.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help="A limit on what may leave a party, such as max_label_auc=0.65 or min_intersection=1000.",
)
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Let the task run until this day (UTC), and not after it.",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Make a task without keys; --collaborator then takes PARTY alone.",
)
def task_new(
    task_id: str,
    host: str,
    address: str,
    collaborators: tuple[str, ...],
    signing: tuple[str, ...],
    bind: str | None,
    purpose: str,
    table: bool,
    plan: tuple[str, ...],
    limits: tuple[str, ...],
    expires: datetime | None,
    insecure: bool,
) -> None:
    """Write the file of a new task at the Host, to be sent to the Collaborators."""
    from heterofed.cli.task import OF_TABLES, new_task

    path = new_task(
        task_id,
        host=host,
        address=address,
        collaborators=collaborators,
        bind=bind,
        purpose="psi" if purpose == "psi" else "train",
        expires=expires.date() if expires else None,
        plan=(*(OF_TABLES if table else ()), *plan),
        limits=limits,
        keyless=insecure,
        signing=signing,
    )
    click.echo(path)


@task.command("show")
@click.argument("source", metavar=NAME_OF_TASK)
def task_show(source: str) -> None:
    """Print the terms of a task, field by field."""
    from heterofed.cli.task import find_task
    from heterofed.identity.task_terms import shown_terms

    found = find_task(source)
    _print_fields(
        shown_terms(found.terms())
        | {"address": found.address}
        | ({"bind": found.bind} if found.bind else {})
        | {"revoked keys": str(len(found.revoked))}
    )


@task.command("check")
@click.argument("source", metavar=NAME_OF_TASK)
@click.option("--party", help="Act as this party; the default is the one whose key is here.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    help="Wait this many seconds: a Host waits for the checks of all others (by default 0), a"
    " Collaborator for the Host's answer (by default 10).",
)
def task_check(source: str, party: str | None, wait: float | None) -> None:
    """Check the keys, the address, and that all parties have the same terms; no data is read."""
    from heterofed.cli.own_party import own_party
    from heterofed.cli.task import check_task_file, find_task

    found = find_task(source)
    is_host = (party or own_party(found)) == found.host.party
    for line in check_task_file(source, party, wait if wait is not None else 0 if is_host else 10):
        click.echo(translated(line))


@task.command("list")
def task_list() -> None:
    """Print the tasks whose files are on this machine: id, purpose, Host, address."""
    from heterofed.files import heterofed_home
    from heterofed.identity.task_file import known_tasks, load_task, task_path

    home = heterofed_home()
    for name in known_tasks(home):
        try:
            found = load_task(task_path(name, home))
            click.echo(f"{name}\t{found.purpose}\t{found.host.party}\t{found.address}")
        except ConfigError as error:
            click.echo(translated(f"{name}\tcannot be used: {error}"))


@task.command("accept")
@click.argument("source", metavar=NAME_OF_TASK)
@click.option("--party", help="Act as this party; the default is the one whose key is here.")
@click.option("--yes", is_flag=True, help="Accept the terms without a question.")
def task_accept(source: str, party: str | None, yes: bool) -> None:
    """Show the terms of a task at a Collaborator, and accept them.

    No id is sent before that. The consent holds for these terms only; it ends if the file changes.
    """
    from heterofed.cli.task import accept_task

    def agrees(terms: dict[str, str], who: str) -> bool:
        _print_fields(terms)
        if not yes and not (sys.stdin and sys.stdin.isatty()):
            raise ConfigError("there is no terminal to ask in; read the terms, then pass --yes")
        return yes or click.confirm(translated(f"Does {who} accept these terms?"))

    found, who = accept_task(source, party, agrees)
    click.echo(translated(f"{who} has accepted task {found.task}"))


def _print_fields(fields: dict[str, str]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {value}")
