"""Calls the Host's test hooks, with one batch at a time or with all batches at once."""

from __future__ import annotations

from typing import Any

from heterofed.hetero_nn.hooks import HostHooks, tests_in_batches
from heterofed.hetero_nn.train.joint_batch import telling_what_came
from heterofed.runs.hook_streams import SeededHooks


class TestHooks:
    """One test of one Host.

    Args:
        owner: the Host's scheduler.
        hooks: the hooks of the scheduler.

    Attributes:
        keeps: whether batches are stored until the end, so that they must be copied.
    """

    __test__ = False  # for pytest

    def __init__(self, owner: HostHooks, hooks: SeededHooks) -> None:
        self._hooks = hooks
        self.keeps = not tests_in_batches(type(owner))
        self._projections: list[dict[str, Any]] = []
        self._labels: list[Any] = []

    def add(self, projection: dict[str, Any], labels: Any) -> None:
        """Add a batch: the features by feature key, and the labels of the same rows."""
        if self.keeps:
            self._projections.append(projection)
            self._labels.append(labels)
            return
        with telling_what_came(projection):
            self._hooks.seeded("test_a_batch", projection, labels)

    def end(self) -> None:
        """End the test after the last batch."""
        if not self.keeps:
            self._hooks.seeded("end_test")
            return
        with telling_what_came(self._projections[0] if self._projections else {}):
            self._hooks.seeded(
                "test",
                batched_feature_projections=self._projections,
                batched_labels=self._labels,
            )
