"""Advises what to do if next to no id is common, usually because ids are written differently."""

from __future__ import annotations

from heterofed.tabular.ids.recipe import IdRecipe

SMALL_SHARE = 0.01


def overlap_advice(common: int, own: int, others: int, recipe: IdRecipe) -> str:
    """Return a warning if less than 1 % of the smaller set is common; empty otherwise.

    Args:
        common: the number of ids that all parties have.
        own: the number of this party's ids.
        others: the number of the other party's ids.
        recipe: the recipe by which they were written.
    """
    smaller = min(own, others)
    if not smaller or common >= SMALL_SHARE * smaller:
        return ""
    tried = {part.type + (":" + part.option if part.option else "") for part in recipe.keys[0]}
    ways = [
        ("integer", "where ids are numbers and one party dropped zeros (00123 and 123)"),
        ("text:lower", "where upper and lower case differ"),
        ("text:alnum", "where hyphens, dots or spaces differ"),
        ("phone:CN", "where they are phone numbers (with your country)"),
        ("email", "where they are e-mail addresses"),
    ]
    listed = "; ".join(f"{name}, {why}" for name, why in ways if name not in tried)
    return (
        f"{common} of {smaller} ids of the smaller set are common, under 1 %: the parties may write"
        f" ids differently. The recipe was {recipe}; compare a made-up id with the other party, and"
        f" try {listed}"
    )
