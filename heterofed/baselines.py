"""What a joint run is compared with: the Host's columns alone, and all columns in one place."""

from __future__ import annotations

from heterofed.simulation.baselines import MODES, Comparison, compare, plot

__all__ = ["MODES", "Comparison", "compare", "plot"]
