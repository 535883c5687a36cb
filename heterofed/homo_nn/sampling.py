"""Draws the parties that train in a round, equally at every party.

The draw depends on nothing but the plan, so a Host cannot choose whose updates it adds up: two sums
that differ by one party would reveal that party's update.
"""

from __future__ import annotations

import random

from heterofed.protocol.plan import Plan

FEWEST_SUMMED = 2
"""The fewest parties whose updates are added up in secret."""


def drawn(plan: Plan, round_number: int) -> tuple[str, ...]:
    """Return the feature keys of the parties that train in a round, in task order."""
    names = plan.collaborators
    fraction = plan.averaging.fraction if plan.averaging else 1.0
    fewest = FEWEST_SUMMED if plan.fusion == "masked_sum" else 1
    count = min(len(names), max(fewest, round(fraction * len(names))))
    chance = random.Random(f"parties of round {round_number} by {plan.seed}")
    some = set(chance.sample(names, count))
    return tuple(name for name in names if name in some)
