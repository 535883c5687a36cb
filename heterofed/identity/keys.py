"""Makes and reads a party's own CURVE key pair, which is kept in one private file.

The file is `$HETEROFED_HOME/keys/<party>.key`. Anybody who has it can act as that party, so it is
refused if other users of the machine may read it. The secret key is never printed. The public key
is given to the other parties over a channel on which it cannot be replaced; its fingerprint is
short enough to compare it by phone.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import private_folder, put_in_place
from heterofed.protocol.plan import PartyName
from heterofed.transport.zeromq.zap import check_pair, new_key_pair

MAX_FILE_BYTES = 4096
GROUPS, GROUP = 6, 4
"""A fingerprint has 6 groups of 4 hexadecimal digits: 96 bits."""


@dataclass(frozen=True, slots=True)
class Key:
    """A party's key pair; both halves are 40 characters (Z85)."""

    party: str
    public: str
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """See `fingerprint`."""
        return fingerprint(self.public)


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    party: PartyName
    public: str
    secret: str


def fingerprint(public: str) -> str:
    """Return a public key's fingerprint: 6 groups of 4 hexadecimal digits of its hash."""
    digest = hashlib.sha256(public.encode()).hexdigest()
    return " ".join(digest[at : at + GROUP] for at in range(0, GROUPS * GROUP, GROUP))


def key_path(party: str, home: Path) -> Path:
    """Return the path of a party's key file, whether it exists or not."""
    return home / "keys" / f"{party}.key"


def new_key(party: str, home: Path) -> Key:
    """Make a party's key pair and write it to its file.

    Raises:
        ConfigError: the party has a key already, or the file cannot be written.
    """
    path = key_path(party, home)
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{party} has a key already ({path}): show it with `heterofed keys show`, or replace"
            " it with `heterofed keys rotate`"
        )
    key = Key(party, *new_key_pair())
    _write(key, home, new=True)
    return key


def rotate_key(party: str, home: Path) -> Key:
    """Replace a party's key pair by a new one; the old one is deleted.

    Raises:
        ConfigError: the party has no key, or the file cannot be written.
    """
    load_key(party, home)
    key = Key(party, *new_key_pair())
    _write(key, home)
    return key


def load_key(party: str, home: Path) -> Key:
    """Read a party's key pair.

    Raises:
        ConfigError: the file does not exist, is damaged, or may be read by other users.
    """
    private_folder(home, "keys", make=False)
    path = key_path(party, home)
    try:
        content = read_private(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{party} has no key on this machine ({path}): make one with `heterofed keys new"
            f" {party}`"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read: {error.strerror}; make it readable for this user"
        ) from None
    try:
        kept = msgspec.toml.decode(content, type=_Kept)
        check_pair(kept.public, kept.secret)
        damaged = kept.party != party
    except (msgspec.MsgspecError, ConfigError, UnicodeDecodeError):
        damaged = True
    if damaged:
        raise ConfigError(
            f"{path} does not hold the key pair of {party}: restore it from a copy, or remove it"
            f" and make a new one with `heterofed keys new {party}`"
        ) from None
    return Key(party, kept.public, kept.secret)


def read_private(path: Path) -> bytes:
    """Return the content of a key file.

    Raises:
        ConfigError: it is no plain file, belongs to another user, or may be read by others.
        OSError: it cannot be read.
    """
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"the key {path} is not a plain file: replace it by the file itself")
        if os.name == "posix":
            if found.st_uid != os.geteuid():
                raise ConfigError(
                    f"the key {path} belongs to another user: run this as that user, or make a key"
                    " of your own"
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise ConfigError(
                    f"other users may read the key {path}: run `chmod 600` on it, and if somebody"
                    " may have read it, replace it with `heterofed keys rotate`"
                )
        return file.read(MAX_FILE_BYTES)


def write_private(path: Path, text: str, *, new: bool = False) -> None:
    """Write a key file, which only its user can read.

    Args:
        path: the path of the file.
        text: the content.
        new: whether there must be no such file yet.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        put_in_place(path, lambda file: file.write(text.encode()), new=new)
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be written: {error.strerror}; make its folder writable, or make"
            " room"
        ) from None


def _write(key: Key, home: Path, *, new: bool = False) -> None:
    path = private_folder(home, "keys") / key_path(key.party, home).name
    text = (  # neither Z85 nor names contain quotes or backslashes
        f"# The private key of {key.party}. Anybody who has this file can act as {key.party}:\n"
        "# keep it secret, and give away only the public key (heterofed keys show).\n"
        f'party = "{key.party}"\npublic = "{key.public}"\nsecret = "{key.secret}"\n'
    )
    write_private(path, text, new=new)
