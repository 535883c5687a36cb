"""The commands of the two-organisations page, as they stand, between two loopback addresses."""

from __future__ import annotations

import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heterofed.identity.keys import fingerprint
from tests.docs.samples import README, blocks, written
from tests.e2e.processes import ROOT, Parties, PartyProcess
from tests.identity.offices import free_port

PAGE = ROOT / "docs/how-to/two-organisations.md"
IN_FOLDER = "import os, runpy, sys; os.chdir(sys.argv.pop(1)); sys.argv.pop(0); "


def commands(number: int) -> list[list[str]]:
    """The commands of one side."""
    lines = blocks(PAGE, "console")[number].splitlines()
    assert all(line.startswith("$ ") for line in lines)
    return [shlex.split(line[2:]) for line in lines]


class Organisation:
    """A folder of its own, a HETEROFED_HOME of its own, and the means to run commands there."""

    def __init__(self, parties: Parties, folder: Path) -> None:
        self.folder = folder
        self.home = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
        self._parties = parties

    def start(self, command: list[str]) -> PartyProcess:
        program, *arguments = command
        if program == "heterofed":
            run = "sys.argv.insert(0, 'heterofed'); from heterofed.cli.app import main; main()"
        else:
            assert program == "python"
            run = "runpy.run_path(sys.argv[0], run_name='__main__')"
        return self._parties.start(
            *("-c", IN_FOLDER + run, str(self.folder), *arguments),
            HETEROFED_HOME=str(self.home),
            PYTHONPATH=str(ROOT),
        )

    def run(self, command: list[str]) -> str:
        done = self.start(command)
        assert done.wait() == 0, done.output
        return done.output


@pytest.fixture
def organisations(parties: Parties, tmp_path: Path) -> Iterator[tuple[Organisation, Organisation]]:
    both = []
    for name, script in (("bank", "host.py"), ("shop", "collaborator.py")):
        folder = tmp_path / name
        folder.mkdir()
        for path in written(README, folder):
            if path.name != script:
                path.unlink()
        both.append(Organisation(parties, folder))
    yield both[0], both[1]
    for each in both:
        shutil.rmtree(each.home)


def test_at_most_five_commands_a_side() -> None:
    assert [len(commands(number)) <= 5 for number in (0, 1)] == [True, True]
    assert [commands(number)[-1][0] for number in (0, 1)] == ["python", "python"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is there on Linux only")
def test_the_page_runs_as_it_stands(organisations: tuple[Organisation, Organisation]) -> None:
    bank, shop = organisations
    (bank_key, new, bank_check, host), (shop_key, accept, shop_check, collaborator) = (
        commands(0),
        commands(1),
    )
    bank.run(bank_key)
    public, words = shop.run(shop_key).splitlines()
    assert words == fingerprint(public)

    address = f"tcp://127.0.0.2:{free_port('127.0.0.2')}"
    new = [each.replace("PUBLIC-KEY-OF-THE-SHOP", public) for each in new]
    new = [address if each == "tcp://bank.example:7300" else each for each in new]
    sent = Path(bank.run(new).strip())
    shutil.copy(sent, shop.folder / "first_task.toml")
    assert "host.py" not in {each.name for each in shop.folder.iterdir()}

    shown = shop.run([*accept, "--yes"])  # nobody is there to be asked
    assert "max_rounds" in shown
    checks = [bank.start(bank_check), shop.start(shop_check)]
    for each in checks:
        assert each.wait() == 0, each.output
    assert "shop is connected, and has the same terms" in checks[0].output
    assert f"the Host answers at {address}" in checks[1].output

    runs = [shop.start(collaborator), bank.start(host)]
    for each in runs:
        assert each.wait() == 0, each.output
    assert (bank.folder / "heterofed_runs/first_task/bank/infer_model.pt").exists()
    assert (shop.folder / "heterofed_runs/first_task/shop/outbound.csv").exists()
    private = [bank.home / "keys/bank.key", shop.home / "keys/shop.key"]
    assert [stat.S_IMODE(each.stat().st_mode) for each in private] == [0o600] * 2
    assert not (bank.home / "keys/shop.key").exists()
    assert (shop.home / "audit.log").read_text().count('"accepted"') == 1
