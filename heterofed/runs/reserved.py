"""The one name within classes that users subclass that is ours: all others are the user's."""

from __future__ import annotations

from heterofed.errors import ConfigError

RESERVED = "_heterofed"


def refuse_reserved(cls: type) -> None:
    """Refuse a user's class that defines our name, which would replace what it is to us.

    Raises:
        ConfigError: naming it.
    """
    if cls.__module__.partition(".")[0] != "heterofed" and RESERVED in vars(cls):
        raise ConfigError(
            f"{cls.__name__} defines {RESERVED}, which is the one name that is heterofed's own;"
            " rename it"
        )
