"""The documents keep up with the tree: no page without a place, no dead link, no module left out."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
# Each a family that the architecture names as one.
FAMILIES = ("nncompile/bench/engines", "nncompile/cli")


def links(page):
    """The files of this repository that a page links to, each with the heading in it or ''."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            path, _, heading = target.partition("#")
            yield (page.parent / path if path else page).resolve(), heading


def anchors(page):
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, heading in links(page):
        assert path.exists(), path
        assert not heading or heading in anchors(path), f"{path}#{heading}"


def test_the_index_lists_every_page():
    listed = {path for path, _ in links(DOCS / "README.md")}
    assert {page for page in DOCS.glob("*.md") if page.name != "README.md"} <= listed


def test_the_architecture_names_every_module():
    said = set(re.findall(r"`(?:[\w/]*/)?(\w+\.py)`", (DOCS / "architecture.md").read_text(encoding="utf-8")))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    rewrites = contracts["No rewrite knows another"]["modules"]  # a file each, by the name of the rewrite
    said |= {f"{module.rpartition('.')[2]}.py" for module in rewrites}
    packages = (ROOT / "nncompile", ROOT / "runtime" / "nncompile_runtime")
    modules = [path for package in packages for path in package.rglob("*.py")]
    alone = [p for p in modules if not str(p.relative_to(ROOT)).startswith(FAMILIES)]
    left_out = {path.name for path in alone if not path.name.startswith("__")} - said
    assert not left_out, f"docs/architecture.md says nothing of {sorted(left_out)}"
