"""Converts ids of real files to one form, the same at every party, before anything is compared.

An intersection compares strings bit by bit. So `00123` and `123`, or `Ann@X.com` and `ann@x.com`,
do not match, and nobody notices. An `IdRecipe` says how an id is written. It is agreed on in the
plan, while the names of the columns that hold the ids stay at each party. This package uses tables
and text, and knows no messages or models.
"""

from heterofed.tabular.ids.advice import overlap_advice
from heterofed.tabular.ids.index import IdIndex
from heterofed.tabular.ids.keys import RowKeys, key_of, unmarked
from heterofed.tabular.ids.recipe import IdRecipe
from heterofed.tabular.ids.table_ids import Duplicates, TableIds, joining_note, read_ids

__all__ = [
    "Duplicates",
    "IdIndex",
    "IdRecipe",
    "RowKeys",
    "TableIds",
    "joining_note",
    "key_of",
    "overlap_advice",
    "read_ids",
    "unmarked",
]
