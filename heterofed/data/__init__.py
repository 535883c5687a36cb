"""Reads rows by id, from tables and data sets, and cuts one data set into parties.

This package knows pandas (an optional dependency that is loaded when a table is made), torch and
ids. It knows nothing of tasks, connections or models.
"""

from heterofed.data.cut import vertical_split
from heterofed.data.indexed import IndexedDataset, Rows
from heterofed.data.table import ColumnReport, VerticalTable

__all__ = ["ColumnReport", "IndexedDataset", "Rows", "VerticalTable", "vertical_split"]
