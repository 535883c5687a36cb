"""Defines the one attribute name that heterofed reserves in classes that users subclass."""

from __future__ import annotations

from heterofed.errors import ConfigError

RESERVED = "_heterofed"


def refuse_reserved(cls: type) -> None:
    """Refuse a user's class that defines the reserved name, which would replace heterofed's object.

    Raises:
        ConfigError: the class defines the name.
    """
    if cls.__module__.partition(".")[0] != "heterofed" and RESERVED in vars(cls):
        raise ConfigError(
            f"{cls.__name__} defines {RESERVED}, which is the one name that is heterofed's own;"
            " rename it"
        )
