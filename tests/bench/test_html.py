"""The page of a benchmark: complete, of one piece, and deaf to what names contain."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from pages import BATCHES, ENGINES, HOSTILE, drawing, report

from nncompile.bench.disturbance import Disturbance
from nncompile.bench.html import page
from nncompile.bench.results import Absent, Cold
from nncompile.bench.scenarios import Scenario, ScenarioReport, ScenarioRow
from nncompile_runtime.bootstrap import Estimate

GRAPHS = {"PyTorch's export": drawing(200), "Compiled": drawing(20)}


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def read():
    return Reader(page(report(), GRAPHS))


def test_the_page_holds_everything(read):
    assert [svg["id"] for svg in read.named("svg") if svg.get("role") == "img"] == [
        "latency",
        "throughput",
        "roofline",
    ]
    for words in (
        "LeNet5.onnx",
        "float32[batch, 1, 32, 32]",
        "2.00 [1.90, 2.10]",
        "AMD EPYC 7B13",
        "2.13.0+cpu",
        "95 % interval, from a bootstrap",
        "Limit: 200 GFLOP/s",
        "tvm was not measured",
        "ncnn has no time at batch 1",
        "PyTorch's export",
        "201 nodes",
    ):
        assert words in read.text
    assert len(read.named("tr")) == 1 + len(BATCHES) * len(ENGINES)
    assert len(read.named("td")) == 9 * len(BATCHES) * len(ENGINES)


def test_every_engine_is_in_every_plot(read):
    for engine in ENGINES:
        assert read.words.count(engine) >= 3


def test_plots_are_told_in_words(read):
    text = read.text
    assert "Batch 1: nncompile 9.30 µs, onnxruntime 30.2 µs" in text
    assert "% of the limit" in text
    for svg in read.named("svg"):
        ids = {attributes.get("id") for _, attributes in read.tags}
        assert set(svg.get("aria-labelledby", "").split()) <= ids
        assert "aria-labelledby" in svg or svg.get("aria-hidden") == "true"


def test_no_two_elements_have_one_id_and_every_reference_is_there(read):
    text = page(report(), GRAPHS)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) != set()
    for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text):
        assert (pair[0] or pair[1]) in ids


def test_the_page_needs_nothing_else(read):
    for tag in ("script", "link", "img", "iframe", "object"):
        assert read.named(tag) == []
    assert not any("src" in attributes for _, attributes in read.tags)
    hrefs = [attributes.get("xlink:href") or attributes.get("href") or "#" for _, attributes in read.tags]
    assert all(href.startswith("#") for href in hrefs)
    (policy,) = [m["content"] for m in read.named("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")


def test_the_same_report_gives_the_same_page():
    assert page(report(), GRAPHS) == page(report(), GRAPHS)


def test_names_from_files_are_text():
    plain = Reader(page(report("Name"), {"Name": drawing(3, "Name")}))
    hostile = Reader(page(report(HOSTILE), {HOSTILE: drawing(3, HOSTILE)}))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in hostile.tags] == [
        sorted(attributes) for _, attributes in plain.tags
    ]
    assert " ".join(HOSTILE.split()) in hostile.text


def test_a_hostile_engine_in_the_plots():
    engines = ("nncompile", "onnxruntime", HOSTILE)
    read = Reader(page(report(engines=engines)))
    assert read.named("script") == read.named("img") == []
    assert read.words.count(HOSTILE) >= 3


def test_long_graphs_are_folded_up(read):
    long, short = read.named("details")
    assert "open" not in long
    assert "open" in short


def test_without_a_roofline_and_graphs():
    found = report(batches=(4,))
    rows = tuple(dataclasses.replace(row, share=None) for row in found.rows)
    read = Reader(page(dataclasses.replace(found, roofline=None, rows=rows)))
    assert [svg["id"] for svg in read.named("svg")] == ["latency", "throughput"]
    assert read.named("details") == []
    assert "of the limit" not in read.text


def test_a_scenario_and_fresh_processes_have_tables_of_their_own():
    found = report(batches=(1,))
    served = ScenarioRow("nncompile", 1, 500, found.rows[0].latency, 100.0, Estimate(1.5, 1.4, 1.6), True)
    asked = ScenarioReport(Scenario("server", 100.0), (served,))
    fresh = Cold("nncompile", 1, 2.5, 0.25, 0.003, 123.0)
    failed = Absent("eager", "it ended with code 1.")
    read = Reader(page(dataclasses.replace(found, scenario=asked, cold=(fresh,), not_cold=(failed,))))
    assert len(read.named("table")) == 3
    for words in ("Poisson arrivals, 100 queries/s", "p99 within 15 ms", "a fresh process each", "peak MiB"):
        assert words in read.text
    assert "it ended with code 1." in read.text


def test_when_ours_was_rejected_there_are_no_cards():
    found = report(batches=(1,))
    rows = tuple(row for row in found.rows if row.engine != "nncompile")
    read = Reader(page(dataclasses.replace(found, rows=rows)))
    assert "cards" not in {attributes.get("class") for attributes in read.named("ul")}
    assert "rejected" in read.text
    nothing = Reader(page(dataclasses.replace(found, rows=())))
    assert [svg["id"] for svg in nothing.named("svg")] == ["latency", "throughput", "roofline"]


def test_a_busy_machine_is_warned_of_above_everything_else():
    quiet = report()
    assert "Warning:" not in page(quiet)
    busy = dataclasses.replace(quiet, disturbance=Disturbance(7.0, 0.0, 2, 2))
    text = page(busy)
    assert 0 < text.index("the load average was 7.0 when it began") < text.index("<main>")
