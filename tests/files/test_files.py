"""What is created is this user's alone, whatever the umask and whatever others have planted."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from heterofed import files
from heterofed.compute.alignment import keyed_digest
from heterofed.data.signature import SIGNATURE, read_signature
from heterofed.errors import (
    CheckpointError,
    ConfigError,
    LedgerError,
    LimitReachedError,
    ResultsError,
)
from heterofed.files import folders, heterofed_home, private_folder, put_in_place
from heterofed.hetero_nn.predict.quota import Quota
from heterofed.identity import consent, keys
from heterofed.metrics import Metrics
from heterofed.privacy.coins import with_kept_coins
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.ledger import ReleaseLedger
from heterofed.privacy.ledger import _digest as ledger_of
from heterofed.reporting.results import SUMMARY, ended_run, fresh_folder, write_whole
from heterofed.runs.artifacts import trained_here
from heterofed.runs.checkpoint_store import CheckpointStore
from psi.storage import files as psi_files
from psi.storage.budget import Budget
from psi.storage.journal import Journal

ROOT = Path(__file__).resolve().parents[2]
STRANGER = 12345678


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(params=[0o000, 0o002, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_home_comes_from_the_environment_and_is_not_created(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(home / "other"))
    assert heterofed_home() == home / "other"
    assert not (home / "other").exists()
    monkeypatch.setenv("HETEROFED_HOME", "")
    assert heterofed_home().name == "heterofed"


@pytest.mark.parametrize("given", [None, "~/own", "~nobody-of-this-name/own"])
def test_without_a_home_the_variable_is_named(given: str | None) -> None:
    code = (
        "import os, pwd\n"
        "def unknown(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        "from heterofed.files import heterofed_home\n"
        "from heterofed.errors import ConfigError\n"
        "try: heterofed_home()\n"
        "except ConfigError as error: print(error)\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    env.pop("HOME", None)
    env.pop("HETEROFED_HOME", None)
    env |= {"HETEROFED_HOME": given} if given else {}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert "no home folder: set HETEROFED_HOME" in done.stdout


@pytest.mark.usefixtures("umask")
def test_modes_do_not_follow_the_umask(home: Path) -> None:
    base = home / "above" / "home"
    private_folder(base, "tasks", "accepted")
    put_in_place(base / "whole", lambda file: file.write(b"1"))
    put_in_place(base / "new", lambda file: file.write(b"1"), new=True)
    files.append(base / "log", b"a line\n")
    with files.new_file(base / "output") as file:
        file.write(b"2")
    with files.file_lock(base / "run.lock"):
        pass
    with files.temporary_folder() as folder:
        assert mode(folder) & 0o077 == 0
    Budget(base / "budgets", peer="a", task="t").spend(3, 10)
    journal = Journal(base / "psi", "key", peer="a", task="t")
    assert list(journal.open([b"bound"])) == []
    journal.close()
    assert mode(home / "above") == mode(base) == 0o700
    found = list(base.rglob("*"))
    assert len(found) == 12
    for path in found:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.usefixtures("umask")
def test_what_was_open_to_others_is_closed(home: Path) -> None:
    base = home / "home"
    (base / "run").mkdir(parents=True)
    (base / "run").chmod(0o755)
    base.chmod(0o777)
    (base / "log").touch()
    (base / "log").chmod(0o666)
    private_folder(base, "run")
    files.append(base / "log", b"1")
    assert (mode(base), mode(base / "run"), mode(base / "log")) == (0o700, 0o700, 0o600)


def test_a_folder_that_stays_open_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "run").mkdir(mode=0o755)
    monkeypatch.setattr(os, "fchmod", lambda handle, mode: None)
    with pytest.raises(ConfigError, match="open to other users"):
        private_folder(home, "run")


@pytest.mark.parametrize("place", ["run", "tasks/accepted"])
def test_a_link_or_a_file_instead_of_a_folder_is_refused(home: Path, place: str) -> None:
    (home / "real").mkdir()
    path = home / place
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(home / "real")
    with pytest.raises(ConfigError, match=r"not a link.*HETEROFED_HOME"):
        private_folder(home, *place.split("/"))
    path.unlink()
    path.symlink_to(home / "nowhere")
    with pytest.raises(ConfigError, match="not a link"):
        private_folder(home, *place.split("/"), make=False)
    path.unlink()
    path.touch()
    with pytest.raises(ConfigError, match="HETEROFED_HOME"):
        private_folder(home, *place.split("/"))


def test_a_home_that_is_a_link_is_refused(home: Path) -> None:
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    with pytest.raises(ConfigError, match="HETEROFED_HOME"):
        private_folder(home / "link", "run")
    assert not list((home / "real").iterdir())


def test_a_folder_of_somebody_else_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(ConfigError, match=r"another user.*HETEROFED_HOME"):
        private_folder(home, "run")
    with pytest.raises(ConfigError, match=r"another user.*results_dir"):
        write_whole(home / "file", lambda file: file.write(b"1"))
    with pytest.raises(PermissionError):
        psi_files.private_folder(home)


@pytest.mark.parametrize("through_link", [False, True])
def test_a_folder_above_that_others_may_change_is_refused(home: Path, through_link: bool) -> None:
    """Whoever may write there can exchange the folder between a check and its use."""
    home.chmod(0o755)
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    (home / "link").symlink_to(home / "open")
    base = home / ("link" if through_link else "open") / "home"
    with pytest.raises(ConfigError, match=r"replace.*HETEROFED_HOME"):
        private_folder(base, "run")
    (home / "open").chmod(0o1777)  # as /tmp: nobody can rename what is ours
    private_folder(base, "run")
    (home / "open").chmod(0o777)
    home.chmod(0o700)  # nobody gets there
    private_folder(base, "run")


def test_a_folder_for_all_users_is_no_home(home: Path) -> None:
    home.chmod(0o1777)
    with pytest.raises(ConfigError, match="HETEROFED_HOME"):
        private_folder(home, "run")
    assert mode(home) == 0o1777


def test_a_group_of_this_user_alone_is_nobody_else(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.chmod(0o775)
    monkeypatch.setattr(folders, "_is_of_one", lambda group: False)
    with pytest.raises(ConfigError, match="replace"):
        private_folder(home / "home")
    monkeypatch.setattr(folders, "_is_of_one", lambda group: group == home.stat().st_gid)
    private_folder(home / "home")


def test_an_unwritable_home_names_the_variable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int = 0o777) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"Permission denied.*HETEROFED_HOME"):
        private_folder(home / "home", "run")


WRITERS: dict[str, Callable[[Path], object]] = {
    "put_in_place": lambda path: put_in_place(path, lambda file: file.write(b"new")),
    "anywhere": lambda path: put_in_place(path, lambda file: file.write(b"new"), anywhere=True),
    "new": lambda path: put_in_place(path, lambda file: file.write(b"new"), new=True),
    "append": lambda path: files.append(path, b"new"),
    "truncate": lambda path: files.truncate(path, 0),
    "new_file": lambda path: files.new_file(path).__enter__(),
    "lock": lambda path: files.file_lock(path).acquire(),
    "psi lock": lambda path: psi_files.file_lock(path, 0).acquire(),
    "psi open": psi_files.open_private,
    "psi put": lambda path: psi_files.put_in_place(path, b"new"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_planted_link_is_not_followed(home: Path, writer: str) -> None:
    precious, planted = home / "precious", home / "planted"
    precious.write_bytes(b"precious")
    planted.symlink_to(precious)
    try:
        WRITERS[writer](planted)
    except OSError:
        assert planted.is_symlink()
    else:
        assert not planted.is_symlink()
    assert precious.read_bytes() == b"precious"
    assert mode(precious) & 0o777 != 0
    assert not list(home.glob(".*"))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_planted_link_to_nothing_makes_nothing(home: Path, writer: str) -> None:
    planted = home / "planted"
    planted.symlink_to(home / "nowhere")
    with contextlib.suppress(OSError):
        WRITERS[writer](planted)
    assert not (home / "nowhere").exists()


@pytest.mark.parametrize("writer", WRITERS)
def test_a_planted_pipe_stops_nobody(home: Path, writer: str) -> None:
    os.mkfifo(home / "planted")
    with contextlib.suppress(OSError):
        WRITERS[writer](home / "planted")


READERS: dict[str, Callable[[Path], tuple[Path, Callable[[], object]]]] = {
    "file": lambda home: (home / "a", lambda: files.read(home / "a")),
    "psi file": lambda home: (home / "a", lambda: psi_files.read(home / "a")),
    "key": lambda home: (keys.key_path("a", home), lambda: keys.load_key("a", home)),
    "budget": lambda home: (
        Budget(home / "b", peer="p", task="t")._path,
        lambda: Budget(home / "b", peer="p", task="t").spend(1, 9),
    ),
    "ledger": lambda home: (
        home / "releases" / f"{ledger_of('t', 'a').hex()[:32]}.sqlite",
        lambda: ReleaseLedger(private_folder(home, "releases"), "t", "a"),
    ),
    "rows a day": lambda home: (
        Quota("t", "a", 9, home)._place,
        lambda: Quota("t", "a", 9, home).take(1),
    ),
    "coins": lambda home: (
        home / "coins" / f"{keyed_digest(b'', 'label coins', ['t', 'a']).hex()[:32]}.json",
        lambda: with_kept_coins(RandomisedResponse(1.0), home, "t", "a", bytes(32)),
    ),
    "consent": lambda home: (
        home / "tasks" / "accepted" / "t@a.json",
        lambda: 1 / consent.has_accepted(home, "t", "a", "0"),
    ),
    "record": lambda home: (home / "run", lambda: CheckpointStore(home).record()),
    "ended run": lambda home: (home / SUMMARY, lambda: 1 / bool(ended_run(home))),
    "columns": lambda home: (home / SIGNATURE, lambda: read_signature(home)),
}
"""What decides by what it reads of itself: where that lies, and how it is read."""


@pytest.mark.parametrize("planted", ["link", "pipe", "theirs", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_others_have_planted_is_not_read(
    reader: str, planted: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = READERS[reader](home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if planted == "link":
        (home / "theirs").write_text('{"terms": "0", "day": "", "rows": 0}')
        path.symlink_to(home / "theirs")
    elif planted == "pipe":
        os.mkfifo(path, 0o600)
    elif planted == "folder":
        path.mkdir()
    else:
        path.write_text('{"terms": "0", "day": "", "rows": 0}')
        path.chmod(0o600)
        real = os.fstat

        def fstat(handle: int) -> Any:
            found = real(handle)
            if not stat.S_ISREG(found.st_mode):
                return found
            return SimpleNamespace(st_mode=found.st_mode, st_uid=STRANGER, st_size=found.st_size)

        monkeypatch.setattr(os, "fstat", fstat)
        if reader in ("budget", "coins", "rows a day"):  # their lock is another user's, too
            monkeypatch.setattr("filelock.FileLock.acquire", lambda self: contextlib.nullcontext())
            monkeypatch.setattr("filelock.FileLock.release", lambda self: None)
    with pytest.raises((ConfigError, LedgerError, LimitReachedError, CheckpointError, OSError,
                        ZeroDivisionError)):  # fmt: skip
        read()


def test_models_of_a_folder_that_was_exchanged_are_not_served(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = SimpleNamespace(result=SimpleNamespace(folder=home / "bob" / "predictions"))
    (home / "theirs").mkdir()
    (home / "bob").symlink_to(home / "theirs")
    with pytest.raises(ConfigError, match=r"not a link.*results_dir"):
        trained_here(run)
    (home / "bob").unlink()
    (home / "bob").mkdir()
    with pytest.raises(ConfigError, match="no run that has ended well"):
        trained_here(run)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(ConfigError, match="another user"):
        trained_here(run)


def test_results_do_not_go_through_a_linked_folder(home: Path) -> None:
    (home / "theirs").mkdir()
    (home / "results").symlink_to(home / "theirs")
    write: dict[str, Callable[[], object]] = {
        "whole": lambda: write_whole(home / "results" / "a", lambda file: file.write(b"1")),
        "csv": lambda: Metrics("m", ["a"], home / "results", lambda: 1).append_metrics_item(
            {"a": 1}
        ),
    }
    for each in write.values():
        with pytest.raises(ConfigError, match="results_dir"):
            each()
    assert not list((home / "theirs").iterdir())
    fresh_folder(home / "results")  # the link moves aside
    assert not (home / "results").is_symlink()


def test_a_file_appears_whole_or_not_at_all(home: Path) -> None:
    def half(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    (home / "file").write_bytes(b"old")
    with pytest.raises(ResultsError, match="No space left"):
        write_whole(home / "file", half)
    assert (home / "file").read_bytes() == b"old"
    with pytest.raises(FileExistsError):
        put_in_place(home / "file", lambda file: file.write(b"1"), new=True)
    assert [each.name for each in home.iterdir()] == ["file"]


def test_a_key_in_a_folder_that_was_exchanged_is_not_used(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.new_key("alice", home)
    (home / "keys").rename(home / "others")
    (home / "keys").symlink_to(home / "others")
    with pytest.raises(ConfigError, match="link"):
        keys.load_key("alice", home)
