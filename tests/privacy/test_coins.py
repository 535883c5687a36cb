"""Coins of label DP: one answer for each label, however often somebody makes a Host begin anew."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.coins import with_kept_coins
from heterofed.privacy.label_dp import RandomisedResponse

IDS = [f"id-{number}" for number in range(400)]
LABELS = torch.arange(400) % 2


def answers(home: Path, start: int = 1, task: str = "tiny", party: str = "bank",
            **settings: object) -> Tensor:  # fmt: skip
    response = RandomisedResponse(**{"epsilon": 0.5, **settings})  # type: ignore[arg-type]
    return with_kept_coins(response, home, task, party, bytes([start]) * 32)(LABELS, IDS)


def test_a_new_run_gives_the_same_answers(tmp_path: Path) -> None:
    """Whatever secret it would have begun with: fifteen answers told 0.55 of labels, then all."""
    first = answers(tmp_path)
    assert 100 < (first != LABELS).sum() < 200
    for start in range(2, 15):
        assert torch.equal(answers(tmp_path, start), first)


def test_other_things_have_other_coins(tmp_path: Path) -> None:
    turned = [
        answers(tmp_path) != LABELS,
        answers(tmp_path, 8, task="other") != LABELS,
        answers(tmp_path, 9, party="other") != LABELS,
        answers(tmp_path, label_set="churn") != LABELS,
        answers(tmp_path / "elsewhere", start=3) != LABELS,
        answers(tmp_path, epsilon=0.6) != LABELS,
        answers(tmp_path, epsilon=0.4) != LABELS,
    ]
    together = torch.corrcoef(torch.stack(turned).double())
    assert (together - torch.eye(len(turned))).abs().max() < 0.25


def test_answers_of_two_strengths_do_not_tell_the_label(tmp_path: Path) -> None:
    """With one coin for both, a difference would mean that the stronger answer is true."""
    strong, weak = answers(tmp_path, epsilon=0.2), answers(tmp_path, epsilon=2.0)
    differ = strong != weak
    assert (weak[differ] == LABELS[differ]).double().mean() < 0.97
    given = [RandomisedResponse(each, secret=bytes(32))(LABELS, IDS) for each in (0.2, 2.0)]
    differ = given[0] != given[1]
    assert (given[1][differ] == LABELS[differ]).double().mean() < 0.97


def test_epsilons_of_the_same_labels_add_up(tmp_path: Path) -> None:
    def spent(epsilon: float, label_set: str = "labels") -> float:
        response = RandomisedResponse(epsilon, label_set=label_set)
        return with_kept_coins(response, tmp_path, "tiny", "bank", bytes(32)).spent

    assert [spent(0.5), spent(0.5), spent(1.0), spent(0.5)] == [0.5, 0.5, 1.5, 1.5]
    assert spent(2.0, "churn") == 2.0


def test_a_secret_that_was_given_is_taken(tmp_path: Path) -> None:
    response = RandomisedResponse(0.5, secret=bytes(32))
    assert with_kept_coins(response, tmp_path, "tiny", "bank", b"x" * 32) is response
    assert not (tmp_path / "coins").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"secret": "00", "used": []}', "[1]", '{"secret": 3}'])
def test_a_damaged_file_is_no_reason_for_new_coins(text: str, tmp_path: Path) -> None:
    answers(tmp_path)
    (path,) = (tmp_path / "coins").glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(text)
    with pytest.raises(ConfigError, match="second time"):
        answers(tmp_path)
