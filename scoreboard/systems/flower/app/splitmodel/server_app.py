"""Flower: the Host, which has labels and columns, and asks the Collaborator for features.

The gradient of a step travels with the request of the next one: one message there and back a step,
where Flower's example takes two.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

from scoreboard.shared.job import Job
from scoreboard.shared.nets import HOST, TOP, features, loss_of, make, make_optimizer

app = ServerApp()


def ask(grid: Grid, node: int, kind: str, step: int, gradient: Any) -> torch.Tensor:
    """One message there and back."""
    content = RecordDict({"step": ConfigRecord({"step": step})})
    if gradient is not None:
        told = OrderedDict({"gradient": gradient})
        content["gradient"] = ArrayRecord(torch_state_dict=told)
    [reply] = grid.send_and_receive([Message(content, node, kind)])
    answer: torch.Tensor = reply.content["features"].to_torch_state_dict()["features"]
    return answer


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and test."""
    job = Job.read(str(context.run_config["folder"]))
    job.begin(HOST)
    data = job.rows(HOST)
    model, top = make(HOST, data.shape, job.classes), make(TOP, (), job.classes)
    optimizers = [make_optimizer(HOST, model), make_optimizer(TOP, top)]
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    gradient = None
    for step in range(job.steps):
        batch = job.batch_of(step)
        theirs = ask(grid, nodes[0], MessageType.TRAIN, step, gradient).requires_grad_()
        for optimizer in optimizers:
            optimizer.zero_grad()
        ours = features(HOST, model, data.x[batch], step)
        loss_of(top, ours, theirs, data.y[batch]).backward()  # type: ignore
        for optimizer in optimizers:
            optimizer.step()
        gradient = theirs.grad
        job.note_step()
    theirs = ask(grid, nodes[0], MessageType.EVALUATE, job.steps, gradient)
    with torch.no_grad():
        ours = torch.cat([model.eval()(data.x[each]) for each in job.test_batches(len(data.ids))])
        job.keep_scores([top.eval()(torch.cat([ours, theirs], dim=1))])
    job.keep(HOST, model)
    job.keep(TOP, top)
