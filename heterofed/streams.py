"""The random streams of a task, to reproduce a run outside of heterofed; see `compute.streams`."""

from __future__ import annotations

from heterofed.compute.streams import random_stream

__all__ = ["random_stream"]
