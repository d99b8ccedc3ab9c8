"""The page in a real browser, as wide as a phone and a desk: the plots are there, and nothing overflows."""

import base64
import json
import re
import subprocess

import pytest
from pages import HOSTILE, drawing, report

from nncompile.bench.html import page

WIDTHS = (360, 1280)
# A frame has the width that media queries and layouts see; this page measures what is in it.
MEASURE = """<!doctype html><meta charset="utf-8"><title>measuring</title><body><script>
const widths = %s, found = {};
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement, width = root.clientWidth;
  page.querySelectorAll("details").forEach(folded => folded.open = true);
  const wide = [...page.body.querySelectorAll("*")].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 2 && (box.right > width + 0.5 || box.left < -0.5);
  });
  const inPlot = svg => [...svg.querySelectorAll("text")].map(text => {
    const inner = text.getBoundingClientRect(), outer = svg.getBoundingClientRect();
    return inner.left >= outer.left - 3 && inner.right <= outer.right + 3
      && inner.top >= outer.top - 3 && inner.bottom <= outer.bottom + 3;
  });
  return {
    client: width, scroll: root.scrollWidth, title: page.title, scripts: page.scripts.length,
    wide: wide.map(element => element.tagName + "." + (element.getAttribute("class") || "")),
    plots: [...page.querySelectorAll("svg[role=img]")].map(svg => {
      const box = svg.getBoundingClientRect(), texts = inPlot(svg);
      return {id: svg.id, width: box.width, height: box.height,
        texts: texts.length, outside: texts.filter(inside => !inside).length,
        marks: svg.querySelectorAll("use, path").length};
    }),
    tallest: Math.max(...[...page.querySelectorAll("td")].map(cell => cell.offsetHeight)),
    ink: getComputedStyle(page.body).color, ground: getComputedStyle(page.body).backgroundColor,
    text: getComputedStyle(page.querySelector("svg[role=img] text") || page.body).fill,
  };
}
let left = widths.length;
widths.forEach(width => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.style.border = "0"; frame.src = "page.html";
  frame.onload = () => {
    found[width] = measure(frame);
    const bytes = new TextEncoder().encode(JSON.stringify(found));
    if (--left === 0) document.body.innerHTML = "<pre id=found>" + btoa(String.fromCharCode(...bytes));
  };
  document.body.append(frame);
});
</script>"""


@pytest.fixture
def opened(program, tmp_path):
    """`opened(html)`: what the browser found at each width."""
    chromium = program("chromium", "chromium-browser", "google-chrome", package="chromium")

    def measure(html, *options):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        (tmp_path / "measure.html").write_text(MEASURE % json.dumps(WIDTHS), encoding="utf-8")
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--window-size=1400,900", "--virtual-time-budget=10000", "--dump-dom", *options]
        done = subprocess.run(
            [*command, (tmp_path / "measure.html").as_uri()], capture_output=True, text=True, timeout=120
        )
        answer = re.search(r'<pre id="found">([^<]*)', done.stdout)
        assert answer, done.stdout[-500:] + done.stderr[-500:]
        found = json.loads(base64.b64decode(answer[1]))
        return {int(width): at for width, at in found.items()}

    return measure


def assert_fits(found):
    for width, at in found.items():
        assert at["client"] in range(width - 20, width + 1)  # less a scroll bar
        assert at["scroll"] <= at["client"]
        assert at["wide"] == []


def test_the_plots_are_there_and_nothing_overflows(opened):
    found = opened(page(report(), {"PyTorch's export": drawing(200), "Compiled": drawing(20)}))
    assert_fits(found)
    for at in found.values():
        assert [plot["id"] for plot in at["plots"]] == ["latency", "throughput", "roofline"]
        for plot in at["plots"]:
            assert plot["width"] >= 280
            assert plot["height"] >= 200
            assert plot["marks"] > 20
            assert plot["texts"] >= 12
            assert plot["outside"] == 0
        assert 20 < at["tallest"] < 60  # a cell is not squeezed into many lines
    assert found[1280]["plots"][0]["width"] < 640  # beside one another


def test_hostile_names_neither_run_nor_overflow(opened):
    found = opened(page(report(HOSTILE), {HOSTILE: drawing(20, HOSTILE)}))
    assert_fits(found)
    for at in found.values():
        assert at["title"] == f"{' '.join(HOSTILE.split())}: benchmark"
        assert at["scripts"] == 0


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_light_and_dark(opened, scheme, dark):
    """The text, that of the plots included, is dark on light or light on dark."""

    def brightness(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    found = opened(page(report(batches=(1,))), f"--blink-settings=preferredColorScheme={scheme}")
    for at in found.values():
        assert (brightness(at["ground"]) < 0.2) == dark
        for text in (at["ink"], at["text"]):
            assert abs(brightness(text) - brightness(at["ground"])) > 0.6


def test_what_overflows_is_noticed(opened):
    html = page(report(batches=(1,)))
    found = opened(html.replace("</main>", '<div class="bar" style="width: 700px">too wide</div></main>'))
    assert found[360]["scroll"] >= 700
    assert "DIV.bar" in found[360]["wide"]
    assert found[1280]["wide"] == []
