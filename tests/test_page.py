"""The page of a small store written by hand: it is complete, loads no other file, and says what was found."""

import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from handmade import MADE, write

from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.main_result import main_picture, main_table
from amu_experiments.analysis.mechanism_tables import read_mechanism
from amu_experiments.analysis.page import columns
from amu_experiments.analysis.picture import Drawn
from amu_experiments.analysis.report import write_report
from amu_experiments.analysis.study_tables import read_studies
from amu_experiments.analysis.tables import tables

NAME = "two_sequence-noise_free-T100-N3"
EMPTY = ("meta", "img", "br", "hr", "link", "input")
CLOSED_BY = {"td": ("td", "tr", "tbody"), "tr": ("tr", "tbody")}
"""Tags that HTML closes by itself, at the start of the next cell or row, or at the end of the table's body."""


class Reader(HTMLParser):
    """Tags with their attributes in order of appearance, the text, and whether every tag is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.close(tag)
        if tag not in EMPTY:
            self.open.append(tag)

    def close(self, tag):
        while self.open and tag in CLOSED_BY.get(self.open[-1], ()):
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open[-1] != tag:
            self.close(tag)
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def every(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def out(tmp_path):
    root = tmp_path / "runs"
    for cell, ends in (("amu", [300, 400, None]), ("lstm", [700, None, None])):
        write(root, cell, ends)
    (tmp_path / "runs" / "two_sequence" / "gru" / "0").mkdir(parents=True)
    (tmp_path / "runs" / "two_sequence" / "gru" / "0" / "config.yaml").write_text("")
    (tmp_path / "runs" / "two_sequence" / "gru" / "0" / "trials-0-0").mkdir()
    (tmp_path / "runs" / "two_sequence" / "gru" / "0" / "trials-0-0" / "trials.csv").write_text("trial\n")
    return tmp_path / "out"


@pytest.fixture
def judged(out):
    """The same store with ten trials of the paper's AMU and of the LSTM, on which findings about claims rest."""
    ends = [300 + n for n in range(10)]
    for cell, model in (("amu", {"gradient": "truncated"}), ("lstm", {})):
        write(out.parent / "runs", cell, ends, model=model, training={"optimizer": "adam"})
    return out


def page(out, **options) -> tuple[str, Reader]:
    write_report(out.parent / "runs", out, **options)
    html = (out / "index.html").read_text(encoding="utf-8")
    return html, Reader(html)


def test_the_page_asks_for_nothing_but_itself(out):
    html, read = page(out)
    assert all(image["src"].startswith("data:image/svg+xml,") for image in read.every("img"))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert "default-src 'none'" in html
    assert all(anchor["href"].startswith("#") for anchor in read.every("a"))
    assert not re.search(r"url\((?!%23)|@import", html)


def test_every_link_leads_somewhere_and_no_name_is_given_twice(out):
    _, read = page(out)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {anchor["href"][1:] for anchor in read.every("a")} <= set(ids)
    assert {table["aria-describedby"] for table in read.every("table") if "aria-describedby" in table} <= set(ids)


def test_the_page_can_be_read_without_seeing_it(judged):
    _, read = page(judged)
    assert all(image["alt"] for image in read.every("img"))
    assert len(read.every("caption")) == len(read.every("table"))
    assert all("scope" in heading for heading in read.every("th"))
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert "? undecided" in read.text


def test_the_page_has_claims_numbers_figures_and_where_they_come_from(judged):
    _, read = page(judged)
    order = [attributes["id"] for tag, attributes in read.tags if tag == "section"]
    assert order == ["claims", "experiments", NAME, "again"]
    assert "26 trials of 4 configurations, in 1 comparison." in read.text
    assert "2/3 [0.21, 0.94]" in read.text
    assert len(read.every("img")) == 2
    for told in ("abc123", "x86_64, 2 processors", "torch 2.13.0", "2031-02-03", "model=lstm trials=3"):
        assert told in read.text
    assert "Some stored trials are not in this report" in read.text


def test_the_page_begins_with_what_the_paper_claims_what_came_out_and_what_it_hangs_on(judged):
    _, read = page(judged)
    top = read.text.partition("26 trials of 4 configurations")[0]
    assert "The paper claims of its unit: memory and output are separate neurons of a unit" in top
    assert "For the paper: no claim holds. Against the paper: no claim fails. Undecided: convergence. Not run: " in top
    assert top.rstrip().endswith(
        "These verdicts hold for one reading of the unit and one training only: tframe (Adam)."
    )


def test_the_table_of_claims_has_a_column_for_each_case(judged):
    settings = {"gradient": "truncated", "neurons_per_unit": 2, "output_in_product": False}
    ends = [300 + n for n in range(10)]
    write(judged.parent / "runs", "amu", ends, model=settings, training={"optimizer": "adam"})
    html, read = page(judged)
    head = html.partition('id="table-claims"')[2].partition("</thead>")[0]
    assert re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", head) == [
        "claim [A]",
        "abstract<br>Adam",
        "tframe<br>Adam",
    ]
    assert "Memory: Run in no case." in read.text
    assert "2 neurons a unit, output neuron not a factor of the product" in read.text
    assert {f"claim-{name}" for name in ("separation", "memory", "generation")} <= {
        attributes.get("id") for attributes in read.every("details")
    }


def test_runs_that_bear_on_no_claim_have_a_page_without_claims(out):
    _, read = page(out)
    assert [attributes["id"] for tag, attributes in read.tags if tag == "section"] == ["experiments", NAME, "again"]
    assert "claim" not in read.text.lower()


def test_an_experiment_has_its_title_one_figure_and_one_small_table_unfolded(out):
    html, _ = page(out)
    part = html.partition(f'<section id="{NAME}">')[2].partition("</section>")[0]
    unfolded, _, folded = part.partition("<details>")
    assert "<h3>Two-sequence problem 3a (noise-free), T = 100</h3>" in unfolded
    assert (unfolded.count("<img"), unfolded.count("<table")) == (1, 1)
    assert f'id="figure-{NAME}-solved"' in unfolded
    table = Reader(f"<table{unfolded.partition('<table')[2].partition('</table>')[0]}</table>")
    rows = r"model solved median p amu 2/3 400 reference lstm 1/3 n\.r\. 0\.\d+"
    assert re.fullmatch(f"Criterion st2: wrong == 0 and mean_error < 0.01 {rows}", table.text)
    for name in ("criteria", "mean_error"):
        assert re.search(f'id="(table|figure)-{NAME}-{name}"', folded)
        assert f"{NAME}-{name}" not in unfolded


def test_the_small_table_has_a_metric_if_no_trial_met_the_criterion(tmp_path):
    results = [write(tmp_path, cell, [None, None]) for cell in ("amu", "gru")]
    for result, accuracies in zip(results, ([0.5, 0.75], [1.0, 1.0]), strict=True):
        result.trials["test_accuracy"] = accuracies
    (comparison,) = compare(results)
    table = main_table(comparison, tables(comparison, []))
    assert table.caption == "Accuracy on test data"
    assert table.text[["model", "n", "median"]].to_numpy().tolist() == [["amu", "2", "0.625"], ["gru", "2", "1"]]
    drawn = [Drawn(f"{comparison.name}-{name}", "", "") for name in ("solved", "mean_error")]
    assert main_picture(comparison, drawn) == drawn[1]


def test_one_task_alone_has_no_claims(judged):
    _, read = page(judged, task="two_sequence")
    assert [attributes["id"] for tag, attributes in read.tags if tag == "section"] == ["experiments", NAME, "again"]


def test_a_report_is_made_again_by_the_commands_of_its_runs_and_ours_by_its_script(out):
    html, read = page(out)
    assert "Give the commands in the table below again, with these versions." in read.text
    assert "reproduce_paper" not in read.text
    assert "model=lstm trials=3" in html.rpartition("<details open>")[2]
    (out / "readings_shipped.csv").write_text("reading,share\nabstract,0.5\n")
    _, read = page(out)
    assert "scripts/reproduce_paper.sh # with --tune" in read.text
    assert "Give the commands" not in read.text


def test_only_our_report_folds_other_sizes(out):
    """It is long."""
    write(out.parent / "runs", "lstm", [300, 700, None], task={"T": 200})
    folded = "<summary>Two-sequence problem 3a (noise-free), T = 200</summary>"
    html, _ = page(out)
    assert folded not in html
    (out / "readings_shipped.csv").write_text("reading,share\nabstract,0.5\n")
    html, _ = page(out)
    assert folded in html


def test_studies_are_shown_where_their_numbers_are(out):
    (out / "tuning").mkdir(parents=True)
    (out / "speed.csv").write_text("what,value,unit\nAMU,40.1234,us\n")
    for model in ("amu", "lstm"):
        (out / "tuning" / f"embedded_reber-{model}.csv").write_text("rate,solved,note\n0.01,2,<b>\n0.03,,\n")
    assert [study.id for study in read_studies(out, [])] == ["tuning", "speed"]
    _, read = page(out)
    assert "AMU 40.12 us" in read.text
    assert "lstm 0.01 2 <b>" in read.text
    assert "nan" not in read.text


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("speed.csv", b"", "cannot be read (EmptyDataError)"),
        ("speed.csv", b"\xff\xfe", "cannot be read (UnicodeDecodeError)"),
        ("speed.csv", b"what,value\nAMU,4", "is cut off"),
        ("speed.csv", b"what,value\n", "has no rows"),
        ("speed.csv", b"what\nAMU,4\n", "has rows with more values than it has columns"),
        ("speed.csv", None, "is a folder"),
        ("speed.json", b"", "is not JSON"),
        ("speed.json", b"[{}]", "has no caption"),
        ("speed.json", b"\xff", "is not a text file"),
        ("speed.json", None, "is a folder"),
        ("tuning/adding-amu.csv", b"", "cannot be read (EmptyDataError)"),
        ("mechanism/flow.csv.gz", b"", "cannot be read (EmptyDataError)"),
        ("mechanism/flow.csv.gz", b"lag\n1\n", "cannot be read (BadGzipFile)"),
        ("mechanism/flow.csv.gz", gzip.compress(b"lag\n1\n", mtime=0), "has no flow, identity, model"),
    ],
)
def test_a_study_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, name, content, why):
    path = studies(tmp_path, name, content)
    left_out = []
    read = [study.id for study in read_studies(tmp_path, left_out)]
    read_mechanism(tmp_path / "mechanism", left_out)
    assert any(str(error).startswith(f"{path}: {why}") for error in left_out)
    assert "readings" in read
    assert ("speed" in read) == (name != "speed.csv")


def test_the_page_names_what_could_not_be_read_and_shows_the_others(out):
    path = studies(out, "speed.csv", b"what,value\nAMU,4")
    _, read = page(out)
    assert f"{path}: is cut off" in read.text
    ids = [attributes["id"] for tag, attributes in read.tags if tag == "section"]
    assert "readings" in ids
    assert "speed" not in ids


def studies(folder, name, content):
    """Put studies into a folder, one of them with other contents; returns that file. None: it is a folder."""
    (folder / "tuning").mkdir(parents=True)
    (folder / "mechanism").mkdir()
    for path in ("speed", "readings", "tuning/adding-amu"):
        (folder / f"{path}.csv").write_text("what,value\nAMU,4\n")
    path = folder / name
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


def test_names_and_texts_are_shown_as_they_are(out):
    tag = "<script>alert(1)</script>"
    write(out.parent / "runs", "amu", [300], task={"note": tag}, model={"note": "x"}, first=7)
    folder = write(out.parent / "runs", "amu", [300], task={"note": tag}, model={"note": tag}).folder
    made = MADE | {"command": tag, "machine": "a\x1b[0m\ud800b"}
    (folder / "trials-0-0" / "provenance.json").write_text(json.dumps(made))
    (out / "tuning").mkdir(parents=True)
    (out / "tuning" / f"{tag.replace('/', '')}.csv").write_text(f"what\n{tag}\n")
    html, read = page(out)
    assert "script" not in {name for name, _ in read.tags}
    assert f"amu (note={tag})" in read.text
    assert read.text.count(tag) > 4
    assert "\x1b" not in html
    text = (out / "report.md").read_text()
    assert "\\<script>" in text
    assert "<script>" not in text.replace("\\<", "")


def test_words_stand_left_and_numbers_right(out):
    out.mkdir()
    (out / "speed.csv").write_text(f"what,value,unit\n{'a long name of what was measured'},40.1,us\n")
    (study,) = read_studies(out, [])
    assert columns(study.tables[0]) == [("what", "l wide"), ("value", ""), ("unit", "l")]
