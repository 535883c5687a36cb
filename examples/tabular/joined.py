"""The same model as one, in plain PyTorch: what the split run has to equal.

Of heterofed only the random streams are used, so that weights and dropout masks are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - everybody calls it F
from torch import Tensor, nn

from examples.tabular.parties import BATCH, WIDTH, Half, make_optimizer
from heterofed.data import VerticalTable
from heterofed.streams import random_stream


def train_joined(
    tables: Mapping[str, VerticalTable],
    host: str,
    *,
    train_ids: Sequence[str],
    test_ids: Sequence[str],
    rounds: int,
    seed: int,
) -> Tensor:
    """Train on the train ids; gives the probabilities of the test ids."""
    halves = {}
    for name, table in tables.items():
        with random_stream(seed, name, "make_feature_model", 0, 0):
            halves[name] = Half(table)
    with random_stream(seed, host, "make_infer_model", 0, 0):
        top = nn.Linear(len(tables) * WIDTH, 1)
    optimizers = [make_optimizer(each) for each in (*halves.values(), top)]
    for number in range(1, rounds + 1):
        for batch, start in enumerate(range(0, len(train_ids), BATCH)):
            ids = list(train_ids[start : start + BATCH])
            features = []
            for name, table in tables.items():
                with random_stream(seed, name, "iterate_train_feature", number, batch):
                    features.append(halves[name](table.rows(ids)))
            scores = top(torch.cat(features, dim=1)).squeeze(1)
            labels = tables[host].labels(ids).float()
            loss = F.binary_cross_entropy_with_logits(scores, labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
    with torch.no_grad():
        features = [halves[name].eval()(table.rows(test_ids)) for name, table in tables.items()]
        output: Tensor = torch.sigmoid(top(torch.cat(features, dim=1)).squeeze(1))
    return output
