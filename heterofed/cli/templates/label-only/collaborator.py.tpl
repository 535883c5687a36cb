"""The shop or the club: two columns each."""

import sys

from torch import nn, optim

from heterofed import Batch, HeteroNNCollaboratorScheduler
from heterofed.data import VerticalTable


class Collaborator(HeteroNNCollaboratorScheduler):
    def __init__(self, party, **settings):
        super().__init__(party, **settings)
        self.table = VerticalTable.read(f"data/{party}.csv", id="person")

    def load_local_ids(self):
        return self.table.ids

    def make_feature_model(self):
        return nn.Sequential(nn.Linear(2, 8), nn.ReLU())

    def make_feature_optimizer(self, feature_model):
        return optim.Adam(feature_model.parameters(), lr=0.01)

    def iterate_train_feature(self, feature_model, train_ids):
        for features, _, ids in self.table.batches(train_ids, self.batch_size):
            yield Batch(feature_model(features), ids=ids)

    def iterate_test_feature(self, feature_model, test_ids):
        yield from self.iterate_train_feature(feature_model, test_ids)


Collaborator(sys.argv[1], join_timeout=120).launch_task("@@NAME@@")
