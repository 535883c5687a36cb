"""From rows to batches: tables and data sets by id, and one data set cut into parties.

Knows pandas (an optional dependency, loaded when a table is made), torch and ids; nothing of
tasks, parties' connections or models.
"""

from heterofed.data.cut import vertical_split
from heterofed.data.indexed import IndexedDataset, Rows
from heterofed.data.table import ColumnReport, VerticalTable

__all__ = ["ColumnReport", "IndexedDataset", "Rows", "VerticalTable", "vertical_split"]
