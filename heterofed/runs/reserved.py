"""Names within classes that users subclass: ours begin with a prefix, all others are the user's."""

from __future__ import annotations

from heterofed.errors import ConfigError

PREFIX = "_heterofed_"


def refuse_reserved(cls: type) -> None:
    """Refuse a user's class that defines one of our names, which would replace what it is to us.

    Raises:
        ConfigError: naming them.
    """
    if cls.__module__.partition(".")[0] == "heterofed":
        return
    taken = sorted(name for name in vars(cls) if name.startswith(PREFIX))
    if taken:
        raise ConfigError(
            f"{cls.__name__} defines {', '.join(taken)}: names that begin with {PREFIX} are"
            " heterofed's own; rename them"
        )
