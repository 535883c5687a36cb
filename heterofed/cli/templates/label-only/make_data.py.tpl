"""Makes up the labels of one party and the columns of two others."""

from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 1500

chance = np.random.default_rng(0)
people = [f"P{number:04}" for number in range(ROWS)]
columns = chance.normal(size=(ROWS, 4))
label = (columns.sum(axis=1) + chance.normal(size=ROWS) > 0).astype(int)

Path("data").mkdir(exist_ok=True)
insurer = pd.DataFrame({"person": people, "accident": label})
shop = pd.DataFrame({"person": people, "visits": columns[:, 0], "spending": columns[:, 1]})
club = pd.DataFrame({"person": people, "age": columns[:, 2], "distance": columns[:, 3]})
insurer.to_csv("data/insurer.csv", index=False)
shop.sample(frac=0.95, random_state=1).to_csv("data/shop.csv", index=False)
club.sample(frac=0.95, random_state=2).to_csv("data/club.csv", index=False)
