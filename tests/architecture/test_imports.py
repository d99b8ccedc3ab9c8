"""The architecture, enforced: who imports whom, and how large a file may be."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "nncompile", ROOT / "runtime" / "nncompile_runtime")
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
MAX_LINES = 350


def lint_imports(root, *import_path):
    code = (
        f"import sys; sys.path[:0] = {[str(place) for place in import_path]!r}; "
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)


def test_every_import_contract_is_kept():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"Contracts: {len(contracts)} kept, 0 broken." in done.stdout


def test_a_forbidden_import_is_noticed(tmp_path):
    """The contracts can fail: torch in the runtime breaks one."""
    for path in (*SOURCES, ROOT / "pyproject.toml"):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    session = tmp_path / "runtime" / "nncompile_runtime" / "session.py"
    session.write_text(session.read_text() + "\nimport torch\n")
    done = lint_imports(tmp_path, tmp_path, tmp_path / "runtime")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "The runtime needs no torch, onnx or compiler BROKEN" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize("folder", ["runtime", "models"])
def test_folders_that_are_no_packages(folder):
    """A wheel with packages named `runtime` or `models` would collide with the user's own."""
    assert not (ROOT / folder / "__init__.py").exists()
