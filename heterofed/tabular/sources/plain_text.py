"""Converts text files to UTF-8: it detects compression, encoding, byte order marks and line ends.

The file itself is never changed. If it already is UTF-8, it is read directly; otherwise a copy in
the scratch folder is read.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from heterofed.errors import ConfigError
from heterofed.files import new_file
from heterofed.tabular.sources.engine import Scratch

_BLOCK = 1 << 20
_SAMPLE = 1 << 18
"""The number of bytes from which an encoding is guessed."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_ZSTD = b"\x28\xb5\x2f\xfd"

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_WIDE = ("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr")
_NARROW = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r")
"""The encodings that tables have, beside those of Unicode."""


class PlainText:
    """A text file, and notes on how it is read.

    Args:
        path: the path of the file.
        encoding: the encoding of its text; None to detect it.
        scratch: the folder for a copy, if one is needed.

    Attributes:
        path: the path of UTF-8 text with one kind of line end.
        notes: what was detected, for the user.

    Raises:
        ConfigError: the file is empty, is not text, or does not have that encoding; the message has
        the line.
    """

    def __init__(self, path: Path, encoding: str | None, scratch: Scratch) -> None:
        self.path, self.notes = path, list[str]()
        self._name = path.name
        packed = compression_of(path)
        if packed:
            self.notes.append(f"compressed by {packed}")
            self._copy(scratch, _unpacked(path, packed))
        found = encoding or self._encoding()
        look = None if found not in ("utf-8", "utf-8-sig") else self._look(found)
        if look is None:  # the text was not UTF-8 after all, or another encoding is given
            found = found if found not in ("utf-8", "utf-8-sig") else self._guessed()
            self._recode(scratch, found)
            look = self._look("utf-8")
        if found not in ("utf-8", "utf-8-sig"):
            guess = "" if encoding else " (found out; give the encoding if words look wrong)"
            self.notes.append(f"read as {found}{guess}")
        if look is not None and look > 1:
            self._recode(scratch, "utf-8-sig")

    def sample(self) -> str:
        """Return the first lines."""
        with self.path.open("rb") as file:
            block = file.read(_SAMPLE)
        text = block.decode("utf-8-sig", errors="ignore")
        cut = max(text.rfind("\n"), text.rfind("\r")) if len(block) == _SAMPLE else -1
        return text[: cut + 1] if cut > 0 else text

    def _encoding(self) -> str:
        with self.path.open("rb") as file:
            head = file.read(4096)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                return encoding
        # In UTF-16 without a mark, every second byte of plain letters is zero.
        even, odd = head[::2].count(0), head[1::2].count(0)
        if even + odd > len(head) / 4 and min(even, odd) < (even + odd) / 10:
            return "utf-16-le" if odd > even else "utf-16-be"
        return "utf-8"

    def _look(self, encoding: str) -> int | None:
        """Read the whole file once, and return the number of kinds of line end; None if it is not
        UTF-8.

        Raises:
            ConfigError: the file is empty, or has a NUL.
        """
        decoder = codecs.getincrementaldecoder(encoding)()
        lines, ends, after, blank = 1, set[bytes](), b"", True
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                if b"\0" in block:
                    lines += block[: block.index(b"\0")].count(b"\n")
                    raise ConfigError(
                        f"{self._name}, line {lines}: a NUL byte; this is no text file, or a"
                        " damaged one: export the table again as CSV"
                    )
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    return None
                blank = blank and not block.strip(b"\xef\xbb\xbf \t\r\n")
                lines += block.count(b"\n")
                ends |= _line_ends(after + block)
                after = block[-1:]
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return None
        if blank:
            raise ConfigError(
                f"{self._name} is empty; its first line must name the columns, and rows follow"
            )
        return len(ends)

    def _guessed(self) -> str:
        """Return the most likely encoding of lines with letters beyond ASCII."""
        try:
            from charset_normalizer import from_bytes
        except ImportError:
            raise ConfigError(
                f"{self._name} is not UTF-8 text: say its encoding, such as gb18030 or latin-1, or"
                " save it as UTF-8 (to have it found out: pip install 'heterofed[table]')"
            ) from None
        telling = self._telling()
        likely = _NARROW if _is_narrow(telling) else _WIDE
        best = from_bytes(telling, cp_isolation=list(likely)).best()
        if best is None:
            raise ConfigError(
                f"{self._name} is not UTF-8 text and its encoding cannot be found out: say which it"
                " is, such as gb18030 or latin-1, or save it as UTF-8"
            )
        alike = [best.encoding, *best.could_be_from_charset]  # for these bytes
        found: str = next(each for each in (*likely, best.encoding) if each in alike)
        return found

    def _telling(self) -> bytes:
        """Return lines that have bytes beyond ASCII."""
        found, size = [], 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.isascii():
                    found.append(line)
                    size += len(line)
                    if size > _SAMPLE:
                        break
        return b"".join(found)

    def _recode(self, scratch: Scratch, encoding: str) -> None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ConfigError(
                f"{self._name}: there is no encoding {encoding!r}; such are utf-8, gb18030, latin-1"
            ) from None
        line, place = 0, scratch.place()
        try:
            with self.path.open(encoding=encoding) as file, new_file(place) as copy:
                for text in file:  # any line end becomes \n
                    line += 1
                    copy.write(text.encode())
        except (UnicodeError, ValueError):
            raise ConfigError(
                f"{self._name}, line {line + 1} or soon after: this is no {encoding} text; give the"
                " encoding that the file was saved in, or save it as UTF-8"
            ) from None
        self.path = place

    def _copy(self, scratch: Scratch, source: Iterator[bytes]) -> None:
        place = scratch.place()
        try:
            with new_file(place) as copy:
                for block in source:
                    copy.write(block)
        except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"{self._name} cannot be unpacked ({type(error).__name__}): the file is damaged or"
                " was cut off; export it again"
            ) from None
        self.path = place


def compression_of(path: Path) -> str:
    """Return how a file is compressed, by its first bytes; empty if it is not.

    Raises:
        ConfigError: the compression is not known here.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_ZSTD):
        raise ConfigError(f"{path.name} is packed by zstd; unpack it first (zstd -d)")
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def _unpacked(path: Path, packed: str) -> Iterator[bytes]:
    opened: IO[bytes]
    if packed == "zip":
        with zipfile.ZipFile(path) as archive:
            names = [each for each in archive.namelist() if not each.endswith("/")]
            if "[Content_Types].xml" in names:
                raise ConfigError(f"{path.name} is an Excel workbook; save the sheet as CSV")
            if len(names) != 1:
                raise ConfigError(f"{path.name} holds {len(names)} files; give an archive of one")
            with archive.open(names[0]) as opened:
                yield from _blocks(opened)
        return
    openers = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    with openers[packed](path, "rb") as opened:  # type: ignore[operator]
        yield from _blocks(opened)


def _is_narrow(text: bytes) -> bool:
    """Return whether letters beyond ASCII have one byte each, so that most stand between ASCII
    ones.

    Characters of two bytes occur in whole words. A single short word is not enough for a guess.
    """
    runs = re.findall(rb"[\x80-\xff]+", text)
    return sum(len(run) == 1 for run in runs) > len(runs) / 2 or _is_alphabetic(text)


def _is_alphabetic(text: bytes) -> bool:
    """Return whether the text is Cyrillic, Greek, Hebrew or Arabic: whole words of one-byte
    letters.

    Words of two-byte characters have an even number of bytes, and half of other words do not.
    """
    words = re.findall(rb"(?<![\x40-\xff])[\x80-\xff]{2,}(?![\x40-\xff])", text)
    return sum(len(word) % 2 for word in words) > len(words) / 4


def _blocks(file: IO[bytes] | BinaryIO | io.BufferedIOBase) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _line_ends(block: bytes) -> set[bytes]:
    found = set()
    both, lines, returns = block.count(b"\r\n"), block.count(b"\n"), block.count(b"\r")
    if both:
        found.add(b"\r\n")
    if lines > both:
        found.add(b"\n")
    if returns > both and re.search(rb"\r(?!\n|\Z)", block):
        found.add(b"\r")
    return found
