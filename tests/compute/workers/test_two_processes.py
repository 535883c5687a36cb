"""Two processes divide the weights of a model, and train those of one process."""

from __future__ import annotations

import torch
from torch import optim
from torch.nn.utils import clip_grad_norm_

from heterofed.compute.sharded_tensors import own_part
from tests.compute.workers.ranks import party
from tests.compute.workers.test_sharding import both, learning, same, train


def test_two_processes_divide_a_model() -> None:
    with party(2) as exchange:
        model, plain = both(exchange)
        for each in (model, plain):
            optimizer = optim.Adam(learning(each), lr=0.01, foreach=True)
            train(each, optimizer, lambda weights: clip_grad_norm_(weights, 0.5), rows=(5, 1, 4))
            if each is model:
                own = sum(own_part(one).numel() for one in learning(each))
                assert own == sum(one.numel() for one in learning(each)) / 2
        same(model, plain)
        torch.testing.assert_close(
            model(torch.ones(3, 3).double()), plain(torch.ones(3, 3).double())
        )
