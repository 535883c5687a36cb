"""Reads a party's table from files, databases and DataFrames through one small interface.

This package knows where cells come from, and knows no ids, labels, models or parties. In every
source a cell is text until the kind of its column is given (`Source.typed`), so that a table is
read in the same way in training and in later predictions. DuckDB is the engine, so a table may be
larger than memory. The source is never changed, and copies are in a private folder that is deleted
with the `Source`.
"""

from heterofed.tabular.sources.opened import open_source
from heterofed.tabular.sources.source import Source

__all__ = ["Source", "open_source"]
