"""What wraps a half leaves no trace in files: they load into the plain half and the wrapped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from heterofed import simulate
from heterofed.compute.wrappers import plain_state, state_for, unwrapped
from heterofed.export import export, export_onnx
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run
from tests.runs.test_resume import crashing, weights

pytestmark = pytest.mark.usefixtures("home")


class Tricky(nn.Module):
    """Has attributes that are called as wrappers call theirs."""

    def __init__(self, columns: int, norm: type[nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.module = nn.Linear(columns, 4)
        self._module = norm(4)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self._module(self.module(inputs))
        return found


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def compiled_within(module: nn.Module) -> nn.Module:
    module.module = compiled(module.module)  # type: ignore[arg-type]
    return module


WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "both": lambda module: nn.DataParallel(compiled(module)),
    "opacus": lambda module: GradSampleModule(module, strict=False),
    "within": compiled_within,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_names_are_those_of_the_plain_module(wrap: Callable[[Any], nn.Module]) -> None:
    norm = nn.LayerNorm if wrap is WRAPPERS["opacus"] else nn.BatchNorm1d  # it knows no buffers

    def made() -> nn.Module:
        return wrap(Tricky(3, norm))

    wrapped, plain = made(), Tricky(3, norm)
    state = plain_state(wrapped)
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    again = made()
    again.load_state_dict(state_for(again, state))
    also = made()
    also.load_state_dict(state_for(also, wrapped.state_dict()))  # as older runs had it
    for name, tensor in wrapped.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert torch.equal(tensor, also.state_dict()[name])
    assert isinstance(unwrapped(wrapped), Tricky)


class Host(TinyHost):
    batch = 11  # no batch of one row
    wrap: Callable[[Any], nn.Module] = staticmethod(lambda module: module)

    def make_feature_model(self) -> nn.Module:
        return self.wrap(Tricky(2))

    def make_infer_model(self) -> nn.Module:
        return self.wrap(nn.Linear(8, 1))

    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.infer_model(torch.cat(list(feature_projection.values()), dim=1))
        return found.squeeze(1)


class Collaborator(TinyCollaborator):
    batch = 11  # no batch of one row
    wrap: Callable[[Any], nn.Module] = staticmethod(lambda module: module)

    def make_feature_model(self) -> nn.Module:
        return self.wrap(Tricky(3))


def plain(module: nn.Module) -> nn.Module:
    return module


def simulated(folder: Path, wrap: Callable[[Any], nn.Module], task_id: str) -> list[Any]:
    host, bob = pair(folder, wrap)
    return list(simulate(host, [bob], task_id=task_id).results.values())


def pair(folder: Path, wrap: Callable[[Any], nn.Module], **settings: Any) -> tuple[Any, Any]:
    host = Host(folder, psi_protocol="ecdh", **{"max_rounds": 3, **settings})
    bob = Collaborator(folder)
    host.wrap = bob.wrap = wrap
    return host, bob


@pytest.mark.slow
def test_a_run_goes_on_without_its_wrapper(tmp_path: Path) -> None:
    whole = simulated(tmp_path, plain, task_id="whole")
    host, bob = pair(tmp_path, nn.DataParallel)
    run(host, crashing(bob, "on_round_end", 2))
    host, bob = pair(tmp_path, nn.DataParallel)
    bob.wrap = plain
    results = run(host, bob)
    expected, now = weights(*whole), weights(*results)
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[each], expected[each]) for each in expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the compiler
def test_files_of_compiled_halves_fit_plain_ones(tmp_path: Path) -> None:
    """In one thread: two that compile at once are too much for torch."""
    expected = weights(*simulated(tmp_path, plain, task_id="whole"))
    now = weights(*simulated(tmp_path, compiled, task_id="tiny"))
    assert now.keys() == expected.keys()
    for name, tensor in now.items():
        torch.testing.assert_close(tensor, expected[name])

    from safetensors.torch import load_file

    export(tmp_path / "tiny/bob", tmp_path / "out")
    half = Tricky(3)
    half.load_state_dict(load_file(tmp_path / "out/feature_model.safetensors"))
    export_onnx(compiled(half), torch.ones(4, 3), tmp_path / "half.onnx")

    frames = []
    for wrap in (plain, nn.DataParallel):
        host, bob = pair(tmp_path, wrap)
        served = threading.Thread(
            target=bob.serve_predictions,
            args=("tiny",),
            kwargs={"max_rows_per_day": 1000, "requests": 1},
            daemon=True,
        )
        served.start()
        frames.append(host.predict("tiny", ids=IDS[20:30]))
        served.join(60)
    assert frames[0].equals(frames[1])
