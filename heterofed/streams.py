"""The random streams of a task, for who compares it with a joined model: see `compute.streams`."""

from __future__ import annotations

from heterofed.compute.streams import random_stream

__all__ = ["random_stream"]
