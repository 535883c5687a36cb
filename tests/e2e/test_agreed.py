"""Settings of a layer above: the Host announces them, every party reads and may insist on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heterofed import simulate
from heterofed.errors import ConfigError, JoinRefusedError, OtherSettingsError, ResumeError
from tests.e2e.tiny import TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")

AGREED = {"ids.recipe": "text casefold", "kind": "binary"}


class ReadingHost(TinyHost):
    seen: dict[str, str] | None = None

    def load_local_ids(self) -> list[str]:
        self.seen = self.agreed
        return super().load_local_ids()


class ReadingCollaborator(TinyCollaborator):
    seen: dict[str, str] | None = None

    def load_local_ids(self) -> list[str]:
        self.seen = self.agreed
        return super().load_local_ids()


@pytest.mark.slow
def test_every_party_reads_what_the_host_announces(tmp_path: Path) -> None:
    host = ReadingHost(tmp_path, max_rounds=1, collaborators=2, agreed=AGREED)
    others = [
        ReadingCollaborator(tmp_path, "bob"),
        ReadingCollaborator(tmp_path, "carol", agreed={"kind": "binary"}),
    ]
    assert [each.agreed for each in others] == [{}, {"kind": "binary"}]
    simulate(host, others, task_id="t")
    assert host.seen == AGREED
    assert [each.seen for each in others] == [AGREED, AGREED]


@pytest.mark.parametrize("announced", [{}, {"kind": "counts"}])
def test_a_collaborator_that_insists_on_something_else_ends_the_task_before_it_reads_an_id(
    tmp_path: Path, announced: dict[str, str]
) -> None:
    host = ReadingHost(tmp_path, agreed=announced)
    other = ReadingCollaborator(tmp_path, agreed={"kind": "binary"})
    with pytest.raises(OtherSettingsError, match=r"kind is 'binary' here and .* at alice"):
        simulate(host, [other], task_id="t")
    assert other.seen is None
    assert issubclass(OtherSettingsError, JoinRefusedError)


def test_a_run_goes_on_only_under_the_settings_that_it_began_with(tmp_path: Path) -> None:
    class Stops(TinyHost):
        def is_task_finished(self) -> bool:
            if self.current_round == 1 and self.agreed == AGREED:
                raise RuntimeError("stop here")
            return self.current_round == 2

    def run(agreed: dict[str, str]) -> None:
        host = Stops(tmp_path, agreed=agreed)
        simulate(host, [TinyCollaborator(tmp_path)], task_id="t", resume="auto")

    with pytest.raises(RuntimeError, match="stop here"):
        run(AGREED)
    with pytest.raises(ResumeError, match="agreed was"):
        run({"kind": "counts"})


@pytest.mark.parametrize(
    ("agreed", "words"),
    [
        ("kind=binary", "give a dict"),
        ({"Kind": "binary"}, "'Kind' cannot name"),
        ({"": "x"}, "'' cannot name"),
        ({1: "x"}, "1 cannot name"),
        ({"kind\n": "x"}, "cannot name"),
        ({"kind": 1}, "the value of 'kind'"),
        ({"kind": "two\nlines"}, "on one line"),
        ({"kind": "\ud800"}, "on one line"),
        ({"kind": "x" * 513}, "at most 512"),
        ({f"k{number}": "" for number in range(33)}, "33 settings"),
    ],
)
@pytest.mark.parametrize("party", [TinyHost, TinyCollaborator])
def test_what_cannot_travel_is_refused_before_anything_is_done(
    tmp_path: Path, party: Any, agreed: Any, words: str
) -> None:
    scheduler = party(tmp_path, agreed=agreed)
    with pytest.raises(ConfigError, match=words):
        scheduler.launch_task("t")
    assert not list(tmp_path.iterdir())
