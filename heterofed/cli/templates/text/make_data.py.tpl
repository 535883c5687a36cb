"""Makes up customers, and letters that some of them wrote."""

import random
from pathlib import Path

import pandas as pd

GOOD = ["thank you", "fast delivery", "works well", "very happy", "will order again"]
BAD = ["arrived broken", "no answer", "want my money back", "too late", "very angry"]

chance = random.Random(0)
customers, letters = [], []
for number in range(1500):
    is_happy = chance.random() < 0.5
    words = [chance.choice(GOOD if chance.random() < (0.75 if is_happy else 0.3) else BAD) for _ in range(4)]
    orders = chance.randint(1, 9)
    came_back = int(is_happy and orders > 2 or chance.random() < 0.1)
    customers.append((f"C{number:04}", orders, chance.randint(18, 90), came_back))
    letters.append((f"C{number:04}", ", ".join(words)))

Path("data").mkdir(exist_ok=True)
pd.DataFrame(customers, columns=["customer", "orders", "age", "came_back"]).to_csv(
    "data/customers.csv", index=False
)
chance.shuffle(letters)
pd.DataFrame(letters[:1300], columns=["customer", "letter"]).to_csv("data/letters.csv", index=False)
