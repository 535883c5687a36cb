"""Cuts scikit-learn's digits into two halves, one for each party."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
ids = np.array([f"digit-{number:04}" for number in range(len(digits.images))])
pictures = (digits.images / 16).astype(np.float32)

Path("data").mkdir(exist_ok=True)
np.savez("data/left.npz", ids=ids, pictures=pictures[:, :, :4], labels=digits.target)
np.savez("data/right.npz", ids=ids[::-1], pictures=pictures[::-1, :, 4:])
