"""Advises what to do if ids of the smaller set are not common, often because of how they are
written.
"""

from __future__ import annotations

from heterofed.tabular.ids.recipe import IdRecipe

SMALL_SHARE = 0.01
"""Under this share, the parties surely write ids differently."""

EXPECTED_SHARE = 0.5
"""Under this share, it is worth a thought which recipe would find more."""


def overlap_advice(
    common: int,
    own: int,
    smallest: int,
    recipe: IdRecipe,
    better: IdRecipe | None = None,
    *,
    matched: int | None = None,
) -> str:
    """Return how many rows matched, and what to try; empty if all ids of the smaller set did.

    It is the same at a party whose ids are clean: the cause may be at another one, of whose ids
    nobody else learns anything.

    Args:
        common: the number of ids that all parties have.
        own: the number of this party's rows.
        smallest: the number of ids of the party that has the fewest.
        recipe: the recipe by which they were written.
        better: the recipe that suits this party's ids better, None if there is none.
        matched: the number of this party's rows that have a common id; None if each has its own.
    """
    smaller = smallest if recipe.repeats > 1 else min(own, smallest)
    if common >= smaller:
        return ""
    if common < SMALL_SHARE * smaller:
        said = ", under 1 %: the parties may write ids differently."
    else:
        said = "; if you expected more, the parties may write ids differently, here or elsewhere."
    if better is not None:
        trial = f"the ids here look as if --id-recipe {better} at the Host would find more"
    elif common < smaller * EXPECTED_SHARE:
        tried = {part.type + (":" + part.option if part.option else "") for part in recipe.keys[0]}
        listed = "; ".join(f"{name}, {why}" for name, why in _WAYS if name not in tried)
        trial = f"compare a made-up id with the other party, and try {listed}"
    else:
        trial = (
            "no other recipe suits the ids here better, so let the other parties run `heterofed"
            " table check`, and compare a made-up id with them"
        )
    rows = common if matched is None else matched
    return (
        f"{rows} of {own} rows here are matched: {common} of {smaller} ids of the smaller set are"
        f" common{said} The recipe was {recipe}; {trial}"
    )


_WAYS = (
    ("integer", "where ids are numbers and one party dropped zeros (00123 and 123)"),
    ("text:lower", "where upper and lower case differ"),
    ("text:alnum", "where hyphens, dots or spaces differ"),
    ("phone:CN", "where they are phone numbers (with your country)"),
    ("email", "where they are e-mail addresses"),
)
