"""Defines the base of the loops of both roles, with the guard and the check of the models."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.models import HalfModels
from heterofed.hetero_nn.train.guard import Guard
from heterofed.hetero_nn.train.movement_watch import MovementWatch
from heterofed.runs.checkpoint_part import CheckpointPart

M = TypeVar("M", bound=HalfModels)
G = TypeVar("G", bound=Guard)


class Loop(CheckpointPart, Generic[M, G]):
    """The loop of a party in one run, from the split on.

    Args:
        half: the half of the party.
    """

    def __init__(self, half: Half[M]) -> None:
        self._half = half
        self._run, self._hooks, self._models = half.run, half.hooks, half.models
        self._movement = MovementWatch(half.run, half.models, half.batches)
        self._guard: G | None = None

    @property
    def guard(self) -> G:
        """The guard, which processes everything that is sent; it is made after the parties
        connected.
        """
        if self._guard is None:
            self._guard = self.make_guard()
        return self._guard

    @abstractmethod
    def make_guard(self) -> G:
        """Make the guard of this role."""

    def leave(self) -> None:
        """See `CheckpointPart`. A new guard is made for the restored models and counts."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def end_round(self) -> None:
        """Write the measurements of the guard, and log models that the round has not changed."""
        self.guard.end_round()
        self._movement.end_round()
