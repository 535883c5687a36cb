"""What the reliable link costs: the MNIST example over TCP with CURVE, with the link and without.

    python -m benchmarks.link --data data --rounds 3 --repeats 5 --json

Both kinds of run take turns (`benchmarks.in_turns`). Gives the median seconds of the phase train,
`cost` (what the link adds, as a part of 1) and the spread of the runs without it, below which no
difference means anything.
"""

from __future__ import annotations

from benchmarks import in_turns


def without() -> None:
    """Parties talk over bare connections."""
    from heterofed.rendezvous import backend

    for name, bare in (
        ("ReliableListener", lambda below, **_: below),
        ("ReliableConnector", lambda dial: dial()),
    ):
        if not hasattr(backend, name):
            raise SystemExit(f"rendezvous.backend has no {name}: this bench measures nothing")
        setattr(backend, name, bare)


def figures(
    runs: dict[str, list[in_turns.Phases]],
) -> tuple[dict[str, float], list[float], list[float]]:
    """Seconds of the phase train, with the link and without."""
    link, bare = ([each["train"]["seconds"] for each in runs[kind]] for kind in ("link", "bare"))
    return {}, link, bare


if __name__ == "__main__":
    in_turns.run(
        "benchmarks.link",
        __doc__,
        kinds=("link", "bare"),
        without=without,
        figures=figures,
        rounds=3,
        limit=600.0,
    )
