"""Trains baselines for a joint run: on the Host's columns alone, or on all columns in one place."""

from __future__ import annotations

from heterofed.simulation.baselines import MODES, Comparison, compare, plot

__all__ = ["MODES", "Comparison", "compare", "plot"]
