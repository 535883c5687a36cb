"""The command says what an error means in the language of the user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from docs.generator import catalogues
from heterofed.cli import main
from heterofed.cli.language import DOMAIN, LOCALE, explanation, meaning
from heterofed.errors import ConfigError, PeerLostError, aborted
from tests.e2e.processes import ROOT

CHINESE = LOCALE / "zh" / "LC_MESSAGES" / f"{DOMAIN}.po"


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", ["LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"])
def test_the_environment_chooses_the_language(language: pytest.MonkeyPatch, name: str) -> None:
    assert explanation(ConfigError("x")) is None
    language.setenv(name, "zh_CN.UTF-8")
    assert "怎么办" in (explanation(ConfigError("x")) or "")
    language.setenv(name, "fr_FR.UTF-8")
    assert explanation(ConfigError("x")) is None


def test_what_another_party_ended_is_explained_by_its_reason(
    language: pytest.MonkeyPatch,
) -> None:
    language.setenv("LANG", "zh_CN.UTF-8")
    assert explanation(aborted("peer_lost")("x")) == explanation(PeerLostError("x"))
    assert explanation(ValueError("x")) is None


def test_the_command_explains_after_the_message(
    language: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language.setattr(sys, "argv", ["heterofed", "table", "check", "nothing.csv"])
    with pytest.raises(SystemExit) as ended:
        main()
    english = capsys.readouterr().err
    language.setenv("LANG", "zh_CN.UTF-8")
    with pytest.raises(SystemExit) as again:
        main()
    assert ended.value.code == again.value.code == 2
    assert capsys.readouterr().err == english + f"{explanation(ConfigError())}\n"


def test_every_error_is_in_the_catalogue_and_most_are_translated() -> None:
    with CHINESE.open("rb") as file:
        found = read_po(file)
    texts = {meaning(each) for each in catalogues.error_classes()}
    assert {each.id for each in found if each.id} == texts
    ready = [each for each in found if each.id and each.string and not each.fuzzy]
    assert len(ready) >= 0.8 * len(texts)


@pytest.mark.long
def test_a_changed_docstring_is_marked_and_no_longer_shown(
    tmp_path: Path, language: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / CHINESE.relative_to(ROOT).parent
    folder.mkdir(parents=True)
    text = CHINESE.read_text(encoding="utf-8").replace(
        "A setting, file or hook", "A setting or hook"
    )
    (folder / CHINESE.name).write_text(text, encoding="utf-8")
    made = catalogues.stale(tmp_path)
    assert b"#, fuzzy" in made[folder / CHINESE.name]
    compiled = made[folder / f"{DOMAIN}.mo"]
    assert meaning(PeerLostError).encode() in compiled
    assert meaning(ConfigError).encode() not in compiled
