"""Train on four points that are cut by rows, and then by columns: python -m examples.virtual"""

from __future__ import annotations

from examples.virtual import horizontal, vertical


def main() -> None:
    for cut, losses in (("by rows", horizontal.train()), ("by columns", vertical.train())):
        print(f"{cut}: loss {losses[0]:.4f} in round 1, {losses[-1]:.4f} in round {len(losses)}")


if __name__ == "__main__":
    main()
