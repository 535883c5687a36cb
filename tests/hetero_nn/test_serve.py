"""Rows served one by one over a standing link are those of a joint prediction."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.relay import Relay
from heterofed import simulate, simulate_prediction
from heterofed.errors import LedgerError, RequestError
from heterofed.hetero_nn.predict.quota import counted_day
from heterofed.hetero_nn.serve import scoring
from heterofed.hetero_nn.serve.agreed_table import kept
from heterofed.hetero_nn.serve.answers import refuse
from heterofed.hetero_nn.serve.partners import Partner
from heterofed.hetero_nn.serve.row_quota import RowQuota, place_of_counts
from heterofed.hetero_nn.serve.scoring import Scorer
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.protocol.codec import encode
from heterofed.protocol.messages import ServeRequest
from tests.e2e.tiny import IDS, rows, run
from tests.hetero_nn.served import Office, log_of
from tests.hetero_nn.test_prediction import ALL, Carol, Collaborator, Host
from tests.identity.offices import free_port, open_offices

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a finished run of two parties."""
    folder = tmp_path_factory.mktemp("trained")
    simulate(Host(folder), [Collaborator(folder)], task_id="tiny")
    return folder


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


class Now(Collaborator):
    """Loads the rows of now, and may take its time."""

    shift, pause = 0.0, 0.0

    def load_features(self, ids: list[str]) -> Any:
        time.sleep(self.pause)
        return rows(ids, 3, 7) + self.shift


@pytest.fixture
def start(home: Path, results: Path) -> Iterator[Any]:
    """Starts a Host and a Collaborator that serve; they are stopped after the test."""
    open_offices(home, plan=["max_rounds=2", "psi_protocol=ecdh"])
    made: list[Office] = []

    def begin(bob: Any = None, limits: ServeLimits | None = None, **settings: Any) -> Office:
        limits = limits or ServeLimits(max_rows_per_day=10_000)
        made.append(Office(Host(results), [bob or Collaborator(results)], limits, **settings))
        return made[-1]

    yield begin
    for office in made:
        office.end()


@pytest.fixture
def office(start: Any) -> Office:
    return start()  # type: ignore[no-any-return]


def refusal(office: Office, *ids: str, **settings: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        office.ask(*ids, **settings)
    return caught.value


def predicted(results: Path, ids: list[str], **settings: Any) -> list[float]:
    done = simulate_prediction(
        Host(results), [Collaborator(results)], task_id="tiny", ids=ids, **settings
    )
    return list(done.results["alice"]["prediction"])


def test_rows_are_those_of_a_prediction(office: Office, results: Path) -> None:
    ids = IDS[20:30][::-1]
    found = office.ask(*ids)
    assert found.columns["prediction"] == pytest.approx(predicted(results, ids), abs=1e-6)
    assert found.parties == ["alice+bob"] * len(ids)
    assert [office.ask(each).columns["prediction"][0] for each in ids] == pytest.approx(
        found.columns["prediction"], abs=1e-6
    )
    office.end()
    assert "id-" not in log_of(results, "bob") + log_of(results, "alice")


def test_ids_that_a_party_lacks(office: Office) -> None:
    error = refusal(office, "id-020", "id-005", "nobody")
    assert (error.code, str(error)[:8]) == ("unknown_ids", "2 of the")
    assert office.ask("id-020").parties == ["alice+bob"]


def test_something_stands_for_rows_that_a_party_lacks(start: Any, results: Path) -> None:
    office = start(missing_party="mean")
    ids = ["id-020", "id-005"]
    found = office.ask(*ids)
    assert found.parties == ["alice+bob", "alice"]
    wanted = predicted(results, ids, missing_party="mean")
    assert found.columns["prediction"] == pytest.approx(wanted, abs=1e-6)
    assert refusal(office, "nobody").code == "unknown_ids"


@pytest.mark.slow
def test_the_link_comes_back_and_keeps_its_table(start: Any, results: Path) -> None:
    first = start()
    before = first.ask("id-020")
    bob, alice = results / "tiny/bob/serving", results / "tiny/alice/serving"
    tables = [(each / "table.msgpack").stat().st_mtime_ns for each in (bob, alice)]
    first.end()
    second = start()
    after = second.ask("id-020")
    assert after == before
    assert len(after.version) == 32
    assert [(each / "table.msgpack").stat().st_mtime_ns for each in (bob, alice)] == tables


def test_a_table_is_for_the_same_ids_on_one_day(
    office: Office, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.ask("id-020")
    folder, own = results / "tiny/bob/serving", sorted(IDS[10:])
    table = kept(folder, own)
    assert table is not None
    assert [own[each] for each in table.rows("alice")] == IDS[10:50]
    assert kept(folder, own[1:]) is None
    monkeypatch.setattr("heterofed.hetero_nn.serve.agreed_table.today", lambda: "2000-01-01")
    assert kept(folder, own) is None


def test_cuts_cost_no_request(home: Path, results: Path) -> None:
    bind = f"tcp://127.0.0.1:{free_port()}"
    with Relay(bind) as relay:
        plan = ["max_rounds=2", "psi_protocol=ecdh"]
        open_offices(home, plan=plan, address=relay.address, bind=bind)
        office = Office(Host(results), [Collaborator(results)])
        wanted = [office.ask(each).columns for each in IDS[20:24]]
        found = []
        for each in IDS[20:24]:
            relay.cut()
            found.append(office.ask_once(each).columns)
        assert found == wanted
        office.end()


# -- limits --------------------------------------------------------------------------------


@pytest.mark.slow
def test_limits_hold_over_restarts_and_what_is_kept_is_free(start: Any, results: Path) -> None:
    limits = ServeLimits(max_rows_per_day=3)
    first = start(limits=limits)
    assert refusal(first, *IDS[20:24]).code == "limit"
    first.ask(*IDS[20:23])
    first.ask(*IDS[20:23])  # these are kept
    error = refusal(first, "id-030")
    assert error.code == "limit"
    assert 0 < (error.retry_after or 0) <= 86_400
    first.ask("id-021")
    first.end()
    second = start(limits=limits)
    assert refusal(second, "id-021").code == "limit"
    counted = json.loads(place_of_counts("tiny", "bob").read_text())
    assert counted["day"]["reserved"] == 3
    second.end()
    lines = list(map(json.loads, log_of(results, "bob").splitlines()))
    assert sum(each["refused"] for each in lines) == 3
    assert sum(each["computed"] for each in lines) == 3


def test_a_kill_has_counted_too_much_and_never_too_little(tmp_path: Path) -> None:
    clock = [1e9]
    path = tmp_path / "served.json"
    limits = {"minute": 100, "day": 1000}
    first = RowQuota(path, limits, lambda: clock[0])
    assert [first.grant(30) for _ in range(3)] == [0, 0, 0]
    wait = first.grant(30)
    assert 0 < wait <= 60
    second = RowQuota(path, limits, lambda: clock[0])  # the first one was killed
    assert second.grant(100 - 90 + 1) > 0
    assert second.grant(100 - 90 - 1) == 0
    clock[0] += 60
    assert second.grant(100) == 0
    assert second.grant(101) == -1
    second.close()
    third = RowQuota(path, limits, lambda: clock[0])
    assert third.grant(1) > 0
    for _ in range(7):
        clock[0] += 60
        assert third.grant(100) == 0
    for hour in range(48):
        clock[0] -= 3600  # a clock that is set back frees nothing
        third.close()
        third = RowQuota(path, limits, lambda: clock[0])
        assert third.grant(100) > hour * 3600


def test_a_refusal_after_the_clock_was_set_back_can_be_sent() -> None:
    said: list[Any] = []
    party: Any = SimpleNamespace(post=lambda _, message: said.append(message))
    request = ServeRequest(0, 1, bytes(32))
    for wait in (-1, 0, 7, 86_401, 10**9):
        refuse(party, party, request, "limit", retry_after=wait)
    for each in said:
        encode(each)  # which decodes it as the peer does
    assert [each.retry_after for each in said] == [0, 0, 7, 86_400, 86_400]


@pytest.mark.slow
def test_a_clock_that_was_set_back_gives_no_further_ids(
    start: Any, results: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ServeLimits(max_rows_per_day=1000, max_ids_per_day=60)
    first = start(limits=limits)
    first.ask("id-020")
    first.end()
    counts = [each.read_text() for each in (home / "budgets").glob("*.json")]
    assert counts
    for module in ("predict.quota", "serve.agreed_table"):
        monkeypatch.setattr(f"heterofed.hetero_nn.{module}.today", lambda: "2001-01-01")
    second = start(limits=limits)
    with pytest.raises(RequestError, match="link"):
        second.ask("id-020", seconds=2)
    assert [each.read_text() for each in (home / "budgets").glob("*.json")] == counts


def test_the_day_of_counted_ids_never_goes_back(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now, day in (("2030-01-05",) * 2, ("2030-01-04", "2030-01-05"), ("2030-02-01",) * 2):
        monkeypatch.setattr("heterofed.hetero_nn.predict.quota.today", lambda now=now: now)
        assert counted_day(home) == day
    (home / "predictions/last-day").write_text("9")
    with pytest.raises(LedgerError, match="last-day"):
        counted_day(home)


# -- what is kept --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_defended_row_is_counted_once_and_stays_the_same(start: Any, results: Path) -> None:
    defence = ClippedGaussian(clip=1.0, noise_multiplier=1.0)
    bob = Now(results, embedding_defence=defence, max_releases_per_row=2, max_epsilon=1e9)
    office = start(bob)
    first = office.ask("id-020", "id-020", "id-021").columns["prediction"]
    assert first[0] == first[1]
    assert office.ask("id-021", "id-020").columns["prediction"] == first[2:0:-1]
    office.end()
    office = start(Now(results, embedding_defence=defence, max_releases_per_row=2))
    assert office.ask("id-020").columns["prediction"][0] != first[0]
    office.end()
    office = start(Now(results, embedding_defence=defence, max_releases_per_row=2))
    assert refusal(office, "id-020").code == "limit"
    office.ask("id-030")


def test_load_features_gives_rows_of_now_that_are_kept_for_a_limited_time(
    start: Any, results: Path
) -> None:
    bob = Now(results)
    office = start(bob, ServeLimits(max_rows_per_day=10, max_age=0))
    before = office.ask("id-020")
    bob.shift = 1.0
    assert office.ask("id-020").columns != before.columns


# -- who breaks the rules ------------------------------------------------------------------


@pytest.mark.slow
def test_a_slow_party_costs_a_request_its_deadline_and_no_more(start: Any, results: Path) -> None:
    bob = Now(results)
    office = start(bob)
    office.ask("id-020")
    bob.pause = 2.0
    began = time.monotonic()
    assert refusal(office, "id-021", seconds=0.5).code == "deadline"
    assert time.monotonic() - began < 1.5
    bob.pause = 0.0
    assert office.ask("id-022").parties == ["alice+bob"]


@pytest.mark.slow
def test_a_lookup_that_hangs_delays_no_other(start: Any, results: Path) -> None:
    bob = Now(results)
    office = start(bob, ServeLimits(max_rows_per_day=10, load_timeout=0.5))
    office.ask("id-020")
    bob.pause = 3.0
    assert refusal(office, "id-021").code == "late"
    began = time.monotonic()
    assert refusal(office, "id-022").code == "late"
    assert office.ask("id-020").parties == ["alice+bob"]  # it is kept
    assert time.monotonic() - began < 2
    bob.pause = 0.0
    time.sleep(3)
    office.ask("id-021")


def test_a_hook_that_fails_is_refused_and_the_link_stays(start: Any, results: Path) -> None:
    bob = Now(results)
    office = start(bob)
    office.ask("id-020")
    bob.shift = "no number"  # type: ignore[assignment]
    error = refusal(office, "id-021")
    assert error.code == "failed"
    assert "number" not in str(error)
    bob.shift = 0.0
    office.ask("id-021")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code"), [("rows", "unavailable"), ("version", "other_version")])
def test_a_host_that_asks_for_what_it_was_not_promised(
    start: Any, results: Path, what: str, code: str
) -> None:
    office = start()
    office.ask("id-020")
    honest = Scorer._ask

    def ask(scorer: Scorer, partner: Partner, places: np.ndarray[Any, Any]) -> None:
        version = bytes(32) if what == "version" else partner.version
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                scoring, "ServeRequest", lambda at, count, _: ServeRequest(at, count, version)
            )
            honest(scorer, partner, places + 1000 * (what == "rows"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "_ask", ask)
        with pytest.raises(RequestError) as caught:
            office.ask_once("id-021")
    assert caught.value.code == code
    assert office.ask("id-021").parties == ["alice+bob"]  # it comes back, or has stayed


@pytest.mark.slow
def test_a_party_that_answers_in_another_form(start: Any, results: Path) -> None:
    class Wide(Now):
        is_wide = False

        def make_feature_model(self) -> Any:
            inner = super().make_feature_model()
            outer = self

            class Half(type(inner)):  # type: ignore[misc]
                def forward(self, x: Any) -> Any:
                    out = super().forward(x)
                    return torch.cat([out, out], 1) if outer.is_wide else out

            inner.__class__ = Half
            return inner

    bob = Wide(results)
    bob.is_wide = True
    office = start(bob)
    while not office.queue.version:
        time.sleep(0.05)
    with pytest.raises(RequestError) as caught:
        office.ask_once("id-021")
    assert caught.value.code == "unavailable"
    bob.is_wide = False
    office.ask("id-021")


def test_many_callers_at_once(office: Office) -> None:
    office.ask("id-020")
    found: dict[str, float] = {}

    def call(id_: str) -> None:
        found[id_] = office.ask(id_).columns["prediction"][0]

    threads = [threading.Thread(target=call, args=[each]) for each in IDS[10:50]]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    together = office.ask(*found).columns["prediction"]
    assert list(found.values()) == pytest.approx(together, abs=1e-6)


@pytest.mark.slow
def test_rows_of_a_joint_intersection_are_served(home: Path, tmp_path: Path) -> None:
    """Pairwise intersections were hidden in the training, and a request shows who has a row."""
    open_offices(home, ALL, plan=["max_rounds=2", "psi_protocol=ecdh"])
    results = run(Host(tmp_path, collaborators=ALL), Carol(tmp_path), Collaborator(tmp_path))
    assert not any(isinstance(each, BaseException) for each in results), results
    others = [Carol(tmp_path), Collaborator(tmp_path)]
    office = Office(Host(tmp_path, collaborators=ALL), others, ServeLimits(max_rows_per_day=100))
    assert office.ask("id-020").parties == ["alice+carol+bob"]
    office.end()
