"""`heterofed serve` refuses what cannot work before anything is opened or met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from heterofed.cli.app import cli
from heterofed.errors import ConfigError
from tests.tabular.people import loans, written


def serve(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli, ["serve", *map(str, arguments)])


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("host", ["--max-rows-per-day", "5"]),
        ("host", ["--max-rows-per-minute", "5"]),
        ("collaborator", ["--port", "0"]),
        ("collaborator", ["--missing-party", "mean"]),
        ("collaborator", ["--deadline", "3"]),
        ("collaborator", ["--tls-cert", __file__]),
        ("collaborator", ["--client-ca", __file__]),
        ("host", ["--deadline", "0"]),
        ("host", ["--port", "70000"]),
        ("host", ["--token-file", "nowhere"]),
    ],
)
def test_options_of_the_other_role_and_wrong_values(role: str, more: list[str]) -> None:
    done = serve("t", "nowhere.csv", "--role", role, *more)
    assert done.exit_code == 2
    assert more[0] in done.output


@pytest.mark.parametrize("role", ["host", "collaborator"])
def test_serving_without_a_training(role: str, tmp_path: Path) -> None:
    (bank,) = written(tmp_path, loans=loans(60)[0])
    done = serve("t", bank, "--role", role, "--results", tmp_path / "runs")
    assert isinstance(done.exception, ConfigError)
    assert "train first" in str(done.exception)
    assert not (tmp_path / "runs").exists()
