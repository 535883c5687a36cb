"""`heterofed table overlap` at two parties, and the page that explains it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from heterofed.cli.app import cli
from heterofed.cli.table_overlap import count_overlap
from tests.docs.samples import blocks, printed
from tests.e2e.processes import ROOT

pytestmark = pytest.mark.usefixtures("home")


def test_two_tables_are_counted(tmp_path: Path) -> None:
    bank, shop = tmp_path / "bank.csv", tmp_path / "shop.csv"
    bank.write_text("customer,x\n" + "".join(f"{row:05},1\n" for row in range(50)) + "00007,2\n")
    shop.write_text("client;z\n" + "".join(f"{row};1\n" for row in range(30, 400)))

    def counted(role: str, path: Path, column: str, recipe: str | None) -> dict[str, object]:
        return count_overlap(
            location=str(path),
            task="try",
            ids=(column,),
            id_recipe=recipe,
            role=role,
            party=None,
            parties=1,
            max_peer_ids=1000,
            results=tmp_path / "runs",
            join_timeout=30,
        )

    for recipe, common in (("integer", 20), (None, 0)):
        with ThreadPoolExecutor(2) as pool:
            host = pool.submit(counted, "host", bank, "customer", recipe)
            other = pool.submit(counted, "collaborator", shop, "client", recipe)
        assert host.result()["common"] == {"collaborator": common}
        assert other.result()["common"] == {"host": common}
        said = " ".join(map(str, host.result()["notes"]))  # type: ignore[call-overload]
        assert ("under 1 %" in said) == (common == 0)


def test_the_commands_belong_to_the_group(tmp_path: Path) -> None:
    path = tmp_path / "bank.csv"
    path.write_text("customer,x\n" + "".join(f"{row},{row % 7}\n" for row in range(50)))
    runner = CliRunner()
    shown = runner.invoke(cli, ["table", "check", str(path), "--id", "customer", "--json"])
    assert json.loads(shown.stdout)["rows"] == 50
    assert "nothing else" in runner.invoke(cli, ["table", "overlap", "--help"]).output


def test_the_page_on_counting(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs/explanation/overlap.md"
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})
    assert capsys.readouterr().out == printed(page)[0]
