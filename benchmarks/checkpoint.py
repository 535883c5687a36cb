"""What checkpoints cost: the MNIST example, with a checkpoint after each round and without any.

    python -m benchmarks.checkpoint --data data --rounds 10 --repeats 5 --json

`share` is the part of a round that the phase `checkpoint` takes at the Host: both parties make
theirs, sync it to disk, and the Host waits until both have; the median of the runs with
checkpoints. `kept_s` and `bare_s` are the median seconds of all rounds with and without; the two
kinds of run take turns (`benchmarks.in_turns`), and `spread` is how far the runs without are apart:
below it `cost`, the difference as a part of 1, means nothing.
"""

from __future__ import annotations

import statistics

from benchmarks import in_turns

ROUND = ("train", "test", "checkpoint")


def without() -> None:
    """Parties write no checkpoint."""
    from heterofed.runs.checkpointing import Checkpointing

    if not hasattr(Checkpointing, "keep"):
        raise SystemExit("Checkpointing does not keep: this bench measures nothing")
    Checkpointing.keep = lambda *_, **__: None  # type: ignore[method-assign]


def figures(
    runs: dict[str, list[in_turns.Phases]],
) -> tuple[dict[str, float], list[float], list[float]]:
    """The share of a round; seconds of all rounds, with checkpoints and without."""
    kept, bare = (
        [sum(each[phase]["seconds"] for phase in ROUND) for each in runs[kind]]
        for kind in ("kept", "bare")
    )
    parts = [each["checkpoint"]["seconds"] for each in runs["kept"]]
    shares = [part / whole for part, whole in zip(parts, kept, strict=True)]
    return {"share": round(statistics.median(shares), 4)}, kept, bare


if __name__ == "__main__":
    in_turns.run(
        "benchmarks.checkpoint",
        __doc__,
        kinds=("kept", "bare"),
        without=without,
        figures=figures,
        rounds=10,
        limit=900.0,
    )
