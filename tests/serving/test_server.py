"""The HTTP server of a Host, with a Collaborator behind it, in this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from heterofed import ConfigError, simulate, simulate_prediction
from heterofed.hetero_nn.serve.collaborator import serve_rows
from heterofed.hetero_nn.serve.serve_limits import ServeLimits
from heterofed.serving.server import ServedTask, Server, token_of
from heterofed.transport.http.server import listening
from tests.e2e.tiny import IDS
from tests.hetero_nn.served import Serves
from tests.hetero_nn.test_prediction import Collaborator, Host

TOKEN = "a-token-of-some-length"
PREDICT = "/v1/models/tiny:predict"


class Given(Host):
    """Takes its columns from requests."""

    def read_columns(self, columns: dict[str, list[Any]]) -> Any:
        import torch

        return torch.tensor([columns["x"], columns["y"]], dtype=torch.float32).T

    def read_ids(self, ids: list[str]) -> list[str]:
        return [each.lower() for each in ids if each != "odd"]


class Site:
    """A server that serves, with a caller."""

    def __init__(self, results: Path) -> None:
        simulate(Host(results), [Collaborator(results)], task_id="tiny")
        self.results = results
        task = ServedTask(scheduler=Given(results), task_id="tiny", token=TOKEN)
        self.server = Server([task], port=0, deadline=20, max_bytes=4000, max_rows=50)
        self.stop = threading.Event()
        limits = ServeLimits(max_rows_per_day=38)
        self.links = [
            Serves(self.server.run),
            Serves(serve_rows, Collaborator(results), "tiny", limits, stop=self.stop),
        ]
        base = self.server.url("tiny").removesuffix(PREDICT)
        self.port = int(base.rpartition(":")[2])
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.caller = httpx.Client(base_url=base, headers=headers, timeout=30)

    def ask(self, *ids: str, **body: Any) -> httpx.Response:
        return self.caller.post(PREDICT, json={"ids": list(ids), **body})

    def wait(self) -> None:
        ends = time.monotonic() + 60
        while self.caller.get("/readyz").status_code != 200:
            assert time.monotonic() < ends
            time.sleep(0.05)

    def end(self) -> None:
        self.stop.set()
        self.caller.close()
        self.server.stop()
        for each in self.links:
            each.join()
            assert each.error is None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("h")
        home.chmod(0o700)
        patch.setenv("HETEROFED_HOME", str(home))
        made = Site(tmp_path_factory.mktemp("runs"))
        made.wait()
        yield made
        made.end()


@pytest.mark.slow
def test_rows_by_http(site: Site) -> None:
    ids = IDS[20:23]
    answer = site.ask(*ids)
    assert answer.status_code == 200
    found = answer.json()
    wanted = simulate_prediction(
        Host(site.results), [Collaborator(site.results)], task_id="tiny", ids=ids
    ).results["alice"]
    assert found["predictions"]["prediction"] == pytest.approx(list(wanted["prediction"]), abs=1e-6)
    assert (found["model"], found["ids"], found["parties"]) == ("tiny", ids, ["alice+bob"] * 3)
    assert found["version"] == site.caller.get("/readyz").json()["version"]


def test_read_columns_takes_own_columns_of_now(site: Site) -> None:
    before = site.ask("id-020").json()["predictions"]["prediction"][0]
    after = site.ask("id-020", columns={"x": [9.0], "y": [-9.0]})
    assert after.status_code == 200
    assert after.json()["predictions"]["prediction"][0] != before
    bad = site.ask("id-020", columns={"x": [9.0]})
    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "failed")
    assert site.ask("id-020").json()["predictions"]["prediction"][0] == before


def test_read_ids_takes_ids_as_callers_write_them(site: Site) -> None:
    plain = site.ask("id-020", "id-021").json()
    found = site.ask("ID-020", "id-021").json()
    assert found["predictions"] == plain["predictions"]
    assert found["ids"] == ["ID-020", "id-021"]
    assert site.ask("NOBODY", "ID-020").status_code == 404
    bad = site.ask("odd", "id-020")  # for which the hook returns nothing
    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "failed")


def test_what_is_not_served(site: Site) -> None:
    unknown = site.ask("nobody", "id-020")
    assert unknown.status_code == 404
    assert "nobody" not in unknown.text
    assert site.ask(*(["id-020"] * 51)).status_code == 413
    assert site.caller.post(PREDICT, content=b"{").status_code == 400
    assert site.caller.get(PREDICT).status_code == 405
    other = site.caller.post("/v1/models/other:predict")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}])
def test_nobody_asks_without_the_token(site: Site, header: dict[str, str]) -> None:
    base = site.caller.base_url
    for method, path in (("POST", PREDICT), ("GET", "/metrics")):
        answer = httpx.request(method, f"{base}{path}", headers=header, json={"ids": ["id-020"]})
        assert answer.status_code == 401
    assert httpx.get(f"{base}/healthz").status_code == 200


def test_limits_are_told_with_a_time_to_come_again(site: Site) -> None:
    assert site.ask(*IDS[10:14]).status_code == 200
    refused = site.ask(*IDS[10:50])
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 86_400
    assert site.ask(*IDS[10:14]).status_code == 200  # these are kept


def test_bodies_that_are_too_large_or_never_end(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as caller:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        caller.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())
        assert b"413" in caller.recv(4096).splitlines()[0]
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as caller:
        caller.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 100_000_000:
                caller.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
        except OSError:
            pass
        assert sent < 50_000_000
    assert site.ask("id-020").status_code == 200


@pytest.mark.slow
@pytest.mark.long
def test_a_connection_without_a_request_is_closed(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as caller:
        caller.sendall(b"POST /v1")
        assert caller.recv(100) == b""


def test_metrics_and_description(site: Site) -> None:
    site.ask("id-020")
    text = site.caller.get("/metrics").text
    assert 'heterofed_serving_requests_total{code="ok",model="tiny"}' in text
    assert 'heterofed_serving_ready{model="tiny"} 1.0' in text
    assert "id-020" not in text
    assert PREDICT in site.caller.get("/openapi.json").json()["paths"]


def test_a_token_is_made_once_or_given(tmp_path: Path) -> None:
    folder = tmp_path / "serving"
    first = token_of(folder)
    assert len(first) > 40
    assert token_of(folder) == first
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    mine = tmp_path / "mine"
    mine.write_text("short\n")
    with pytest.raises(ConfigError, match="give 16"):
        token_of(folder, mine)
    mine.write_text("a token of mine\n" * 2)
    assert token_of(folder, mine).startswith("a token")
    with pytest.raises(ConfigError, match="another file"):
        token_of(folder, tmp_path / "nowhere")


def test_answers_wait_for_no_acknowledgement() -> None:
    """Headers and body are two segments, of which the second would wait for the caller's."""
    with (
        listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as taken,
    ):
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
