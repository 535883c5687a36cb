"""The party with the left halves and the labels."""

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional as F

from heterofed import Batch, HeteroNNHostScheduler, register_metrics


class Host(HeteroNNHostScheduler):
    def __init__(self, **settings):
        super().__init__("left", **settings)
        held = np.load("data/left.npz")
        self.ids = held["ids"].tolist()
        self.rows = {each: row for row, each in enumerate(self.ids)}
        self.pictures = torch.from_numpy(held["pictures"])[:, None]  # [rows, 1, 8, 4]
        self.labels = torch.from_numpy(held["labels"]).long()

    def load_local_ids(self):
        return self.ids

    def make_feature_model(self):
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16))

    def make_feature_optimizer(self, feature_model):
        return optim.Adam(feature_model.parameters(), lr=0.005)

    def make_infer_model(self):
        return nn.Sequential(nn.ReLU(), nn.Linear(2 * 16, 10))

    def make_infer_optimizer(self, infer_model):
        return optim.Adam(infer_model.parameters(), lr=0.005)

    def iterate_train_feature(self, feature_model, train_ids):
        for ids in self.batches(train_ids):  # of the agreed size, at both parties
            rows = [self.rows[each] for each in ids]
            yield Batch(feature_model(self.pictures[rows]), self.labels[rows], ids)

    def iterate_test_feature(self, feature_model, test_ids):
        yield from self.iterate_train_feature(feature_model, test_ids)

    def scores(self, feature_projection):
        return self.infer_model(torch.cat(list(feature_projection.values()), dim=1))

    def train_a_batch(self, feature_projection, labels):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.scores(feature_projection), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["accuracy"])
    def test(self, batched_feature_projections, batched_labels):
        scores = torch.cat([self.scores(each) for each in batched_feature_projections])
        right = scores.argmax(dim=1) == torch.cat(batched_labels)
        self.get_metrics("test").append_metrics_item({"accuracy": right.float().mean()})


Host(
    max_rounds=5, log_rounds=1, batch_size=64, shuffle=True, psi_protocol="ecdh", join_timeout=120
).launch_task("@@NAME@@")
