"""`heterofed new`: writes a small project of several parties that runs, as a way to own code.

The templates are data files beside this module; it knows nothing of what they do.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import click

from heterofed.errors import ConfigError
from heterofed.files import make_folder, writing
from heterofed.reporting.results import check_name, check_writable, write_whole

TEMPLATES = ("tabular", "images", "text", "label-only")
SUFFIX = ".tpl"
NAME = "@@NAME@@"
"""The text in a template that stands for the name of the project, which is its task id."""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default="tabular",
    show_default=True,
    help="Write a project about this kind of data.",
)
def new(folder: Path, template: str) -> None:
    """Write a small project into FOLDER, which must be new or empty; `make run` runs it."""
    for path in new_project(folder, template):
        click.echo(path)


def new_project(folder: Path, template: str) -> list[Path]:
    """Write a project, and return its files.

    Args:
        folder: the folder for the files; its name is the task id.
        template: one of `TEMPLATES`.

    Raises:
        ConfigError: the folder is not empty, cannot be written, or has a name that no task can
        have.
    """
    folder = folder.absolute()
    check_name(folder.name, "the folder, whose name is the task id,")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give a new folder")
    check_writable(folder)
    with writing(folder):
        make_folder(folder)
    written = []
    for source in sorted(files("heterofed.cli").joinpath("templates", template).iterdir(), key=str):
        raw = source.read_text(encoding="utf-8").replace(NAME, folder.name).encode()
        path = folder / source.name.removesuffix(SUFFIX)
        written.append(_write(path, raw))
    return written


def _write(path: Path, raw: bytes) -> Path:
    return write_whole(path, lambda file: file.write(raw), anywhere=True)
