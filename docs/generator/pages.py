"""Fills the generated parts into the pages of the documentation, and finds stale ones.

A generated piece stands between `<!-- generated: NAME -->` and `<!-- /generated -->` in any page;
pages that are generated as a whole say so in their first line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from docs.generator import (
    cli_page,
    diagrams,
    errors_page,
    extras,
    gallery,
    hooks_page,
    limits,
    messages,
    modules,
    psi_scale,
    report_fields,
    scoreboard,
)
from docs.generator.markdown import ROOT
from docs.generator.readme import readme_section
from docs.generator.readme_zh import chinese_home
from docs.generator.translations import Translation, translations
from heterofed.protocol import messages as wire
from heterofed.protocol.leak_limits import LeakLimits
from heterofed.protocol.plan import Averaging, Plan, RoleSites

PIECE = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

PIECES: dict[str, Callable[[], str]] = {
    "states": diagrams.state_diagram,
    "commit": diagrams.commit_diagram,
    "messages": messages.message_table,
    "plan": lambda: messages.struct_table(Plan),
    "mark": lambda: messages.struct_table(wire.Mark),
    "leak-limits": lambda: messages.struct_table(LeakLimits),
    "role-sites": lambda: messages.struct_table(RoleSites),
    "held": lambda: messages.struct_table(wire.Held),
    "signed": lambda: messages.struct_table(wire.Signed),
    "averaging": lambda: messages.struct_table(Averaging),
    "weight-spec": lambda: messages.struct_table(wire.WeightSpec),
    "work": lambda: messages.struct_table(wire.Work),
    "facts": lambda: messages.struct_table(wire.Facts),
    "link-facts": lambda: messages.struct_table(wire.LinkFacts),
    "tensor-spec": lambda: messages.struct_table(wire.TensorSpec),
    "dtypes": messages.dtype_table,
    "limits": limits.protocol_limits,
    "phase-limits": limits.phase_limits,
    "wire-format": messages.wire_format,
    "psi-parameters": limits.psi_parameters,
    "psi-scale-runs": psi_scale.runs,
    "psi-scale-forecast": psi_scale.forecasts,
    "extras": extras.extras_table,
    "packages": modules.package_table,
    "modules-heterofed": lambda: modules.module_table("heterofed"),
    "modules-psi": lambda: modules.module_table("psi"),
    "readme-not-yet": lambda: readme_section("What is not there yet", "index.md"),
    "readme-task": lambda: readme_section("A task of your own", "how-to/index.md"),
    "readme-learns": lambda: readme_section("Who learns what", "explanation/threat-model.md"),
    "readme-unprotected": lambda: readme_section(
        "What is not protected yet", "explanation/threat-model.md"
    ),
    "gallery": gallery.gallery,
    "scoreboard-versions": scoreboard.versions_table,
    "scoreboard-speed": scoreboard.speed,
    "scoreboard-faults": scoreboard.faults_table,
    **report_fields.pieces(),
}

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/errors.md": errors_page.errors_page,
    "docs/reference/hooks.md": hooks_page.hooks_page,
    "docs/reference/cli.md": cli_page.cli_page,
    "docs/zh/index.md": chinese_home,
}


def filled(text: str) -> str:
    """A page with every generated piece made anew."""

    def renew(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}\n{PIECES[name]()}\n\n{end}"

    return PIECE.sub(renew, text)


def pages() -> dict[Path, str]:
    """Every page that has something generated in it, as it should be."""
    wanted = {ROOT / name: make() for name, make in PAGES.items()}
    by_hand = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for path in by_hand:
        if path not in wanted and path.is_file():
            wanted[path] = filled(path.read_text(encoding="utf-8"))
    return wanted


def stale() -> dict[Path, str]:
    """The pages that are not as they should be."""
    return {
        path: text
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def folder() -> Path:
    """The folder of the site's pages."""
    return ROOT / "docs"


def translated() -> list[Translation]:
    """The pages that translate others."""
    return list(translations(ROOT))


def name_of(path: Path) -> str:
    """The name of a page within the repository."""
    return path.relative_to(ROOT).as_posix()
