"""The party with the right halves; it never sees a label."""

import numpy as np
import torch
from torch import nn, optim

from heterofed import Batch, HeteroNNCollaboratorScheduler


class Collaborator(HeteroNNCollaboratorScheduler):
    def __init__(self, **settings):
        super().__init__("right", **settings)
        held = np.load("data/right.npz")
        self.ids = held["ids"].tolist()
        self.rows = {each: row for row, each in enumerate(self.ids)}
        self.pictures = torch.from_numpy(held["pictures"])[:, None]  # [rows, 1, 8, 4]

    def load_local_ids(self):
        return self.ids

    def make_feature_model(self):
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16))

    def make_feature_optimizer(self, feature_model):
        return optim.Adam(feature_model.parameters(), lr=0.005)

    def iterate_train_feature(self, feature_model, train_ids):
        for ids in self.batches(train_ids):  # the Host's batch size
            rows = [self.rows[each] for each in ids]
            yield Batch(feature_model(self.pictures[rows]), ids=ids)

    def iterate_test_feature(self, feature_model, test_ids):
        yield from self.iterate_train_feature(feature_model, test_ids)


Collaborator(join_timeout=120).launch_task("@@NAME@@")
