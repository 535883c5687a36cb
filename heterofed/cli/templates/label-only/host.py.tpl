"""The insurer: labels and nothing else, so it has no feature model."""

import pandas as pd
import torch
from torch import nn, optim
from torch.nn import functional as F

from heterofed import Batch, HeteroNNHostScheduler, register_metrics


class Insurer(HeteroNNHostScheduler):
    def __init__(self, **settings):
        super().__init__("insurer", is_feature_trainable=False, **settings)
        self.labels = pd.read_csv("data/insurer.csv", index_col="person")["accident"]

    def load_local_ids(self):
        return self.labels.index.tolist()

    def make_feature_model(self):
        return None

    def make_feature_optimizer(self, feature_model):
        return None

    def make_infer_model(self):
        return nn.Sequential(nn.Linear(2 * 8, 8), nn.ReLU(), nn.Linear(8, 1))

    def make_infer_optimizer(self, infer_model):
        return optim.Adam(infer_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model, train_ids):
        for ids in self.batches(train_ids):
            yield Batch(None, torch.tensor(self.labels.loc[ids].to_numpy()).float(), ids)

    def iterate_test_feature(self, feature_model, test_ids):
        yield from self.iterate_train_feature(feature_model, test_ids)

    def scores(self, feature_projection):
        return self.infer_model(torch.cat(list(feature_projection.values()), dim=1)).squeeze(1)

    def train_a_batch(self, feature_projection, labels):
        self.optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.scores(feature_projection), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    @register_metrics(name="test", keys=["accuracy"])
    def test(self, batched_feature_projections, batched_labels):
        scores = torch.cat([self.scores(each) for each in batched_feature_projections])
        right = (scores > 0) == (torch.cat(batched_labels) > 0)
        self.get_metrics("test").append_metrics_item({"accuracy": right.float().mean()})


Insurer(
    collaborators=["shop", "club"],
    max_rounds=5,
    log_rounds=1,
    batch_size=50,
    shuffle=True,
    psi_protocol="ecdh",
    join_timeout=120,
).launch_task("@@NAME@@")
