"""Two small tables of the same people, with a label that hangs on columns of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 400


def loans(rows: int = ROWS, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A bank's table, with the label `defaulted`, and a shop's; each lacks some people."""
    chance = np.random.default_rng(seed)
    risk, spend = chance.normal(size=rows), chance.normal(size=rows)
    city = chance.choice(list("ABC"), rows)
    news = chance.choice(["yes", "no"], rows)
    logit = 2 * risk + 2 * spend + 2.0 * (city == "A") + (news == "yes") - 1
    label = chance.random(rows) < 1 / (1 + np.exp(-logit))
    people = [f"P{number:04}" for number in range(rows)]
    income = pd.Series(np.exp(risk + 9)).mask(chance.random(rows) < 0.1)
    bank = pd.DataFrame(
        {
            "customer": people,
            "risk": risk,
            "income": income,
            "city": city,
            "defaulted": np.where(label, "yes", "no"),
        }
    )
    shop = pd.DataFrame(
        {
            "client": people,
            "spend": spend,
            "newsletter": news,
            "since": pd.date_range("2020-01-01", periods=rows).strftime("%Y-%m-%d"),
            "notes": chance.choice(["good client", "late payer", "new here"], rows),
            "basket": chance.choice(["tea:2 milk:1", "milk:3", "tea"], rows),
        }
    )
    return (
        bank.sample(frac=0.95, random_state=1).reset_index(drop=True),
        shop.sample(frac=0.9, random_state=2).reset_index(drop=True),
    )


def written(folder: Path, **frames: pd.DataFrame) -> list[Path]:
    """The tables as CSV files of these names."""
    paths = []
    for name, frame in frames.items():
        paths.append(folder / f"{name}.csv")
        frame.to_csv(paths[-1], index=False)
    return paths
