"""Made-up customers: a bank knows some numbers about each, a helpdesk has their letters."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

WORDS = (
    *("the", "my", "a", "and", "account", "card", "please", "help", "new", "branch", "letter"),
    *("late", "salary", "payment", "job", "lost", "moved", "paid", "thanks", "address"),
)
"""Trouble is `lost` near `job`, or `late` near `payment`; each of these words alone is harmless."""

PAIRS = (("lost", "job"), ("late", "payment"))
MARKS = ("lost", "job", "late", "payment")


@dataclass(frozen=True)
class Customers:
    """The data of both parties.

    Attributes:
        ids: the ids of the customers.
        numbers: the bank's columns, float32 of [rows, 4].
        leaves: the bank's labels: 1 for a customer that leaves, float32 of [rows].
        letters: the helpdesk's letters, of different lengths.
    """

    ids: list[str]
    numbers: Tensor
    leaves: Tensor
    letters: list[str]


def customers(rows: int = 1000, seed: int = 0) -> Customers:
    """Make up customers; half of what makes them leave is in the table, half in the letters."""
    draw = random.Random(seed)
    torch_draw = torch.Generator().manual_seed(seed)
    numbers = torch.randn(rows, 4, generator=torch_draw)
    troubled = [draw.random() < 0.5 for _ in range(rows)]
    letters = [_letter(draw, trouble) for trouble in troubled]
    score = 1.5 * numbers[:, 0] - numbers[:, 1] + 3.0 * torch.tensor(troubled).float() - 1.5
    noise = torch.randn(rows, generator=torch_draw)
    ids = [f"customer-{row:04}" for row in range(rows)]
    return Customers(ids, numbers, (score + noise > 0).float(), letters)


def _letter(draw: random.Random, trouble: bool) -> str:
    words = draw.choices([each for each in WORDS if each not in MARKS], k=draw.randint(3, 10))
    first, second = draw.choice(PAIRS)
    marks = [first, second] if trouble else [draw.choice((first, second))]
    at = draw.randint(0, len(words))
    return " ".join([*words[:at], *marks, *words[at:]])
