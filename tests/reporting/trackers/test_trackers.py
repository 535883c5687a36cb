"""Each tracker, by what its own library reads back of a real run that was interrupted."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from heterofed import simulate
from heterofed.errors import ConfigError
from heterofed.events import Callback, PhaseEnded, RoundEnded, TaskBegan, TaskEnded
from heterofed.reporting.trackers.base import Tracker, library
from heterofed.reporting.trackers.mlflow import MLflow
from heterofed.reporting.trackers.names import TRACKERS, tracker, trackers
from heterofed.reporting.trackers.opentelemetry import OpenTelemetry
from heterofed.reporting.trackers.prometheus import Prometheus
from heterofed.reporting.trackers.tensorboard import TensorBoard
from heterofed.reporting.trackers.wandb import WeightsAndBiases
from tests.e2e.tiny import TinyCollaborator, TinyHost

pytestmark = [
    pytest.mark.usefixtures("home"),
    # Of the trackers' own libraries.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
    pytest.mark.filterwarnings("default::ResourceWarning"),
    pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"),
]


class Stops(Exception):
    pass


class StoppingHost(TinyHost):
    """Raises in the second round, after its training."""

    def test(self, **batches: Any) -> None:  # type: ignore[override]
        if self.current_round == 2:
            raise Stops
        super().test(**batches)


def run(folder: Path, *callbacks: Callback, stops: bool = False) -> None:
    """Run the task `t` to its end, or into an error in round 2; goes on where there is one."""
    cls = StoppingHost if stops else TinyHost
    host = cls(folder, max_rounds=3, log_rounds=1, callbacks=callbacks)
    simulate(host, [TinyCollaborator(folder)], task_id="t", resume="auto")


def interrupted(folder: Path, *callbacks: Callback) -> None:
    with pytest.raises(Stops):
        run(folder, *callbacks, stops=True)


class Notes(Tracker):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def begin(self, task: TaskBegan) -> None:
        self.seen.append(task)

    def take(self, event: object) -> None:
        self.seen.append(event)

    def end(self, error: str | None) -> None:
        self.seen.append(f"end {error}")


@pytest.mark.slow
def test_a_tracker_hears_of_the_task_first_and_of_its_end_last(tmp_path: Path) -> None:
    notes = Notes()
    interrupted(tmp_path, notes)
    first, joined = notes.seen[0], notes.seen[2]
    assert isinstance(first, TaskBegan)
    assert (first.task_id, first.party, first.host) == ("t", "alice", "alice")
    assert (first.collaborators, first.folder) == (("bob",), tmp_path / "t" / "alice")
    assert len(bytes.fromhex(first.run)) == 16
    assert isinstance(joined, PhaseEnded)
    assert joined.phase == "join"
    ends = [notes.seen[-1]]
    run(tmp_path, notes)
    assert [each for each in notes.seen if isinstance(each, TaskBegan)] == [first, first]
    assert [*ends, notes.seen[-1]] == ["end Stops", "end None"]


def test_a_launch_that_never_met_anybody_leaves_nothing() -> None:
    notes = Notes()
    notes(PhaseEnded("join", 1.0, 0, 0))
    notes(TaskEnded("JoinTimeoutError"))
    notes(TaskBegan("t", "a", "a", ("b",), "00" * 16, Path()))
    assert len(notes.seen) == 1


@pytest.mark.slow
@pytest.mark.parametrize("folder", [None, "boards"])
def test_tensorboard_reads_every_round_once(tmp_path: Path, folder: str | None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path / folder if folder else None)
    interrupted(tmp_path, board)
    run(tmp_path, board)
    party = Path("t") / "alice"
    where = tmp_path / folder / party if folder else tmp_path / party / "tensorboard"
    read = EventAccumulator(str(where))
    read.Reload()
    assert [each.step for each in read.Scalars("loss")] == [1, 2, 3]
    assert {"accuracy", "round_seconds", "bytes/sent", "seconds/train"} <= set(
        read.Tags()["scalars"]
    )


@pytest.mark.slow
def test_mlflow_reads_one_run_that_went_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server would take longer to start
    where = (tmp_path / "mlflow").as_uri()
    interrupted(tmp_path, MLflow("loans", where))
    client = MlflowClient(tracking_uri=where)
    experiment = client.get_experiment_by_name("loans")
    assert experiment is not None
    (failed,) = client.search_runs([experiment.experiment_id])
    assert failed.info.status == "FAILED"
    assert failed.data.tags["heterofed.error"] == "Stops"
    run(tmp_path, MLflow("loans", where))
    (done,) = client.search_runs([experiment.experiment_id])
    assert done.info.status == "FINISHED"
    assert done.info.run_name == "t at alice"
    history = client.get_metric_history(done.info.run_id, "loss")
    assert [each.step for each in history] == [1, 2, 3]
    assert "bytes/sent" in done.data.metrics


def records(log: bytes) -> Iterator[bytes]:
    """The records of a W&B file: LevelDB's log format (blocks of 32 KiB) after 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(log):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        whole += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.long
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path, WeightsAndBiases("loans", mode="offline"))
    (file,) = (tmp_path / "t" / "alice" / "wandb").glob("offline-run-*/run-*.wandb")
    from wandb.proto import wandb_internal_pb2 as proto

    steps, names = [], set()
    for data in records(file.read_bytes()):
        record = proto.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            steps.append(record.history.step.num)
            items = record.history.item
            names |= {each.key or ".".join(each.nested_key) for each in items}
        if record.WhichOneof("record_type") == "run":
            assert record.run.run_group == "t"
            assert record.run.job_type == "host"
    assert steps == [1, 2, 3]
    assert {"loss", "accuracy", "bytes/sent"} <= names


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    served = Prometheus(port=0)
    yield served
    served.server.shutdown()
    served.server.server_close()


def scraped(served: Prometheus) -> dict[tuple[str, ...], float]:
    port = served.server.server_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_prometheus_is_asked_over_http(tmp_path: Path, prometheus: Prometheus) -> None:
    interrupted(tmp_path, prometheus)
    run(tmp_path, prometheus)
    found = scraped(prometheus)
    assert found["heterofed_running", "alice", "t"] == 0
    assert found["heterofed_round", "alice", "t"] == 3
    assert found["heterofed_tasks_total", "Stops", "alice", "t"] == 1
    assert found["heterofed_tasks_total", "none", "alice", "t"] == 1
    assert found["heterofed_value", "loss", "alice", "t"] > 0
    assert found["heterofed_phase_seconds_total", "alice", "train", "t"] > 0
    assert found["heterofed_bytes_total", "sent", "alice", "psi", "t"] > 0


@pytest.mark.slow
def test_the_example_dashboard_asks_for_metrics_that_there_are(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    run(tmp_path, prometheus)
    names = {name for name, *_ in scraped(prometheus)}
    root = Path(__file__).resolve().parents[3]
    board = json.loads((root / "docs" / "how-to" / "grafana.json").read_text())
    asked = [each["expr"] for panel in board["panels"] for each in panel["targets"]]
    assert len(asked) >= 6
    for query in asked:
        words = {word for word in _words(query) if word.startswith("heterofed_")}
        assert words, query
        assert words <= names | {"heterofed_party_lost_total", "heterofed_waiting"}, query


def _words(query: str) -> list[str]:
    return "".join(each if each.isalnum() or each == "_" else " " for each in query).split()


@pytest.mark.slow
def test_opentelemetry_has_a_span_for_each_round_within_the_task(tmp_path: Path) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    interrupted(tmp_path, OpenTelemetry(provider))
    spans: dict[str, Any] = {each.name: each for each in kept.get_finished_spans()}
    assert spans["task t"].status.description == "Stops"
    assert spans["train"].parent.span_id == spans["round 2"].context.span_id
    kept.clear()
    run(tmp_path, OpenTelemetry(provider))
    spans = {each.name: each for each in kept.get_finished_spans()}
    task: Any = spans["task t"]
    assert {"join", "resume", "round 2", "round 3", "train", "test", "finish"} <= spans.keys()
    assert spans["join"].parent.span_id == task.context.span_id
    assert spans["round 3"].parent.span_id == task.context.span_id
    assert spans["round 3"].attributes["heterofed.loss"] > 0
    assert spans["train"].end_time > spans["train"].start_time
    assert [each.name for each in task.events] == ["resumed"]


class Broken(Tracker):
    def begin(self, task: TaskBegan) -> None:
        raise RuntimeError("the disk of the tracker is full")

    def take(self, event: object) -> None: ...

    def end(self, error: str | None) -> None: ...


@pytest.mark.slow
def test_a_tracker_that_fails_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    run(tmp_path, Broken(), notes)
    assert notes.seen[-1] == "end None"
    assert sum(isinstance(each, RoundEnded) for each in notes.seen) == 3
    assert [each.getMessage() for each in caplog.records if "callback" in each.getMessage()] == [
        "alice: a callback raised an error (RuntimeError at test_trackers.py:"
        f"{Broken.begin.__code__.co_firstlineno + 1}) and is not called again"
    ]


def test_trackers_are_made_by_name() -> None:
    assert isinstance(tracker("tensorboard"), TensorBoard)
    assert set(TRACKERS) == {"tensorboard", "mlflow", "wandb", "prometheus", "opentelemetry"}
    with pytest.raises(ConfigError, match="give one of tensorboard"):
        tracker("comet")
    with pytest.raises(ConfigError, match="each tracker once"):
        trackers(["mlflow", "mlflow"])


def test_a_missing_library_is_told_by_its_extra() -> None:
    with pytest.raises(ConfigError, match=r"heterofed\[wandb\]"):
        library("no_such_library", "wandb")
