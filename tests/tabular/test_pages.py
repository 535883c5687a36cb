"""The pages on tables: every block runs as it stands and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed.cli.table_check import check
from tests.e2e.processes import ROOT

PAGES = ROOT / "docs/how-to"
BLOCK = re.compile(r"^```(python|text|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["tables.md", "ids.md"])
def test_a_page_runs_and_prints(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    output, seen = "", 0
    commands = []
    for language, content in BLOCK.findall((PAGES / page).read_text(encoding="utf-8")):
        if language == "python":
            assert not output, f"the page does not show {output!r}"
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(content, page, "exec"), names)
            output = printed.getvalue()
        elif language == "text":
            assert output == content
            output, seen = "", seen + 1
        elif "table check" in content:
            commands.append(content)
    assert not output
    assert seen >= 2
    for command in commands:  # once the page has made its files
        line, _, shown = command.partition("\n")
        words = shlex.split(line.removeprefix("$ heterofed table check "))
        done = CliRunner(env={"COLUMNS": "100"}).invoke(check, words, catch_exceptions=False)
        assert [row.rstrip() for row in done.output.splitlines()] == shown.splitlines()
