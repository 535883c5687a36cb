"""Determines which executor computes this party's part of an intersection.

A constructor's `psi_executor` comes first. Without one, the user's configuration decides: the table
`[psi]` of `config.toml` in `$HETEROFED_HOME`, with the keys `executor` and `key_leaves`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterofed.errors import ConfigError
from heterofed.files import heterofed_home
from psi import ExecutorError
from psi.executors import check_address, may_leave

CONFIG = "config.toml"


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """An executor or its address, and whether the secret key of an intersection may be sent to it.

    Attributes:
        executor: what `psi.executors.open_pool` takes; None computes in threads of this process.
        key_leaves: whether the key may leave this machine.
        said: where this was chosen, for errors.
    """

    executor: Any = None
    key_leaves: bool = False
    said: str = "psi_executor"

    def check(self, *, has_key: bool) -> None:
        """Refuse what is no executor, or one that must not get the secret key.

        Args:
            has_key: whether this party computes with a secret key, as a Collaborator does.

        Raises:
            ConfigError: the executor cannot be used; the message says what to change.
        """
        if not isinstance(self.key_leaves, bool):
            raise ConfigError(f"psi_key_leaves={self.key_leaves!r}: give True or False")
        try:
            check_address(self.executor)
            leaves = may_leave(self.executor)
        except ExecutorError as error:
            raise ConfigError(f"{self.said}: {error}") from None
        if has_key and leaves and not self.key_leaves:
            raise ConfigError(
                f"{self.said}: this party's secret key would be sent to other machines; give"
                " psi_key_leaves=True (--key-leaves) if each of them may have it, or use"
                ' "processes:8" on this one'
            )


def chosen_executor(executor: object, key_leaves: bool, home: Path | None = None) -> ExecutorChoice:
    """Return the executor of a constructor's arguments, or else that of the user's configuration.

    Args:
        executor: the argument `psi_executor`.
        key_leaves: the argument `psi_key_leaves`.
        home: the folder of the configuration; None means `$HETEROFED_HOME`.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    if executor is not None:
        return ExecutorChoice(executor, key_leaves)
    try:
        path = (home or heterofed_home()) / CONFIG
    except ConfigError:  # this user has no home folder, and so no configuration
        return ExecutorChoice()
    with _readable(path):
        if not path.exists():
            return ExecutorChoice()
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("psi", {})
    known = {"executor", "key_leaves"}
    if not isinstance(table, dict) or not table.keys() <= known:
        raise ConfigError(
            f"{path}: [psi] has something else than executor and key_leaves; remove it"
        )
    return ExecutorChoice(
        table.get("executor"), key_leaves or table.get("key_leaves", False), f"{path}: executor"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; make it readable, or remove it") from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise ConfigError(f"{path} is no TOML file ({error}); correct it, or remove it") from None
