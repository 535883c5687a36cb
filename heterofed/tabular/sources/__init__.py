"""A party's table, wherever it lies: files, databases and DataFrames behind one small interface.

Knows where cells come from and nothing of ids, labels, models or parties. Whatever the source, a
cell is text until somebody says what kind a column is (`Source.typed`), so that a table is read the
same way on the day it is trained on and on the day it is served. DuckDB is the engine: a table may
be larger than memory. What is read is never written to, and copies lie in a private folder that
goes with the source.
"""

from heterofed.tabular.sources.opened import open_source
from heterofed.tabular.sources.source import Source

__all__ = ["Source", "open_source"]
