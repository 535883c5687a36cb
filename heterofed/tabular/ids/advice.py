"""Advises what to do if few ids are common, often because they are written differently."""

from __future__ import annotations

from heterofed.tabular.ids.recipe import IdRecipe

SMALL_SHARE = 0.01
"""Under this share, the parties surely write ids differently."""

EXPECTED_SHARE = 0.5
"""Under this share, it is worth a thought."""


def overlap_advice(
    common: int, own: int, others: int, recipe: IdRecipe, better: IdRecipe | None = None
) -> str:
    """Return which recipes to try if few ids are common; empty otherwise.

    Few are less than half of the smaller set, or less than all of it where this party's own ids
    look as if they had several forms.

    Args:
        common: the number of ids that all parties have.
        own: the number of this party's ids.
        others: the number of the other party's ids.
        recipe: the recipe by which they were written.
        better: the recipe that suits this party's ids better, None if there is none.
    """
    smaller = min(own, others)
    if common >= smaller * (EXPECTED_SHARE if better is None else 1):
        return ""
    if common < SMALL_SHARE * smaller:
        said = ", under 1 %: the parties may write ids differently."
    else:
        said = "; if you expected more, the parties may write ids differently."
    if better is not None:
        trial = f"the ids here look as if --id-recipe {better} at the Host would find more"
    else:
        tried = {part.type + (":" + part.option if part.option else "") for part in recipe.keys[0]}
        listed = "; ".join(f"{name}, {why}" for name, why in _WAYS if name not in tried)
        trial = f"compare a made-up id with the other party, and try {listed}"
    return (
        f"{common} of {smaller} ids of the smaller set are common{said} The recipe was {recipe};"
        f" {trial}"
    )


_WAYS = (
    ("integer", "where ids are numbers and one party dropped zeros (00123 and 123)"),
    ("text:lower", "where upper and lower case differ"),
    ("text:alnum", "where hyphens, dots or spaces differ"),
    ("phone:CN", "where they are phone numbers (with your country)"),
    ("email", "where they are e-mail addresses"),
)
