"""Train both parties in this process, and predict with the files that they leave.

python -m examples.text_and_table [--json]
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from examples.text_and_table.data import customers
from examples.text_and_table.parties import Bank, Helpdesk, LetterModel, make_pretrained
from heterofed import simulate, simulate_prediction


def run(results: Path, *, rounds: int = 8, seed: int = 0, **plan: Any) -> dict[str, Any]:
    """The whole example; gives its figures."""
    began, data = time.monotonic(), customers()
    task, pretrained = f"letters-{secrets.token_hex(3)}", results / "pretrained"
    make_pretrained(pretrained)

    def parties() -> tuple[Bank, Helpdesk]:
        settings: dict[str, Any] = {"results_dir": results, "seed": seed}
        bank = Bank("bank", data, max_rounds=rounds, log_rounds=1, **settings, **plan)
        return bank, Helpdesk("helpdesk", data, pretrained, **settings)

    bank, helpdesk = parties()
    done = simulate(bank, [helpdesk], task_id=task)
    model = helpdesk.feature_model.transformer
    weights, made = list(model.parameters()), LetterModel(pretrained).transformer.state_dict()
    changed = (name for name, each in model.named_parameters() if not each.equal(made[name]))
    saved = torch.load(done.results["helpdesk"].models["feature_model"], weights_only=True)

    bank, helpdesk = parties()  # new ones: LoRA from the file, all else from the pretrained model
    ids = bank.data.ids[:200]
    predicted = simulate_prediction(bank, [helpdesk], task_id=task, ids=ids)
    table: pd.DataFrame = predicted.results["bank"]
    return {
        "auc": auc_by_round(results / task / "bank" / "test.csv"),
        "auc_predicted": round(float(roc_auc_score(data.leaves[:200], table["prediction"])), 4),
        "trained_weights": sum(each.numel() for each in weights if each.requires_grad),
        "frozen_weights": sum(each.numel() for each in weights if not each.requires_grad),
        "frozen_weights_changed": sum("lora_" not in name for name in changed),
        "saved": list(saved),
        "seconds": round(time.monotonic() - began, 1),
    }


def auc_by_round(table: Path) -> list[float]:
    """The AUC of each round."""
    return [round(float(line.split(",")[1]), 4) for line in table.read_text().splitlines()[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on stdout")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-staleness", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("heterofed_runs"))
    given = parser.parse_args()
    figures = run(
        given.results, rounds=given.rounds, seed=given.seed, max_staleness=given.max_staleness
    )
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<20} {value}")


if __name__ == "__main__":
    main()
