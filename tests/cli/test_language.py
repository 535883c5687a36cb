"""The command speaks the language of the user: its help, and what an error means."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from babel.messages.pofile import read_po
from click.testing import CliRunner
from rich.cells import cell_len

from docs.generator import catalogues
from heterofed.cli import main
from heterofed.cli.app import cli
from heterofed.cli.language import (
    CLICK,
    DOMAIN,
    LOCALE,
    VARIABLE,
    explanation,
    help_text,
    meaning,
    parts,
    users_language,
)
from heterofed.cli.said import say_error
from heterofed.cli.sentences import translated
from heterofed.errors import ConfigError, PeerLostError, aborted
from heterofed.tabular.ids import IdRecipe
from heterofed.tabular.ids.advice import overlap_advice
from tests.e2e.processes import ROOT

CHINESE = LOCALE / "zh" / "LC_MESSAGES" / f"{DOMAIN}.po"


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (VARIABLE, "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
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


def test_the_command_says_an_error_in_the_language_of_the_user(
    language: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language.setattr(sys, "argv", ["heterofed", "table", "check", "nothing.csv"])
    language.setenv("LANG", "zh_CN.UTF-8")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "错误：没有文件 nothing.csv\n"


@pytest.mark.parametrize(
    "text",
    [
        "host has 600 ids and none of them is common to all parties; compare how the parties write"
        " their ids (spaces, case, leading zeros)",
        "host says that no id is common to all parties; compare how the parties write their ids"
        " (spaces, case, leading zeros)",
        "5001 rows are asked of shop, 0 were predicted today (UTC) and max_rows_per_day is 5000;"
        " ask for fewer rows, wait until tomorrow, or raise the quota there",
        "this party's own part of the intersection failed: 1; start all parties again",
    ],
)
def test_what_ends_a_task_has_no_english_sentence_left(
    language: pytest.MonkeyPatch, text: str
) -> None:
    language.setenv("LANG", "zh_CN.UTF-8")
    said = translated(text)
    kept = {"host", "shop", "ID", "UTC", "max_rows_per_day"}
    assert set(re.findall(r"[A-Za-z_]+", said)) <= kept
    assert set(re.findall(r"\d+", text)) == set(re.findall(r"\d+", said))


@pytest.mark.parametrize(("label", "begins"), [("note", "注意："), ("warning", "警告：")])
def test_a_label_stays_before_its_sentence(
    language: pytest.MonkeyPatch, label: str, begins: str
) -> None:
    language.setenv("LANG", "zh_CN.UTF-8")
    sentence = overlap_advice(500, 600, 501, IdRecipe())
    assert translated(sentence) != sentence
    assert translated(f"{label}: {sentence}") == begins + translated(sentence)


def test_an_error_without_a_translation_is_explained(
    language: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language.setenv("LANG", "zh_CN.UTF-8")
    say_error("ConfigError", "qwerty", explanation(ConfigError()) or "")
    assert capsys.readouterr().err == f"错误：qwerty\n{explanation(ConfigError())}\n"


def test_every_text_is_in_the_catalogue_and_nearly_all_are_translated() -> None:
    with CHINESE.open("rb") as file:
        found = read_po(file)
    texts = {each.id for each in catalogues.extracted() if each.id}
    assert {each.id for each in found if each.id} == texts
    left = catalogues.untranslated(found)
    # A new text may land before its translation; it is shown in English until then.
    assert len(left) <= 0.05 * len(texts), "\n".join(["translate these in heterofed.po:", *left])


def test_a_translation_keeps_what_a_reader_types() -> None:
    help_texts = {*CLICK, *map(help_text, parts(cli))}
    with CHINESE.open("rb") as file:
        for each in read_po(file):
            typed = re.findall(r"--[a-z-]+|\{[^}]+\}|`[^`]+`|\b[A-Z]{4,}\b", str(each.id))
            missing = [word for word in typed if word not in str(each.string)]
            assert each.id not in help_texts or not each.string or not missing, (each.id, missing)


def help_of(*command: str) -> str:
    with users_language(cli):
        return CliRunner().invoke(cli, [*command, "--help"]).output


def commands(group: click.Group, *above: str) -> Iterator[list[str]]:
    """The names of a command and of all in it."""
    yield [*above]
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from commands(each, *above, name)
        else:
            yield [*above, name]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_in_chinese_fits_a_terminal(language: pytest.MonkeyPatch, width: int) -> None:
    language.setenv(VARIABLE, "zh")
    with users_language(cli):
        for command in commands(cli):
            shown = CliRunner().invoke(cli, [*command, "--help"], terminal_width=width).output
            # The name of an option with its choices cannot be broken.
            lines = [each for each in shown.splitlines() if not each.startswith("  -")]
            wide = [line for line in lines if cell_len(line) > width]
            assert wide == [], shown


@pytest.mark.parametrize("command", [[], ["table", "train"], ["serve"], ["keys", "new"]])
def test_the_help_is_in_the_language_of_the_user(
    language: pytest.MonkeyPatch, command: list[str]
) -> None:
    english = help_of(*command)
    language.setenv(VARIABLE, "zh")
    language.setenv("LANGUAGE", "en")
    chinese = help_of(*command)
    assert chinese.startswith("用法：")
    assert "选项" in chinese
    assert "显示此帮助并退出。" in chinese
    language.delenv(VARIABLE)
    language.setenv("LANGUAGE", "en")
    assert help_of(*command) == english


def test_a_wrong_option_is_refused_in_the_language_of_the_user(
    language: pytest.MonkeyPatch,
) -> None:
    language.setenv("LC_ALL", "zh_CN.UTF-8")
    with users_language(cli):
        refused = CliRunner().invoke(cli, ["demo", "--nothing"])
        meant = CliRunner().invoke(cli, ["demo", "--wacht"])
    assert refused.exit_code == 2
    assert "没有选项 '--nothing'" in refused.output
    assert "您是不是想写" in meant.output


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


@pytest.mark.parametrize("chosen", ["", "zh"])
def test_no_list_of_commands_cuts_a_sentence(language: pytest.MonkeyPatch, chosen: str) -> None:
    language.setenv(VARIABLE, chosen)
    environment = dict(os.environ)
    groups = [[], *([name] for name, each in cli.commands.items() if isinstance(each, click.Group))]
    assert len(groups) > 3
    with users_language(cli):
        for group in groups:
            shown = CliRunner().invoke(cli, [*group, "--help"], terminal_width=60).output
            assert "...\n" not in shown.partition("\n\n")[2], shown
    assert dict(os.environ) == environment
