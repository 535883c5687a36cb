"""Appends rows to the metrics sets that heterofed writes itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from heterofed.metrics import as_float, registered_metrics
from heterofed.runs.run import Run


def record_row(run: Run, owner: type, name: str, row: Mapping[str, float | str]) -> None:
    """Append a row to `<name>.csv`, unless the user's class registered a set of that name.

    Columns that the row lacks are NaN, and new columns are added.

    Args:
        run: the run.
        owner: the class of the scheduler.
        name: the name of the metrics set.
        row: the values by column; nothing is written if there are none.
    """
    if not row or name in registered_metrics(owner):
        return
    if name not in run.metrics:
        run.open_metrics(name, list(row)).cut(0)
    table = run.metrics[name]
    table.widen(row)
    table.append_metrics_item(dict.fromkeys(table.keys, math.nan) | dict(row))


def numbers_of(named: Mapping[Any, Any]) -> dict[Any, float | None]:
    """Return the values that a hook returned as numbers, with None for those that are none."""
    return {name: as_float(value) for name, value in named.items()}
