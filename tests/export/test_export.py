"""Exported halves are read, and compute the same, without heterofed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from heterofed import ConfigError, simulate
from heterofed.export import export, export_onnx
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows
from tests.homo_nn import tiny as horizontal

pytestmark = pytest.mark.usefixtures("home")

READ = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
import torch
folder = Path(sys.argv[1])
card = json.loads((folder / "card.json").read_text())
half = torch.nn.Linear(3, 4)
half.load_state_dict(load_file(folder / card["halves"]["feature_model"]["file"]))
assert "heterofed" not in sys.modules
print(half(torch.ones(1, 3)).tolist())
"""


@pytest.mark.slow
def test_halves_and_card(tmp_path: Path) -> None:
    host, bob = TinyHost(tmp_path, psi_protocol="ecdh"), TinyCollaborator(tmp_path)
    done = simulate(host, [bob], task_id="tiny")
    card = json.loads(export(tmp_path / "tiny/alice", tmp_path / "out").read_text())
    assert (card["task"], card["feature_key"], card["rounds"]) == ("tiny", "alice", 2)
    assert card["run"] == done.results["bob"].run
    assert set(card["halves"]) == {"feature_model", "infer_model"}
    assert card["halves"]["feature_model"]["tensors"] == {
        "weight": {"shape": [3, 2], "dtype": "float32"},
        "bias": {"shape": [3], "dtype": "float32"},
    }
    assert set(card["metrics"]) == {"quality", "train"}
    assert card["metrics"]["quality"]["round"] == "2"
    for half in card["halves"].values():
        raw = (tmp_path / "out" / half["file"]).read_bytes()
        assert hashlib.sha256(raw).hexdigest() == half["sha256"]

    export(tmp_path / "tiny/bob", tmp_path / "theirs")
    assert {each.name for each in (tmp_path / "theirs").iterdir()} == {
        "card.json",
        "feature_model.safetensors",
    }
    read = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "theirs")],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == bob.feature_model(torch.ones(1, 3)).tolist()


def test_the_card_of_the_best_models(tmp_path: Path) -> None:
    class Marking(TinyHost):
        def on_round_end(self) -> None:
            scores.append(self.get_metrics("quality").last_of(self.current_round))

        def is_task_finished(self) -> bool:
            if self.current_round == 2:
                self.mark_best()
            return self.current_round == 4

    scores: list[Any] = []
    host = Marking(tmp_path, psi_protocol="ecdh", log_rounds=1)
    simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny")
    for models, rounds in (("best", 2), ("last", 4)):
        out = tmp_path / models
        card = json.loads(export(tmp_path / "tiny/alice", out, models=models).read_text())  # type: ignore[arg-type]
        assert (card["models"], card["rounds"]) == (models, rounds)
        assert card["metrics"]["quality"] == {
            key: str(value) for key, value in scores[rounds - 1].items()
        }
        assert card["metrics"]["train"]["round"] == str(rounds)
        theirs = json.loads(export(tmp_path / "tiny/bob", out, models=models).read_text())  # type: ignore[arg-type]
        assert theirs["rounds"] == rounds


class Headed(TinyHost):
    """Holds a head and a learnt factor beside its models."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **settings)
        self.heads = {"first": nn.Linear(1, 1)}
        self.factor = nn.Parameter(torch.tensor(2.0))


def test_modules_beside_the_models_are_exported_too(tmp_path: Path) -> None:
    host = Headed(tmp_path, psi_protocol="ecdh", max_rounds=1)
    simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny")
    card = json.loads(export(tmp_path / "tiny/alice", tmp_path / "out").read_text())
    saved = load_file(tmp_path / "out" / card["halves"]["extra_modules"]["file"])
    assert saved.keys() == {
        "self.factor",
        "self.heads['first'].weight",
        "self.heads['first'].bias",
    }
    assert torch.equal(saved["self.heads['first'].weight"], host.heads["first"].weight)


def test_a_horizontal_model(tmp_path: Path) -> None:
    """The Host and each party have the same one."""
    parties = [horizontal.Party(tmp_path, key, number) for number, key in enumerate("ab")]
    host = horizontal.host(tmp_path, 2, 2)
    done = simulate(host, parties, task_id="tiny")
    for result in done.results.values():
        out = tmp_path / f"{result.party} exported"
        card = json.loads(export(result.folder, out).read_text())
        saved = load_file(out / card["halves"]["model"]["file"])
        expected = torch.load(result.folder / "model.pt", weights_only=True)
        assert saved.keys() == expected.keys() == {"weight", "bias"}
        assert all(torch.equal(saved[name], each) for name, each in expected.items())


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no run that has ended well"):
        export(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    simulate(TinyHost(tmp_path, psi_protocol="ecdh"), [TinyCollaborator(tmp_path)], task_id="tiny")
    with pytest.raises(ConfigError, match="holds no best models"):
        export(tmp_path / "tiny/bob", tmp_path / "out", models="best")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigError, match=r"heterofed\[export\]"):
        export(tmp_path / "tiny/bob", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"heterofed\[onnx\]"):
        export_onnx(nn.Linear(3, 4), torch.ones(2, 3), tmp_path / "half.onnx")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.ReLU())
    path = export_onnx(model, rows(["id-001", "id-002"], 3, 0), tmp_path / "half.onnx")
    assert all(each.training for each in model.modules())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    some = rows([f"id-{each:03}" for each in range(7)], 3, 1)
    (name,) = (each.name for each in session.get_inputs())
    (found,) = session.run(None, {name: some.numpy()})
    torch.testing.assert_close(torch.tensor(found), model.eval()(some))

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(ConfigError, match="cannot be written as ONNX"):
        export_onnx(Odd(), torch.ones(2, 3), tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()
