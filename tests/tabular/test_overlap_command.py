"""`heterofed table overlap` at two parties, its other name, and the page that explains it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed.cli.app import cli
from heterofed.cli.table_overlap import count_overlap
from heterofed.errors import ConfigError, HeteroFedError, TaskAborted
from heterofed.hetero_nn.psi import RSAPSIInitiatorScheduler
from tests.docs.samples import blocks, printed
from tests.e2e.processes import ROOT

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    bank, shop = tmp_path / "bank.csv", tmp_path / "shop.csv"
    bank.write_text("customer,x\n" + "".join(f"{row:05},1\n" for row in range(50)) + "00007,2\n")
    shop.write_text("client;z\n" + "".join(f"{row};1\n" for row in range(30, 400)))
    return bank, shop


def counted(role: str, path: Path, column: str, recipe: str | None) -> dict[str, Any]:
    return count_overlap(
        location=str(path),
        task="try",
        ids=(column,),
        id_recipe=recipe,
        role=role,
        party=None,
        parties=1,
        max_peer_ids=1000,
        results=path.parent / "runs",
        join_timeout=30,
    )


def outcomes(tables: tuple[Path, Path], *recipes: str | None) -> list[Any]:
    """What the Host and the other party got, or what was raised there."""
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(counted, "host", tables[0], "customer", recipes[0])
        other = pool.submit(counted, "collaborator", tables[1], "client", recipes[1])
        return [each.exception() or each.result() for each in (host, other)]


@pytest.mark.slow
def test_two_tables_are_counted(tables: tuple[Path, Path]) -> None:
    # A party without a recipe writes ids as the Host announces.
    for at_host, at_shop, common in (("integer", "integer", 20), (None, None, 0)):
        host, other = outcomes(tables, at_host, at_shop)
        assert host["common"] == {"collaborator": common}
        assert other["common"] == {"host": common}
        assert any("under 1 %" in each for each in host["advice"]) == (common == 0)


def test_a_party_with_clean_ids_hears_that_ids_are_lost(tables: tuple[Path, Path]) -> None:
    tables[0].write_text("customer\n" + "".join(f"p{row:02}\n" for row in range(60)))
    dirty = (f"{'x-' if row % 3 == 0 else ''}p{row:02}\n" for row in range(90))
    tables[1].write_text("client\n" + "".join(dirty))
    for found, rows in zip(outcomes(tables, None, None), (60, 90), strict=True):
        (advice,) = found["advice"]
        assert advice.startswith(f"40 of {rows} rows here are matched: 40 of 60 ids")
        assert "let the other parties run `heterofed table check`" in advice


def test_ids_are_written_as_the_host_announces(tables: tuple[Path, Path]) -> None:
    host, other = outcomes(tables, "integer", None)
    assert host["common"] == {"collaborator": 20}
    assert other["ids"] == 370


def test_another_recipe_is_refused_before_anything_is_counted(tables: tuple[Path, Path]) -> None:
    host, other = outcomes(tables, "integer", "text")
    assert isinstance(other, ConfigError)
    assert "writes ids by the recipe 'integer'" in str(other)
    assert "agree on one" in str(other)
    assert isinstance(host, TaskAborted)


def test_a_host_that_announces_no_recipe_is_refused(tables: tuple[Path, Path]) -> None:
    def plain() -> object:
        ids = map(str, range(50))
        party = RSAPSIInitiatorScheduler("host", ids=ids, results_dir=tables[0].parent)
        return party.count_common("try")

    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(plain)
        other = pool.submit(counted, "collaborator", tables[1], "client", None)
        assert "does not say how ids are written" in str(other.exception())
        assert isinstance(host.exception(), HeteroFedError)


def test_doubts_are_said_before_anybody_is_met(
    tables: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="heterofed")
    outcomes(tables, "text", "text")
    said = [each.getMessage() for each in caplog.records]
    doubt = next(at for at, each in enumerate(said) if "zeros in front" in each)
    met = [at for at, each in enumerate(said) if "meeting" in each]
    assert doubt < met[-1]  # the other party may have been first
    assert "00007" not in " ".join(said)


def test_a_count_is_by_one_key(tables: tuple[Path, Path]) -> None:
    command = ["table", "overlap", str(tables[0]), "--task", "t", "--id", "customer", "--id", "x"]
    done = CliRunner().invoke(cli, [*command, "--id-recipe", "text;integer"])
    assert isinstance(done.exception, ConfigError)
    assert "count by each key by itself" in str(done.exception)


def test_the_train_command_counts_too(tables: tuple[Path, Path]) -> None:
    line = ["--task", "try", "--id-recipe", "integer", "--overlap-only", "--json"]
    line += ["--results", str(tables[0].parent / "runs"), "--join-timeout", "30"]
    ends = (["--id", "customer", "--rounds", "3"], ["--id", "client", "--role", "collaborator"])
    runner = CliRunner()

    def invoked(at: int) -> Any:
        command = ["table", "train", str(tables[at]), *line, *ends[at]]
        context = cli.make_context("heterofed", command)
        with context:
            return cli.invoke(context)

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(invoked, at) for at in (0, 1)]:
            assert each.exception() is None
    done = runner.invoke(cli, ["table", "train", "x.csv", "--task", "t", "--id", "a"])
    assert "--label" in done.output  # which a count does without
    assert not list(tables[0].parent.glob("runs/**/*.pt"))


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
