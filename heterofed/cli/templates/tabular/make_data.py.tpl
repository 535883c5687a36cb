"""Makes up two tables of the same people; real parties have theirs already."""

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 2000

chance = np.random.default_rng(0)
people = [f"P{number:05}" for number in range(ROWS)]
income, spending = chance.lognormal(10, 0.6, ROWS), chance.normal(size=ROWS)
city = chance.choice(["Lyon", "Kyoto", "Quito"], ROWS)
score = np.log(income) - 10 - spending + (city == "Quito") + chance.normal(size=ROWS)

bank = pd.DataFrame({"customer": people, "income": income, "city": city})
bank["defaulted"] = np.where(score > 0.5, "yes", "no")
shop = pd.DataFrame({"client": people, "spending": spending})
shop["newsletter"] = chance.choice(["yes", "no", None], ROWS)

Path("data").mkdir(exist_ok=True)
# Each party lacks some people, and has its rows in an order of its own.
bank.sample(frac=0.9, random_state=1).to_csv("data/bank.csv", index=False)
shop.sample(frac=0.9, random_state=2).to_csv("data/shop.csv", index=False)
