"""Makes the gallery of examples: what each README says, and what a recorded run printed.

`python -m docs.record` records: it runs the commands, and keeps the lines and pictures named here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from docs.generator.markdown import ROOT

RECORDS = ROOT / "docs" / "gallery"
REPOSITORY = "https://github.com/heterofed/heterofed/tree/main/examples"


@dataclass(frozen=True)
class Example:
    """A folder of `examples/`.

    Attributes:
        command: what runs it, in the root of a clone.
        kept: the printed lines that are shown, without times.
        picture: what the picture shows that the run leaves in its results, if it is in the gallery.
    """

    command: str
    kept: str
    picture: str = ""


EXAMPLES = {
    "mnist_split": Example("heterofed demo", r"^\[ROUND"),
    "tabular": Example(
        "python -m examples.tabular",
        "^(auc_joint|auc_local|auc_pooled|max_abs_diff)",
        "AUC by round: the joint model reaches what one model on all columns reaches, and the"
        " hospital's columns alone do not.",
    ),
    "text_and_table": Example(
        "python -m examples.text_and_table", "^(auc|trained_weights|frozen_weights )"
    ),
    "clients": Example(
        "python -m examples.clients --limit 6000 1000 --rounds 3", r"^ round|^ +\d+ +0\."
    ),
    "dp_clients": Example(
        "python -m examples.dp_clients --limit 6000 1000",
        "^round",
        "Accuracy by round of federated training and of one client alone; on so few images they"
        " differ little.",
    ),
    "virtual": Example("python -m examples.virtual", "^by "),
}


def section(name: str) -> str:
    """One example: its title and first paragraph, its command, and what that printed."""
    readme = (ROOT / "examples" / name / "README.md").read_text(encoding="utf-8")
    title, paragraph = re.match(r"# (.+)\n\n((?:.+\n)+)", readme).groups()  # type: ignore[union-attr]
    example = EXAMPLES[name]
    told = (RECORDS / f"{name}.txt").read_text(encoding="utf-8")
    shown = [
        f"### {title}",
        paragraph.strip(),
        f"```console\n$ {example.command}\n{told.strip()}\n```",
        *([f"![{example.picture}](gallery/{name}.png)"] if example.picture else []),
        f"[`examples/{name}`]({REPOSITORY}/{name})",
    ]
    return "\n\n".join(shown)


def gallery() -> str:
    """All examples."""
    return "\n\n".join(map(section, EXAMPLES))
