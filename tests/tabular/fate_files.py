"""Files of the shapes that users of FATE have: with and without a header, tags, repeated ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROWS = 400


def numbers(rows: int = ROWS, seed: int = 0) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Twelve columns of numbers x0 to x11, and four classes that hang on all of them."""
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(rows, 12)).round(6)
    table = pd.DataFrame(values, columns=[f"x{at}" for at in range(12)])
    ways = chance.normal(size=(12, 4))
    classes = (values @ ways + 0.3 * chance.normal(size=(rows, 4))).argmax(axis=1)
    return table, pd.Series(classes, name="y")


def with_header(
    path: Path, table: pd.DataFrame, label: pd.Series[Any] | None, **names: str
) -> Path:
    """A CSV file with its columns named, the id first; every ninth cell of x1 is empty."""
    table = table.copy()
    if "x1" in table:
        table.loc[::9, "x1"] = np.nan
    if label is not None:
        table.insert(0, names.get("label", "y"), label)
    table.insert(0, names.get("id", "id"), table.index)
    table.to_csv(path, index=False)
    return path


def tag_value(path: Path, table: pd.DataFrame) -> Path:
    """Lines of `id,x0:1;x1:2` without a header, in another order than that of the ids."""
    lines = [
        f"{row}," + ";".join(f"{name}:{value}" for name, value in cells.items())
        for row, cells in table.sample(frac=1, random_state=0).iterrows()
    ]
    path.write_text("\n".join(lines))
    return path


def svmlight(path: Path, table: pd.DataFrame) -> Path:
    """Lines of `id,0:1,3:2` without a header; numbers near zero are left out."""
    lines = [
        ",".join([str(row), *(f"{at}:{each}" for at, each in enumerate(cells) if abs(each) > 0.1)])
        for row, cells in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
