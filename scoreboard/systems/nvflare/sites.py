"""NVIDIA FLARE: server and sites of a job, by its Collab API.

The pattern is that of FLARE's own split-learning example: the site with columns alone leads, and
calls the site with the labels once a step. Unlike there, that site has columns too, and numbers
travel as float32, not as float16.
"""

from __future__ import annotations

from typing import Any

import torch
from nvflare.collab import collab
from torch import Tensor

from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, HOST, TOP, features, loss_of, make, make_optimizer

DAY = 86_400.0


class Server:
    """Starts the site that leads."""

    @collab.main
    def run(self) -> Any:
        return collab.get_clients([COLLABORATOR])[0](timeout=DAY).lead()


class Site:
    """Either party: its name says which one."""

    def __init__(self) -> None:
        # FLARE makes the object where the job is submitted, and calls `initialize` at each site.
        self.job: Any = None
        self.part: Any = None
        self.data: Any = None
        self.model: Any = None
        self.top: Any = None
        self.optimizers: Any = None
        self.scores: Any = None

    @collab.init
    def initialize(self) -> None:
        self.job = Job.read(collab.get_app_prop("folder"))
        self.part = collab.site_name
        self.job.begin(self.part)
        self.data = self.job.rows(self.part)
        self.model = make(self.part, self.data.shape, self.job.classes)
        self.optimizers = [make_optimizer(self.part, self.model)]
        if self.part == HOST:
            self.top = make(TOP, (), self.job.classes)
            self.optimizers.append(make_optimizer(TOP, self.top))

    @collab.publish
    def lead(self) -> int:
        """The Collaborator's training, and the test at its end."""
        host = collab.get_clients([HOST])[0]
        for step in range(self.job.steps):
            ours = features(self.part, self.model, self.data.x[self.job.batch_of(step)], step)
            self.optimizers[0].zero_grad()
            ours.backward(host.train(step, ours.detach()))  # type: ignore[no-untyped-call]
            self.optimizers[0].step()
        self.model.eval()
        with torch.no_grad():
            for batch in self.job.test_batches(len(self.data.ids)):
                host.test(batch.start, self.model(self.data.x[batch]))
        host.end()
        self.job.keep(self.part, self.model)
        return int(self.job.steps)

    @collab.publish
    def train(self, step: int, theirs: Tensor) -> Tensor:
        """A step at the Host; gives the gradient of what came."""
        batch = self.job.batch_of(step)
        theirs = theirs.detach().requires_grad_()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        ours = features(self.part, self.model, self.data.x[batch], step)
        loss_of(self.top, ours, theirs, self.data.y[batch]).backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        self.job.note_step()
        if theirs.grad is None:
            raise RuntimeError("no gradient")
        return theirs.grad

    @collab.publish
    def test(self, start: int, theirs: Tensor) -> None:
        """Scores of test rows."""
        self.scores = [] if start == self.job.train else self.scores
        with torch.no_grad():
            ours = self.model.eval()(self.data.x[start : start + len(theirs)])
            self.scores.append(self.top.eval()(torch.cat([ours, theirs], dim=1)))

    @collab.publish
    def end(self) -> None:
        """Keep what the Host has."""
        self.job.keep_scores(self.scores)
        self.job.keep(HOST, self.model)
        self.job.keep(TOP, self.top)
