"""Keys are made once, kept private, never shown, and refused where anybody may have read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofed.errors import ConfigError
from heterofed.identity.keys import Key, fingerprint, key_path, load_key, new_key, rotate_key
from heterofed.transport.zeromq.zap import new_key_pair
from tests.identity.offices import Command


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def secret_of(party: str, home: Path) -> str:
    return load_key(party, home).secret


def test_new_show_and_rotate(home: Path, command: Command) -> None:
    assert command("keys", "new", "bob") == 0
    first = command.out
    public, words = first.splitlines()
    assert len(public) == 40
    assert words == fingerprint(public)
    assert [len(each) for each in words.split()] == [4] * 6
    assert command("keys", "show", "bob") == 0
    assert command.out == first
    path = key_path("bob", home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    old = secret_of("bob", home)
    assert command("keys", "rotate", "bob") == 0
    assert command.out.splitlines()[0] != public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert old not in "".join(map(str, tree(home).items()))
    assert [each.name for each in path.parent.iterdir()] == ["bob.key"]


def test_a_key_is_never_replaced_unasked(home: Path, command: Command) -> None:
    command("keys", "new", "bob")
    before = tree(home)
    assert command("keys", "new", "bob") == 2
    assert "has a key already" in command.err
    assert "heterofed keys rotate" in command.err
    assert tree(home) == before


def test_the_secret_shows_nowhere(home: Path, command: Command) -> None:
    shown = ""
    for arguments in (("new", "bob"), ("show", "bob"), ("new", "bob"), ("show", "carol")):
        command("keys", *arguments)
        shown += command.out + command.err
    key = load_key("bob", home)
    assert key.secret not in shown + repr(key) + str(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o777, 0o601])
def test_a_key_that_others_may_read_is_refused(mode: int, home: Path, command: Command) -> None:
    command("keys", "new", "bob")
    secret = secret_of("bob", home)
    key_path("bob", home).chmod(mode)
    for verb in ("show", "rotate"):
        assert command("keys", verb, "bob") == 2
        assert "chmod 600" in command.err
        assert secret not in command.out + command.err


@pytest.mark.parametrize("name", ["../bob", "a/b", "", ".", "..", "bob\n", "-x/", "b" * 200])
@pytest.mark.parametrize("verb", ["new", "show", "rotate"])
def test_names_with_path_characters(verb: str, name: str, home: Path, command: Command) -> None:
    assert command("keys", verb, "--", name) == 2
    assert len(command.err.splitlines()) == 1
    assert list(home.iterdir()) == []


def test_missing_damaged_and_foreign_keys(home: Path) -> None:
    with pytest.raises(ConfigError, match="heterofed keys new bob"):
        load_key("bob", home)
    with pytest.raises(ConfigError, match="heterofed keys new bob"):
        rotate_key("bob", home)
    key = new_key("bob", home)
    path = key_path("bob", home)
    good = path.read_text()
    other = new_key_pair()
    for bad in (
        "",
        "not TOML [",
        good.replace(key.public, other[0]),
        good.replace(key.secret, "x" * 40),
        good.replace('"bob"', '"carol"'),
        good + 'more = "1"\n',
        good[:-20],
        good.replace('"', ""),
    ):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="does not hold the key pair of bob") as caught:
            load_key("bob", home)
        assert key.secret not in str(caught.value)
        assert caught.value.__cause__ is None
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="does not hold"):
        load_key("bob", home)


def test_links_and_pipes_are_no_keys(home: Path, tmp_path: Path) -> None:
    new_key("bob", home)
    path = key_path("bob", home)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_key("bob", home)
    with pytest.raises(ConfigError, match="has a key already"):
        new_key("bob", home)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="not a plain file"):
        load_key("bob", home)


@given(st.binary(min_size=0, max_size=300))
def test_fingerprints_have_one_form(content: bytes) -> None:
    words = fingerprint(content.hex())
    assert len(words) == 29
    assert set(words) <= set("0123456789abcdef ")


def test_a_key_of_another_name_is_another_key(home: Path) -> None:
    keys = [new_key(name, home) for name in ("bob", "Bob B", "bücher")]
    assert [load_key(key.party, home) for key in keys] == keys
    assert len({key.public for key in keys}) == 3
    assert all(isinstance(key, Key) for key in keys)
