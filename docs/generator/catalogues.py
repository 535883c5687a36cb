"""Keeps the translations of the command, its help, and what errors mean, in step with the sources.

`heterofed.po` is what a translator edits. An entry whose source has changed is kept and marked as
fuzzy, and is left out of `heterofed.mo`, which gettext reads, until somebody has looked at it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

import heterofed.errors
from docs.generator import sentences
from heterofed.cli.app import cli
from heterofed.cli.language import CLICK, CLICK_SUGGESTS, DOMAIN, help_text, meaning, parts
from heterofed.cli.sentences import TEMPLATES

FOLDER = "heterofed/cli/locale"
PACKAGE = Path(heterofed.errors.__file__).parent


def error_classes() -> Iterator[type[heterofed.errors.HeteroFedError]]:
    """Every class of `heterofed.errors`."""
    for each in vars(heterofed.errors).values():
        if inspect.isclass(each) and issubclass(each, heterofed.errors.HeteroFedError):
            yield each


def extracted() -> Catalog:
    """What there is to translate."""
    template = Catalog()
    for each in error_classes():
        template.add(meaning(each), auto_comments=[each.__name__])
    for text in filter(None, map(help_text, parts(cli))):
        template.add(text)
    template.add(CLICK_SUGGESTS)
    for text in (*CLICK, *sentences.templates(PACKAGE)):
        template.add(text)
    return template


def untranslated(catalogue: Catalog) -> list[str]:
    """What there is to translate and has no translation, or an outdated one."""
    ready = {each.id for each in catalogue if each.string and not each.fuzzy}
    return [str(each.id) for each in extracted() if each.id and each.id not in ready]


def updated(path: Path) -> Catalog:
    """A translator's catalogue, with what there is to translate by now."""
    with path.open("rb") as file:
        catalogue = read_po(file)
    catalogue.update(extracted(), update_creation_date=False)
    return catalogue


def stale(root: Path) -> dict[Path, bytes]:
    """The files of catalogues that are not as they should be."""
    wanted: dict[Path, bytes] = {}
    for path in sorted((root / FOLDER).glob(f"*/LC_MESSAGES/{DOMAIN}.po")):
        catalogue, text, compiled = updated(path), BytesIO(), BytesIO()
        write_po(text, catalogue, width=100, ignore_obsolete=True)
        write_mo(compiled, catalogue)
        wanted |= {path: text.getvalue(), path.with_suffix(".mo"): compiled.getvalue()}
    if wanted:
        listed = "".join(f"{each}\n" for each in sentences.templates(PACKAGE))
        wanted[root / FOLDER / TEMPLATES.name] = listed.encode()
    return {
        path: data
        for path, data in wanted.items()
        if not path.is_file() or path.read_bytes() != data
    }
