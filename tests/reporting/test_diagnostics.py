"""What only measures or shows never ends a run, whatever it meets: the models come out the same."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.progress import Progress
from torch import nn, optim

from heterofed.hetero_nn import feature_means
from heterofed.hetero_nn.train import collaborator_guard, guard, host_guard, joint_batch
from heterofed.metrics import Metrics
from heterofed.privacy import findings, input_attacks, label_attacks, leakage
from heterofed.reporting import console, costs, egress, progress
from heterofed.reporting.task_result import TaskResult
from heterofed.runs import lifecycle
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run
from tests.runs.test_resume import weights

pytestmark = pytest.mark.usefixtures("home")


class InjectedError(Exception):
    """A fault whose text is a secret."""


def fail(*_: Any, **__: Any) -> Any:
    raise InjectedError("secret row 42")


def methods(cls: type) -> list[tuple[Any, str]]:
    """Everything that can be called on a class from outside, properties too."""
    own = {name: each for name, each in vars(cls).items() if not name.startswith("_")}
    called = {"__call__"} & vars(cls).keys()
    return [(cls, name) for name in [*called, *own] if _is_code(vars(cls)[name])]


def functions(module: ModuleType) -> list[tuple[Any, str]]:
    found = inspect.getmembers(module, inspect.isfunction)
    return [(module, name) for name, each in found if each.__module__ == module.__name__]


def _is_code(member: object) -> bool:
    return inspect.isfunction(member) or isinstance(member, property)


ENTRY_POINTS: list[tuple[Any, str]] = [
    *methods(costs.Account),
    *methods(egress.Egress),
    *methods(leakage.Budget),
    *methods(leakage.LabelLeaks),
    *methods(leakage.InputLeaks),
    *methods(findings.Leak),
    *[(each, "__init__") for each in (leakage.Budget, leakage.LabelLeaks, leakage.InputLeaks)],
    (findings, "worst_of"),
    *[(leakage, name) for _, name in functions(label_attacks) if hasattr(leakage, name)],
    *[(leakage, name) for _, name in functions(input_attacks) if hasattr(leakage, name)],
    (guard, "worst_of"),
    (host_guard, "some_rows"),
    (collaborator_guard, "some_rows"),
    (host_guard.HostGuard, "note"),
    (host_guard.HostGuard, "measured_part"),
    (collaborator_guard.CollaboratorGuard, "note"),
    (feature_means.FeatureMeans, "_add_small"),
    (lifecycle, "write_costs"),
    (lifecycle, "write_egress"),
    (lifecycle, "mention_verdict"),
    (TaskResult, "note"),
    (TaskResult, "summary"),
    (TaskResult, "to_dict"),
    (console, "_log"),
    (console, "_handler"),
    (console, "_view"),
    (Metrics, "last_of"),
]


def parties(folder: Path, **settings: Any) -> tuple[TinyHost, TinyCollaborator]:
    return (
        TinyHost(folder, max_rounds=1, psi_protocol="ecdh", leak_report="full", **settings),
        TinyCollaborator(folder, leak_report="full"),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        return weights(*done(*run(*parties(folder))))


def done(*outcomes: Any) -> list[TaskResult]:
    for each in outcomes:
        if isinstance(each, BaseException):
            raise AssertionError(f"ended by {each!r}") from each
    return list(outcomes)


def assert_same(outcomes: list[Any], expected: dict[str, torch.Tensor]) -> None:
    now = weights(*done(*outcomes))
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[name], expected[name]) for name in expected)


def says_failed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each for each in caplog.messages if "InjectedError" in each]


@pytest.mark.long
@pytest.mark.parametrize(
    ("owner", "name"), ENTRY_POINTS, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_a_fault_at_each_entry_point_costs_a_row_and_a_line(
    owner: Any,
    name: str,
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    called: list[int] = []

    def failing(*_: Any, **__: Any) -> Any:
        called.append(1)
        fail()

    is_property = isinstance(vars(owner).get(name), property)
    monkeypatch.setattr(owner, name, property(failing) if is_property else failing)
    outcomes = run(*parties(tmp_path))
    monkeypatch.undo()
    assert_same(outcomes, undisturbed)
    said = says_failed(caplog)
    assert len(said) <= 2 * len(set(said))  # once at each party
    assert bool(said) == bool(called)
    assert "secret" not in caplog.text
    for each in outcomes:
        assert (each.folder / "summary.json").exists()
        assert not (each.folder / "resume").exists()


@pytest.mark.slow
def test_faults_at_all_entry_points_at_once(
    tmp_path: Path,
    undisturbed: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for owner, name in ENTRY_POINTS:
        if name != "__init__":
            is_property = isinstance(vars(owner).get(name), property)
            monkeypatch.setattr(owner, name, property(fail) if is_property else fail)
    outcomes = run(*parties(tmp_path))
    monkeypatch.undo()
    assert_same(outcomes, undisturbed)
    assert len(says_failed(caplog)) >= 10
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("owner", "name"), methods(progress.Bars), ids=str)
def test_a_fault_of_the_bar(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda _: False)
    monkeypatch.setattr(owner, name, fail)
    from heterofed.events import PhaseBegan

    start, started = Progress.start, set[Progress]()

    def noted(each: Progress) -> None:
        started.add(each)
        start(each)

    monkeypatch.setattr(Progress, "start", noted)
    with console.attached() as show:
        show(PhaseBegan("train"))
        show(PhaseBegan("test"))
    for each in started:
        each.stop()  # or its thread writes on into the stderr of other tests
    assert len(says_failed(caplog)) == 1


@pytest.mark.slow
def test_a_callback_that_raises_and_equals_everything(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    class Strange:
        def __call__(self, _event: object) -> None:
            fail()

        def __eq__(self, _other: object) -> bool:
            fail()
            return True

        __hash__ = None  # type: ignore[assignment]

    seen: list[Any] = []
    callbacks = [seen.append, Strange(), Strange(), seen.append]
    assert_same(run(*parties(tmp_path, callbacks=callbacks)), undisturbed)
    assert sum("a callback raised" in each for each in caplog.messages) == 2
    assert "secret" not in caplog.text
    assert seen
    assert len(seen) % 2 == 0


# -- what measuring meets ---------------------------------------------------------------------


MANY = [f"id-{number:03}" for number in range(400)]


class Half(nn.Module):
    """A half that takes its input in whatever form it comes."""

    def __init__(self, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, 4, dtype=dtype)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dense = inputs.to_dense() if inputs.is_sparse else inputs
        found: torch.Tensor = self.linear(dense.nan_to_num(0.0))
        return found


class AnyHost(TinyHost):
    dtype: torch.dtype

    def load_local_ids(self) -> list[str]:
        return MANY

    def make_feature_model(self) -> nn.Module:
        return Half(2, self.dtype)

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(8, 1, dtype=self.dtype)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 32):
            ids = train_ids[start : start + 32]
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids], dtype=self.dtype)
            yield feature_model(rows(ids, 2, 0).to(self.dtype)), labels


class AnyCollaborator(TinyCollaborator):
    dtype: torch.dtype
    form: Callable[[torch.Tensor], torch.Tensor]

    def load_local_ids(self) -> list[str]:
        return MANY

    def make_feature_model(self) -> nn.Module:
        return Half(3, self.dtype)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), 32):
            inputs = rows(train_ids[start : start + 32], 3, 7).to(self.dtype)
            yield feature_model(self.form(inputs))


def with_nan(inputs: torch.Tensor) -> torch.Tensor:
    inputs[0, 0] = torch.nan
    return inputs


FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dense": lambda inputs: inputs,
    "sparse": lambda inputs: inputs.to_sparse(),
    "nan": with_nan,
    "strided": lambda inputs: inputs.T.contiguous().T,
    "constant": torch.ones_like,
}


def any_run(folder: Path, dtype: torch.dtype, form: str, effort: str) -> list[TaskResult]:
    host = AnyHost(folder, max_rounds=2, psi_protocol="ecdh", leak_report=effort)
    bob = AnyCollaborator(folder, leak_report=effort)
    host.dtype = bob.dtype = dtype
    bob.form = FORMS[form]
    return done(*run(host, bob))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_dtype_is_measured(
    dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at_host, at_bob = any_run(tmp_path, dtype, "dense", "full")
    assert not [each for each in caplog.messages if " failed (" in each]
    table = (at_host.folder / "leakage.csv").read_text()
    assert all(f",{each}," in table for each in ("norm", "cosine", "spectral", "completion"))
    table = (at_bob.folder / "leakage.csv").read_text()
    assert all(f",{each}," in table for each in ("ridge", "distance_correlation", "decoder"))


@pytest.mark.slow
@pytest.mark.parametrize("form", [each for each in FORMS if each != "dense"])
def test_each_form_of_input_trains_on(form: str, tmp_path: Path) -> None:
    measured = any_run(tmp_path / "full", torch.float32, form, "full")
    without = any_run(tmp_path / "off", torch.float32, form, "off")
    expected = weights(*without)
    assert all(torch.equal(each, expected[name]) for name, each in weights(*measured).items())
    table = (measured[1].folder / "leakage.csv").read_text() if form != "sparse" else ""
    assert "nan" not in table


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "meta"), (torch.float16, "cpu")])
def test_attacks_do_not_hang_on_the_defaults_of_the_process(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.set_default_dtype`, `set_default_device`, `no_grad` are the user's to set."""
    before = torch.get_default_dtype()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, generator=generator)
    labels = torch.arange(100) % 3

    def measure() -> list[float]:
        return [
            *label_attacks.norm_leak(x, labels).tolist(),
            len(label_attacks.cosine_leak(x, labels)),
            *label_attacks.spectral_leak(x, labels).tolist(),
            label_attacks.model_completion(x, labels).auc,
            input_attacks.ridge_reconstruction(x, x @ x[:3]).r2,
            input_attacks.decoder_reconstruction(x, x @ x[:3]).r2,
        ]

    expected = measure()
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        with torch.no_grad():
            assert measure() == pytest.approx(expected, abs=0.02)
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device("cpu")
        torch.set_default_device(None)


@pytest.mark.slow
def test_a_model_that_is_measured_can_be_copied_and_pickled(tmp_path: Path) -> None:
    copies: list[nn.Module] = []

    class Averages(TinyCollaborator):
        def on_round_end(self) -> None:
            copies.append(copy.deepcopy(self.feature_model))
            copies.append(optim.swa_utils.AveragedModel(self.feature_model))
            copies.append(pickle.loads(pickle.dumps(self.feature_model)))

    done(*run(TinyHost(tmp_path, psi_protocol="ecdh"), Averages(tmp_path)))
    for each in copies:
        assert each(torch.ones(1, 3)).shape == (1, 4)


def test_what_cannot_be_written_is_a_missing_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Takes(TinyHost):
        def on_round_end(self) -> None:
            for name in ("comm.csv", "outbound.csv", "leakage.csv"):
                path = tmp_path / "tiny" / "alice" / name
                if path.is_file():
                    path.unlink()
                path.mkdir(exist_ok=True)

    alice = Takes(tmp_path, psi_protocol="ecdh", leak_report="full")
    at_host, _ = done(*run(alice, TinyCollaborator(tmp_path)))
    said = [each for each in caplog.messages if " failed (" in each]
    assert sorted(each.split()[0] for each in said) == ["comm.csv", "leakage.csv", "outbound.csv"]
    assert set(at_host.models) == {"feature_model", "infer_model"}


@pytest.mark.slow
def test_what_protects_still_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_guard.HostGuard, "outgoing", fail)
    at_host, at_bob = run(*parties(tmp_path))
    assert type(at_host) is InjectedError
    assert isinstance(at_bob, BaseException)
    monkeypatch.undo()
    monkeypatch.setattr(guard.Guard, "note_counts", fail)
    assert type(run(*parties(tmp_path), task="counts")[0]) is InjectedError


def test_gather_notes_nothing_where_it_cannot() -> None:
    with pytest.raises(KeyError) as caught, joint_batch.telling_what_came({"a": object()}):
        raise KeyError("mine")
    assert caught.value.args == ("mine",)
