"""Cuts the ids of a site into its parts of the agreed batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from heterofed.errors import ConfigError


def cut(ids: Sequence[str], counts: Sequence[int]) -> list[list[str]]:
    """Return the ids of each batch that has rows.

    Raises:
        ConfigError: there are not as many ids as rows.
    """
    if sum(counts) != len(ids):
        raise ConfigError(
            f"batches: this hook was given {sum(counts)} ids, not {len(ids)}; give batches the ids"
            " as the hook got them"
        )
    ends = list(accumulate(count for count in counts if count))
    return [list(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
