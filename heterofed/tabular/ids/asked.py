"""Converts single ids, as somebody asks for them, to the form in which rows are matched."""

from __future__ import annotations

from collections.abc import Iterable

from heterofed.tabular.ids.recipe import IdRecipe, cells_of, joined
from heterofed.tabular.ids.writing import UnfitError


def as_matched(ids: Iterable[str], recipe: IdRecipe) -> list[str]:
    """Return ids in the form of the first key of a recipe.

    An id that is in this form already stays as it is, and so does what is no id of this recipe. The
    parts of an id of several columns are separated by U+001F.
    """
    writers = [part.writer for part in recipe.keys[0]]

    def written(id_: str) -> str:
        cells, number = cells_of(id_)
        if len(cells) != len(writers):
            return id_
        try:
            parts = [write(cell) for write, cell in zip(writers, cells, strict=True)]
        except UnfitError:
            return id_
        return joined(parts) + number

    return [written(each) for each in ids]
