"""Makes the reference page of the errors from the docstrings of their classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import heterofed.errors
import psi.errors
from docs.generator.docstrings import doc, indented_blocks, sections
from docs.generator.markdown import WHOLE_FILE


def errors_page() -> str:
    """`docs/reference/errors.md`."""
    lines = [
        WHOLE_FILE,
        "",
        "# Errors",
        "",
        "Every error says which party, which phase and what to do. `except HeteroFedError` catches"
        " all of heterofed; what your own hook raises comes out unchanged, with a note.",
        "",
        "The *code* is what another party learns when the error ends the task. That party raises"
        " the class of the code, as a subclass of `TaskAborted` too.",
        "",
        "## The tree of `heterofed.errors`",
        "",
        "```text",
        indented_blocks(doc(heterofed.errors))[0],
        "```",
        "",
        *_error_entries(heterofed.errors, heterofed.errors.HeteroFedError),
        "## The tree of `psi.errors`",
        "",
        "Inside a task they come out as `PSIFailedError`; they show only where `psi` is used as a"
        " library.",
        "",
        "```text",
        re.sub(r"\A.*?\n\n", "", doc(psi.errors), count=1, flags=re.DOTALL),
        "```",
        "",
        *_error_entries(psi.errors, psi.errors.PSIError),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _error_entries(module: object, base: type[Exception]) -> Iterator[str]:
    for cls in vars(module).values():
        if not (inspect.isclass(cls) and issubclass(cls, base)):
            continue
        text = sections(doc(cls))[""]
        when, _, remedy = text.partition("What to do: ")
        yield f"### {cls.__name__}"
        yield ""
        parent = cls.__bases__[0].__name__
        code = vars(cls).get("code")
        yield f"Kind of: `{parent}`." + (f" Code: `{code}`." if code else "")
        yield ""
        yield f"When: {' '.join(when.split())}"
        yield ""
        if remedy:
            yield f"What to do: {' '.join(remedy.split())}"
            yield ""
        elif parent not in ("Exception", "PSIError"):
            yield f"What to do: see `{parent}`."
            yield ""
