"""The report of a run: whole where it ended, useful where it did not, harmless always."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from heterofed.errors import ConfigError
from heterofed.privacy.findings import LEVELS, Leak
from heterofed.protocol.plan import Plan
from heterofed.report.gather import gather
from heterofed.report.model import RunReport
from heterofed.report.render import FILES, rendered, write_report
from heterofed.report.words import LEVEL_WORDS, PHASES, PLAN, level_of
from tests.report.folders import RUN, finished, table

VOID = {"meta", "path", "circle", "rect", "br"}


class Page(HTMLParser):
    """A page's elements and text, as a browser would find them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "loan-defaults" / "bank")


@pytest.fixture(scope="module")
def report(folder: Path) -> RunReport:
    return gather(folder)


@pytest.fixture(scope="module")
def page(report: RunReport) -> Page:
    return Page(rendered(report))


def page_with(folder: Path, **plan: Any) -> str:
    """The text of the report of a run with another plan."""
    finished(folder)
    status = json.loads((folder / "status.json").read_text())
    status["plan"] |= plan
    (folder / "status.json").write_text(json.dumps(status))
    return Page(rendered(gather(folder))).text


def test_sites_are_shown_with_their_role(tmp_path: Path) -> None:
    others = ["lab", "shop.north", "shop.south"]
    sites = [{"role": "shop", "parties": others[1:]}]
    text = page_with(tmp_path / "loan-defaults" / "bank", collaborators=others, sites=sites)
    assert text.count("Collaborator: has some people's rows, as a site of shop") == 2
    assert text.count("Collaborator: has further columns") == 1
    assert "18,412 rows that all roles have" in text
    assert "all parties have" not in text


def test_the_parties_of_a_horizontal_task_have_rows(tmp_path: Path) -> None:
    text = page_with(tmp_path / "loan-defaults" / "bank", averaging={"fraction": 1.0})
    assert "Host: averages the models" in text
    assert "Collaborator: has rows of its own" in text
    assert "Host: has the labels" not in text


def test_everything_of_a_run_is_gathered(report: RunReport) -> None:
    assert (report.task, report.party, report.run) == ("loan-defaults", "bank", RUN)
    assert report.is_host
    assert report.others == ["shop", "phone"]
    assert report.parties[1].fingerprint.startswith("1c1f")
    assert (report.counts.own, report.counts.common, report.counts.train) == (30000, 18412, 14730)
    assert [one.name for one in report.metrics] == ["test", "train"]
    auc = report.metrics[0].metrics[0]
    assert (auc.name, auc.lowest[0], auc.highest[0]) == ("auc", 1, 20)
    assert report.baselines[0].values.keys() == {"joint", "local", "pooled"}
    assert report.evaluation is not None
    assert report.evaluation.scores[0].low == 0.769
    assert report.leaks[0].worst == max(each.worst for each in report.leaks)
    assert [each.title for each in report.leak_figures] == ["shop", "phone"]
    assert [(each.column, each.value) for each in report.epsilons] == [("eps_labels", 2.0)]
    assert report.defences["gradients"] == "Marvell"
    assert len(report.files[0].sha256) == 64
    assert report.unread == []


def test_the_page_is_whole_and_says_all_of_it(page: Page, report: RunReport) -> None:
    assert not page.open
    for said in (
        "bank trained a model together with shop and phone: 20 rounds on 18,412 rows",
        "shop can guess some of the labels",
        "1c1f 77e0 09ab 5d1c e3f4 8812",
        "at most 7.4 times as likely",
        "Does not cover",
        "Every party proved who it is by its key",
        report.files[0].sha256,
        "6 min 09 s",
        "21 ms",
        "11.2 MB/s",
        "gradients of the other's features",
        "May run until",
    ):
        assert said in page.text, said


def test_the_page_stands_alone_and_can_load_nothing(folder: Path, report: RunReport) -> None:
    text = rendered(report)
    page = Page(text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policies = [each for each in page.all("meta") if each.get("http-equiv")]
    assert policies[0]["content"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    loads = {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"}
    assert not loads & {name for name, _ in page.elements}
    assert not {"src", "srcset", "style", "action"} & {
        key for _, attributes in page.elements for key in attributes
    }
    assert {str(each["href"])[0] for each in page.all("a")} == {"#"}
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert str(folder.parent) not in text


def test_the_page_can_be_used_without_eyes(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(each["href"])[1:] for each in page.all("a")} <= set(ids)
    assert all(each.get("aria-labelledby") in ids for each in page.all("section"))
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(each.get("scope") for each in page.all("th"))
    assert all(
        each.get("aria-hidden") or (each.get("role") == "img" and each.get("aria-label"))
        for each in page.all("svg")
    )


def _hex(colour: str) -> list[float]:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * each for each in digits)
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels
    ]


def _light(colour: str) -> float:
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), _hex(colour), strict=True))


def test_text_has_the_contrast_that_wcag_asks_for(report: RunReport) -> None:
    themes = re.findall(r":root \{(.*?)\}", rendered(report), re.DOTALL)
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", theme))
        for name in ("ink", "soft", "accent", "low", "some", "much", "all"):
            for ground in ("paper", "card"):
                one, other = sorted((_light(colours[name]), _light(colours[ground])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (name, ground)


MARKUP = (
    "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}|`[x](javascript:1)\u202e&"
)


def test_no_string_of_anybody_is_markup(tmp_path: Path) -> None:
    """Every text in every file is one that tries: a peer chooses some, the user others."""
    folder = finished(tmp_path / "run", say=MARKUP)
    (folder / "status.json").write_text(
        json.dumps(
            json.loads((folder / "status.json").read_text())
            | {
                "state": "failed",
                "phase": MARKUP,
                "waiting_for": [MARKUP],
                "error": {"type": MARKUP, "message": MARKUP, "hook": MARKUP},
            }
        )
    )
    table(folder / f"a{MARKUP.replace('/', '')}.csv", ["round", MARKUP], [(1, 0.5), (2, 0.6)])
    table(folder / "broken.csv", ["round", "x"], [("\0", '"')])
    honest = Page(rendered(gather(finished(tmp_path / "honest"))))
    for kind in FILES:
        text = rendered(gather(folder), kind)
        assert "\u202e" not in text
        assert kind == "json" or "<script" not in text
    page = Page(rendered(gather(folder)))
    assert "<script>alert(1)</script>" in page.text  # as text
    assert {name for name, _ in page.elements} <= {name for name, _ in honest.elements} | {"div"}
    keys = {key for _, attributes in page.elements for key in attributes}
    assert not {key for key in keys if key.startswith("on")}
    assert keys == {key for _, attributes in honest.elements for key in attributes}


def test_markdown_of_a_hostile_run_has_no_markup_when_it_is_shown(tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    evil = MARKUP.replace("|", "") + "www.evil.example http://evil.example **bold** __x__ # h"
    folder = finished(tmp_path / "run", say=evil)
    for kind in ("md", "card"):
        text = rendered(gather(folder), kind)
        head, body = text.split("\n---\n", 1) if kind == "card" else ("", text)
        page = Page(markdown.markdown(body, extensions=["tables"]))
        assert {name for name, _ in page.elements} <= {
            *("h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong"),
            *("blockquote",),
        }
        assert "http://" not in body
        assert "www." not in body
        assert "**bold**" in page.text
        if head:
            assert yaml.safe_load(head.removeprefix("---\n"))["model-index"][0]["name"].endswith(
                "h"
            )


def test_a_model_card_has_the_front_matter_of_hugging_face(report: RunReport) -> None:
    _, head, body = rendered(report, "card").split("---\n", 2)
    data = yaml.safe_load(head)
    assert data["library_name"] == "heterofed"
    results = data["model-index"][0]["results"][0]
    assert results["task"]["type"] == "binary"
    assert results["metrics"][0] == {"type": "auc", "name": "auc", "value": 0.786}
    assert body.lstrip().startswith("# loan-defaults")


def test_json_has_the_fields_of_the_report(folder: Path, report: RunReport) -> None:
    data = json.loads(rendered(report, "json"))
    assert data["format"] == 1
    assert data["counts"]["common"] == 18412
    assert data["leaks"][0]["sentence"] == "shop can guess some of the labels"
    path = write_report(folder, "json")
    assert path == folder / "report.json"
    assert json.loads(path.read_text())["run"] == RUN


def test_a_thousand_rounds_are_thinned_and_keep_their_extremes(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", rounds=1000)
    rows = [(n, 1.0 if n != 777 else 9.0) for n in range(1, 1001)]
    table(folder / "spike.csv", ["round", "x"], rows)
    report = gather(folder)
    spike = next(one for one in report.metrics if one.name == "spike").metrics[0]
    assert spike.highest == (777.0, 9.0)
    assert (777.0, 9.0) in spike.figure.curves[0].points
    assert all(
        len(curve.points) <= 240
        for one in report.metrics
        for each in one.metrics
        for curve in each.figure.curves
    )
    assert len(rendered(report).encode()) < 3_000_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "status.json").write_text("{"),
        lambda folder: (folder / "summary.json").write_text('{"rounds": "many"}'),
        lambda folder: (folder / "summary.json").write_bytes(b"\xff"),
        lambda folder: (folder / "evaluation.json").write_text(
            '{"curves": {"roc": {"x": ["a"], "y": [1]}}}'
        ),
        lambda folder: (folder / "evaluation.json").write_text("[" * 100_000),
        lambda folder: (folder / "test.csv").write_bytes(b"round,\xff\n1,2\n"),
        lambda folder: (folder / "leakage.csv").write_text("round,party\n1,x\n"),
        lambda folder: (folder / "privacy.csv").write_text("round,eps_weights\nx,y\n"),
        lambda folder: (folder / "train.csv").write_text("round,loss\n1\n2,3,4\nnan,inf\n"),
        lambda folder: (folder / "outbound.csv").write_text(""),
        lambda folder: [each.unlink() for each in folder.glob("*.csv")],
        lambda folder: (folder / "planted.csv").symlink_to("/etc/passwd"),
    ],
)
def test_damage_costs_a_part_and_not_the_report(damage: Any, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    damage(folder)
    for kind in FILES:
        assert "loan-defaults" in rendered(gather(folder), kind)
    assert "root:" not in rendered(gather(folder), "json")


def test_text_columns_and_foreign_tables_stay_out(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    table(folder / "predictions.csv", ["id", "score"], [("patient-7", 0.9)])
    table(folder / "notes.csv", ["round", "who", "x"], [(1, "patient-7", 3), (2, "patient-8", 4)])
    table(folder / "intersection.csv", ["id"], [("patient-7",)])
    for kind in FILES:
        text = rendered(gather(folder), kind)
        assert "patient" not in text
        assert "predictions.csv" not in text


def test_a_row_for_each_class_is_a_table_of_the_last_round(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    rows = [(n, kind, n / 10 + kind) for n in (1, 2) for kind in range(3)]
    table(folder / "classes.csv", ["round", "class", "recall"], rows)
    report = gather(folder)
    found = next(one for one in report.metrics if one.name == "classes")
    assert found.metrics == []
    assert found.last_round is not None
    assert found.last_round.rows == [[0, 0.2], [1, 1.2], [2, 2.2]]
    assert "Rows of the last round" in rendered(report)
    assert "| 2 | 2.2 |" in rendered(report, "md")


def test_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run.*RESULTS_DIR/TASK/PARTY"):
        gather(tmp_path)


def test_an_evaluation_of_the_tabular_layer_is_drawn(tmp_path: Path) -> None:
    """What that layer writes is what is read here: its names, its form, its undefined numbers."""
    evaluate = pytest.importorskip("heterofed.tabular.evaluation").evaluate
    labels = [float(n % 3 == 0) for n in range(60)]
    scores = [0.1 + 0.5 * label + n / 200 for n, label in enumerate(labels)]
    for kind, known in (("binary", {"ROC", "Calibration"}), ("regression", {"Residuals"})):
        folder = finished(tmp_path / kind)
        written = evaluate(kind, labels, scores).to_dict()
        (folder / "evaluation.json").write_text(json.dumps(written))
        report = gather(folder)
        assert report.unread == []
        assert report.evaluation is not None
        assert report.evaluation.kind == kind
        assert {each.name for each in report.evaluation.scores} == set(written["metrics"])
        assert known <= {each.title for each in report.evaluation.figures}
        assert all(each.note for each in report.evaluation.figures)
        assert written["notes"] == report.evaluation.notes
        assert Page(rendered(report)).text.count("Evaluation on") <= 1


def test_words_are_those_of_the_summary_and_of_the_plan() -> None:
    assert set(PLAN) == set(Plan.__struct_fields__) - {"seed"}
    assert {"join", "psi", "train", "test", "finish"} <= set(PHASES)
    for severity in (0.0, 0.19, 0.2, 0.39, 0.4, 0.79, 0.8, 1.0):
        said = next(words for least, words in LEVELS if severity >= least)
        assert LEVEL_WORDS[level_of(severity)] == said
        assert said in Leak("shop", "ridge", "r2", severity, 1).words()
