"""Flower: the Collaborator, which answers one message a step.

A ClientApp begins anew with each message, so weights and momentum are kept in the context's state,
and the forward pass of the last step is computed again before its gradient goes back through it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, features, make, make_optimizer

app = ClientApp()


def record(tensors: dict[str, torch.Tensor]) -> ArrayRecord:
    """Tensors for a message, or for the state."""
    return ArrayRecord(torch_state_dict=OrderedDict(tensors))


class Half:
    """The Collaborator's half, as it was after the last message."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.job = Job.read(str(context.run_config["folder"]))
        self.job.begin(COLLABORATOR)
        self.data = self.job.rows(COLLABORATOR)
        self.model = make(COLLABORATOR, self.data.shape, self.job.classes)
        self.optimizer = make_optimizer(COLLABORATOR, self.model)
        if "weights" in context.state:
            self.model.load_state_dict(context.state["weights"].to_torch_state_dict())
        if "momentum" in context.state:
            kept = context.state["momentum"].to_torch_state_dict()
            for name, parameter in self.model.named_parameters():
                self.optimizer.state[parameter]["momentum_buffer"] = kept[name]

    def keep(self) -> None:
        """For the next message."""
        self.context.state["weights"] = record(self.model.state_dict())
        buffers = {
            name: self.optimizer.state[parameter].get("momentum_buffer")
            for name, parameter in self.model.named_parameters()
        }
        if all(each is not None for each in buffers.values()):
            self.context.state["momentum"] = record(buffers)

    def features(self, step: int) -> torch.Tensor:
        """The forward pass of a step."""
        rows = self.data.x[self.job.batch_of(step)]
        return features(COLLABORATOR, self.model, rows, step)

    def learn(self, content: RecordDict, step: int) -> None:
        """The gradient of a step, where the message has one."""
        if "gradient" in content:
            self.optimizer.zero_grad()
            gradient = content["gradient"].to_torch_state_dict()["gradient"]
            self.features(step).backward(gradient)  # type: ignore[no-untyped-call]
            self.optimizer.step()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The gradient of the step before goes in, and the features of this step come out."""
    half = Half(context)
    step: Any = message.content["step"]["step"]
    half.learn(message.content, step - 1)
    with torch.no_grad():
        ours = half.features(step)
    half.keep()
    return Message(RecordDict({"features": record({"features": ours})}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """The last gradient goes in, and the features of all test rows come out."""
    half = Half(context)
    half.learn(message.content, half.job.steps - 1)
    half.keep()
    half.job.keep(COLLABORATOR, half.model)
    with torch.no_grad():
        test = torch.cat(
            [
                half.model.eval()(half.data.x[each])
                for each in half.job.test_batches(len(half.data.ids))
            ]
        )
    return Message(RecordDict({"features": record({"features": test})}), reply_to=message)
