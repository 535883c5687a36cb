"""The joined model: all columns in one process, by plain PyTorch.

python -m scoreboard.shared.joined JOB
"""

from __future__ import annotations

import sys

import torch

from scoreboard.shared.job import Job
from scoreboard.shared.nets import COLLABORATOR, HOST, TOP, features, loss_of, make, make_optimizer


def main(job: Job) -> None:
    """Train, and keep what a split run keeps."""
    rows = {party: job.rows(party) for party in (HOST, COLLABORATOR)}
    labels = rows[HOST].y
    if labels is None:
        raise SystemExit("host.npz has no labels")
    models = {part: make(part, rows[part].shape, job.classes) for part in rows}
    models[TOP] = make(TOP, (), job.classes)
    optimizers = [make_optimizer(part, model) for part, model in models.items()]
    for step in range(job.steps):
        batch = job.batch_of(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        both = [features(part, models[part], rows[part].x[batch], step) for part in rows]
        loss_of(models[TOP], both[0], both[1], labels[batch]).backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        job.note_step()
    scores = []
    with torch.no_grad():
        for batch in job.test_batches(len(labels)):
            halves = [models[part].eval()(rows[part].x[batch]) for part in rows]
            scores.append(models[TOP].eval()(torch.cat(halves, dim=1)))
    job.keep_scores(scores)
    for part, model in models.items():
        job.keep(part, model)


if __name__ == "__main__":
    main(Job.read(sys.argv[1]))
