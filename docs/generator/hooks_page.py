"""Makes the reference page of the hooks and settings from the schedulers' docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from docs.generator.docstrings import as_markdown, doc, entries, sections
from docs.generator.markdown import WHOLE_FILE, table
from heterofed.hetero_nn import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
from heterofed.runs.settings import Shown


def hooks_page() -> str:
    """`docs/reference/hooks.md`."""
    host, collaborator = HeteroNNHostScheduler, HeteroNNCollaboratorScheduler
    names = list(dict.fromkeys([*_hooks(host), *_hooks(collaborator)]))
    lines = [
        WHOLE_FILE,
        "",
        "# Hooks",
        "",
        "The methods that you write. All of them run on the thread that called `launch_task`."
        " Instantiating a class that lacks a required one fails and names it.",
        "",
        table(
            ["hook", "Host", "Collaborator"],
            (
                [f"[`{name}`](#{name})", _is_needed(host, name), _is_needed(collaborator, name)]
                for name in names
            ),
        ),
        "",
    ]
    for name in names:
        owner = host if hasattr(host, name) else collaborator
        method = getattr(owner, name)
        signature = str(inspect.signature(method)).replace("'", "").replace("(self, ", "(")
        signature = signature.replace("(self)", "()")
        lines += [f"## {name}", "", "```python", f"{name}{signature}", "```", ""]
        lines += [as_markdown(doc(method)), ""]
    lines += [
        "## What hooks may read",
        "",
        "A class may assign any of these names itself; it then reads its own value, and nothing"
        " else changes.",
        "",
        table(
            ["attribute", "who", "what"],
            (
                [f"`self.{name}`", who, " ".join(doc(getattr(host, name)).split())]
                for name, who in _shown(host, collaborator)
            ),
        ),
        "",
        "`self.get_metrics(name)` gives a metrics set that `@register_metrics` declared.",
        "",
        "## Settings of the constructors",
        "",
    ]
    for cls in (host, collaborator):
        about = dict(entries(sections(doc(cls))["Args"]))
        given = list(inspect.signature(cls.__init__).parameters.values())[1:]
        lines += [
            f"### {cls.__name__}",
            "",
            "Those after `is_feature_trainable` are keywords only.",
            "",
            table(
                ["setting", "default", "what"],
                (
                    [
                        f"`{each.name}`",
                        "required" if each.default is each.empty else f"`{each.default!r}`",
                        about[each.name],
                    ]
                    for each in given
                ),
            ),
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _hooks(cls: type) -> Iterator[str]:
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if doc(member).startswith("Hook") and not isinstance(member, Shown | type):
                yield name


def _is_needed(cls: type, name: str) -> str:
    if not hasattr(cls, name):
        return ""
    return "required" if name in getattr(cls, "__abstractmethods__", ()) else "optional"


def _shown(host: type, collaborator: type) -> Iterator[tuple[str, str]]:
    for base in reversed(host.__mro__):
        for name, member in vars(base).items():
            if isinstance(member, Shown):
                yield name, "both" if hasattr(collaborator, name) else "Host"
