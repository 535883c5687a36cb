"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from heterofed.messaging.party import Party
from heterofed.protocol.states import Role
from tests.e2e.processes import ROOT, Parties
from tests.e2e.processes import parties as started_parties
from tests.identity.offices import Command

# Read when torch is loaded, here and in every process that a test starts. Two threads of one tiny
# product that share a core wait for each other in a loop: it then takes ten times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example may take as long as it likes: how fast a machine is that others use, no test can say.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Which example fails does not matter where only whether one does is asked (`make mutants`).
settings.register_profile(
    "any failure",
    settings.get_profile("unhurried"),
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    database=None,
)
settings.load_profile("unhurried")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests that need a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_run() -> Iterator[None]:
    """A HETEROFED_HOME of this process, for tests that need none of their own: the user's stays as
    it is, and processes that test at the same time do not meet in it.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as path,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HETEROFED_HOME", path)
        yield


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A HETEROFED_HOME of the test's own; short, since socket paths may not be long."""
    path = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    monkeypatch.setenv("HETEROFED_HOME", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def parties(home: Path, tmp_path: Path) -> Iterator[Parties]:
    """Starts party processes, and ends those that a test leaves running."""
    with started_parties(home, tmp_path) as started:
        yield started


@pytest.fixture
def late_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collaborators that read late while the parties meet, as on a busy machine: what the Host
    sends after its Welcome has come by then, and is read together with it.
    """
    pump = Party.pump

    def late(party: Party, timeout: float) -> None:
        if party.role is Role.COLLABORATOR and party.phase == "join":
            time.sleep(0.4)
        pump(party, timeout)

    monkeypatch.setattr(Party, "pump", late)


@pytest.fixture(scope="session")
def mnist() -> Path:
    """A folder with MNIST in it."""
    from examples.mnist_split.data import ensure_mnist

    root = Path(os.environ.get("HETEROFED_TEST_DATA", ROOT / "data"))
    ensure_mnist(root)
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the `heterofed` command within this process."""
    return Command(monkeypatch, capsys)
