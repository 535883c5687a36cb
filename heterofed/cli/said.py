"""Shows what a command says beside its log, on stderr: as text, or as one JSON object each."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from heterofed.cli.sentences import translated
from heterofed.errors import ConfigError
from heterofed.reporting.log_lines import chosen_format, named_facts, one_record
from heterofed.reporting.wrapping import error_line, wrapped


def is_json() -> bool:
    """Return whether log lines are JSON; a format that does not exist counts as text."""
    try:
        return chosen_format() == "json"
    except ConfigError:  # the command itself says so
        return False


def say(text: str, message: str = "", **facts: Any) -> None:
    """Show a line.

    Args:
        text: the line for people.
        message: the line for the format `json`, whose records are collected by other programs; by
            default the same.
        facts: what else a record has.
    """
    if not is_json():
        click.echo(wrapped(translated(text), sys.stderr), err=True)
        return
    event = facts.pop("event", "")
    extra = named_facts(event, facts) if event else {}
    click.echo(one_record(message or text, **extra), err=True)


def say_error(kind: str, text: str, explained: str = "") -> None:
    """Show the error with which the command ends.

    Args:
        kind: the name of its class.
        text: its text.
        explained: what the error means in the language of the user, if that is known; it is
            shown if the text itself cannot be translated.
    """
    if is_json():
        message, extra = " ".join(text.split()), named_facts("Failed", {"error": kind})
        click.echo(one_record(message, logging.ERROR, **extra), err=True)
        return
    said = translated(text)
    click.echo(error_line(translated("error"), said, sys.stderr), err=True)
    if explained and said == text:
        click.echo(wrapped(explained, sys.stderr), err=True)
