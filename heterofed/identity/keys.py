"""A party's own CURVE key pair: made here, kept in one private file, never printed.

The file is `$HETEROFED_HOME/keys/<party>.key`. Whoever has it can speak as that party, so it is
refused where other users of the machine may read it. The public half goes to the other parties,
by a way on which nobody can exchange it; the fingerprint is for comparing it by phone.
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
    """A public key as 6 groups of 4 hexadecimal digits, short enough to read out."""
    digest = hashlib.sha256(public.encode()).hexdigest()
    return " ".join(digest[at : at + GROUP] for at in range(0, GROUPS * GROUP, GROUP))


def key_path(party: str, home: Path) -> Path:
    """Where a party's key lies, or would lie."""
    return home / "keys" / f"{party}.key"


def new_key(party: str, home: Path) -> Key:
    """Make a party's key pair and keep it.

    Raises:
        ConfigError: there is one already, or the file cannot be written.
    """
    path = key_path(party, home)
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{party} has a key already ({path}): show it with `heterofed keys show`, or exchange"
            " it with `heterofed keys rotate`"
        )
    key = Key(party, *new_key_pair())
    _write(key, home, new=True)
    return key


def rotate_key(party: str, home: Path) -> Key:
    """Put a new key pair in the place of a party's old one, which is gone then.

    Raises:
        ConfigError: there is no old one, or the file cannot be written.
    """
    load_key(party, home)
    key = Key(party, *new_key_pair())
    _write(key, home)
    return key


def load_key(party: str, home: Path) -> Key:
    """Read a party's key pair.

    Raises:
        ConfigError: it is not there, others may read it, or it is damaged.
    """
    private_folder(home, "keys", make=False)
    path = key_path(party, home)
    try:
        content = _read_private(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{party} has no key on this machine ({path}): make one with `heterofed keys new"
            f" {party}`"
        ) from None
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error.strerror}") from None
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


def _read_private(path: Path) -> bytes:
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    )
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"the key {path} is not a plain file: put the file itself there")
        if os.name == "posix":
            if found.st_uid != os.geteuid():
                raise ConfigError(
                    f"the key {path} belongs to another user: run this as that user, or make a key"
                    " of your own"
                )
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise ConfigError(
                    f"other users may read the key {path}: run `chmod 600` on it, and if anybody"
                    " may have read it, exchange it with `heterofed keys rotate`"
                )
        return file.read(MAX_FILE_BYTES)


def _write(key: Key, home: Path, *, new: bool = False) -> None:
    path = private_folder(home, "keys") / key_path(key.party, home).name
    text = (  # Z85 has neither quotes nor backslashes, and names have not either
        f"# The private key of {key.party}. Whoever has this file can speak as {key.party}:\n"
        "# keep it here, and give away only the public key (heterofed keys show).\n"
        f'party = "{key.party}"\npublic = "{key.public}"\nsecret = "{key.secret}"\n'
    )
    try:
        put_in_place(path, lambda file: file.write(text.encode()), new=new)
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be written: {error.strerror}") from None
