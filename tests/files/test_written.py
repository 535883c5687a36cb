"""Everything that a run of any kind writes is this user's alone, and follows no planted link."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import Batch, DataChecker, simulate, simulate_prediction
from heterofed.export import export
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.simulation.baselines import plot
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows, run
from tests.identity.offices import free_port

Watch = Callable[[object], None]


class Host(TinyHost):
    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **{"psi_protocol": "ecdh", "log_rounds": 1, **settings})

    def test(self, *args: Any, **kwargs: Any) -> None:
        super().test(*args, **kwargs)
        self.mark_best()

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Iterator[Any]:
        yield Batch(feature_model(rows(predict_ids, 2, 0)), ids=predict_ids)

    def predict_a_batch(self, feature_projection: Any) -> Any:
        return self.infer_model(torch.cat(list(feature_projection.values()), dim=1)).squeeze(1)


class Collaborator(TinyCollaborator):
    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Iterator[Any]:
        yield Batch(feature_model(rows(predict_ids, 3, 7)), ids=predict_ids)


class Checker(DataChecker):
    def verify_data(self) -> bool:
        return True


def pair(work: Path, watch: Watch) -> tuple[Host, Collaborator]:
    return Host(work, callbacks=[watch]), Collaborator(work, callbacks=[watch])


def in_threads(*calls: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def guarded(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=[each]) for each in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    if failed:
        raise failed[0]


def train(work: Path, watch: Watch) -> None:
    Checker("tiny").execute_verification()
    in_threads(*(lambda each=each: each.launch_task("tiny") for each in pair(work, watch)))


def predict(work: Path, watch: Watch) -> None:
    host, bob = pair(work, watch)
    in_threads(
        lambda: host.predict("tiny", IDS[20:30]),
        lambda: bob.serve_predictions("tiny", max_rows_per_day=100, requests=1),
    )


def rehearse(work: Path, watch: Watch) -> None:
    calls = pair(work, watch)
    in_threads(*(lambda each=each: each.launch_task("tiny", rehearse=True) for each in calls))


def intersect(work: Path, watch: Watch) -> None:
    """RSA, whose signer keeps a key; ids in files of their own, as a set of millions has them."""
    first = RSAPSIInitiatorScheduler("alice", ids=IDS[:9], results_dir=work, callbacks=[watch])
    other = RSAPSICollaboratorScheduler("bob", ids=IDS[5:], results_dir=work, callbacks=[watch])
    for result in run(first, other, task="only-psi"):
        if isinstance(result, BaseException):
            raise result


def simulated(work: Path, watch: Watch) -> None:
    host, bob = pair(work, watch)
    done = simulate(host, [bob], task_id="simulated", baselines=["local", "pooled"])
    assert done.comparison is not None
    plot(done.comparison.tables["quality"], "accuracy", work / "modes.png")
    simulate_prediction(host, [bob], task_id="simulated", ids=IDS[20:25])


def exported(work: Path, watch: Watch) -> None:
    del watch
    export(work / "tiny" / "alice", work / "exported" / "deep")


def commands(work: Path, watch: Watch) -> None:
    from heterofed.cli.psi import run_psi
    from heterofed.cli.task import accept_task, new_task
    from heterofed.files import heterofed_home
    from heterofed.identity.keys import new_key, rotate_key

    del watch
    home = heterofed_home()
    for party in ("carol", "dave"):
        new_key(party, home)
    key = rotate_key("dave", home)
    new_task(
        "filed",
        host="carol",
        address=f"tcp://127.0.0.1:{free_port()}",
        collaborators=[f"dave={key.public}"],
        purpose="psi",
    )
    accept_task("filed", "dave", lambda _terms, _party: True)
    (work / "ids.txt").write_text("".join(f"{each}\n" for each in IDS))
    (work / "ids.txt").chmod(0o600)  # the user's own

    def one(role: Any, party: str) -> None:
        run_psi(
            task="filed",
            role=role,
            party=party,
            parties=1,
            ids=work / "ids.txt",
            id_column=None,
            protocol="rsa",
            max_peer_ids=10_000_000,
            out=work / f"{party}.txt",
            join_timeout=30,
            fresh=False,
        )

    in_threads(lambda: one("initiator", "carol"), lambda: one("collaborator", "dave"))


KINDS = [train, rehearse, predict, intersect, simulated, exported, commands]


@pytest.fixture
def places(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Path]]:
    """Where a run may write: HETEROFED_HOME, HOME, the working folder, that of temporary files."""
    found = {"home": home / "hf"}
    monkeypatch.setenv("HETEROFED_HOME", str(found["home"]))
    for name in ("work", "user", "temporary"):
        found[name] = tmp_path / name
        found[name].mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(found["user"]))
    monkeypatch.setattr("tempfile.tempdir", str(found["temporary"]))
    monkeypatch.chdir(found["work"])
    before = os.umask(0)
    yield found
    os.umask(before)


def everything(places: dict[str, Path]) -> list[Path]:
    """All paths but those that torch and matplotlib make for themselves."""
    found = [path for place in places.values() for path in place.rglob("*")]
    theirs = ("/.cache", "/.config", "/torchinductor_")
    return [path for path in found if not any(each in str(path) for each in theirs)]


@pytest.mark.slow
def test_all_that_is_written_is_private_under_umask_000(places: dict[str, Path]) -> None:
    seen: dict[Path, int] = {}

    def look(_event: object = None) -> None:
        for path in everything(places):
            with contextlib.suppress(FileNotFoundError):
                mode = path.lstat().st_mode
                # A socket is made by libzmq, in a private folder, and closed to others at once.
                seen[path] = mode if stat.S_ISSOCK(mode) else seen.get(path, 0) | mode

    for kind in KINDS:
        kind(places["work"], look)
        look()
    open_to_others = [str(path) for path, mode in seen.items() if stat.S_IMODE(mode) & 0o077]
    assert not open_to_others, "\n".join(open_to_others)
    kinds = {path.suffix for path in seen}
    assert {".csv", ".pt", ".json", ".jsonl", ".key", ".toml", ".log", ".lock", ".sock"} <= kinds
    assert {".psi", ".png", ".safetensors", ".txt"} <= kinds
    assert not [path for path in seen if path.is_relative_to(places["user"])]


@pytest.mark.slow
def test_a_link_planted_in_place_of_any_file_leads_nowhere(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """Once with nobody else, to learn every name; then with a link wherever a file will lie."""
    names: set[Path] = set()

    def learn(_event: object = None) -> None:
        names.update(path for path in everything(places) if path.is_file())

    for kind in KINDS:
        kind(places["work"], learn)
        learn()
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    precious.chmod(0o644)

    def plant(_event: object = None) -> None:
        for path in names:
            with contextlib.suppress(OSError):
                path.symlink_to(precious)

    planted = 0
    for kind in KINDS:
        for path in everything({"home": places["home"]}):
            if (
                path.is_file()
                and path.suffix not in (".toml", ".key")
                and "accepted" not in str(path)
            ):
                path.unlink()
                planted += 1
        plant()
        with contextlib.suppress(Exception):  # some are refused, which is as good
            kind(places["work"], plant)
    assert planted > 5
    assert precious.read_bytes() == b"precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o644
