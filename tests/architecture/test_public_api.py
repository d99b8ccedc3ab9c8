"""The public names: exactly these, documented, and there as far as their packages are installed."""

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "nncompile", ROOT / "runtime" / "nncompile_runtime")
SOURCES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)

ERRORS = {
    "CaptureError",
    "DeviceError",
    "InputError",
    "ModelLoadError",
    "NncompileError",
    "OutOfMemoryError",
    "PassError",
    "PlanError",
    "VerificationError",
}
RUNTIME = ERRORS | {"ImagePreprocessing", "Plan", "Predictor", "load"}
PUBLIC = {"nncompile": RUNTIME | {"CompiledModel", "compile"}, "nncompile_runtime": RUNTIME}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = importlib.import_module(package)
    assert set(module.__all__) == PUBLIC[package]
    assert module.__all__ == sorted(module.__all__)
    assert all(inspect.getdoc(getattr(module, name)) for name in module.__all__)


def test_both_packages_offer_the_same_objects():
    first, second = (importlib.import_module(package) for package in PUBLIC)
    assert all(getattr(first, name) is getattr(second, name) for name in RUNTIME)


@pytest.mark.parametrize("name", sorted(ERRORS - {"NncompileError"}))
def test_errors_have_one_base(name):
    import nncompile

    error = getattr(nncompile, name)("It failed.", remedy="Do this.")
    assert isinstance(error, nncompile.NncompileError)
    assert str(error) == "It failed. Do this."


def test_compile_has_the_documented_parameters():
    import nncompile

    parameters = inspect.signature(nncompile.compile).parameters
    assert list(parameters)[:3] == ["module", "example_inputs", "example_kwargs"]
    options = ["dynamic_batch", "target", "precision", "passes", "preprocess", "labels", "verify", "progress"]
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in options)


def public_definitions(tree):
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            yield node.name
            if isinstance(node, ast.ClassDef):
                methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
                yield from (name for name in methods if not name.startswith("_"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_definitions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    definitions = [node for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
    documented = {node.name for node in definitions if ast.get_docstring(node)}  # an override need not repeat
    if "passes" in path.parts:
        documented |= {"pattern", "refusal", "replacement"}  # what they are is said once, in `Rule`
    assert set(public_definitions(tree)) <= documented


def run_python(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_dir_lists_the_names_and_loads_nothing():
    run_python("""
        import sys, nncompile
        assert set(dir(nncompile)) == {*nncompile.__all__, "__version__"}
        assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules)
        assert callable(nncompile.compile)
        assert "torch" in sys.modules
    """)


def test_without_torch_the_remedy_is_a_pip_command():
    run_python("""
        import sys

        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "onnx", "onnx_ir", "onnxscript"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Blocker())
        import nncompile
        assert nncompile.load and nncompile.Predictor
        try:
            nncompile.compile
        except nncompile.NncompileError as error:
            assert str(error).startswith("nncompile.compile needs "), error
            assert "not installed" in error.problem, error
            assert "pip install 'nncompile[compile," in error.remedy, error
        else:
            raise AssertionError("no error")
    """)


@pytest.mark.parametrize("package", PUBLIC)
def test_a_name_that_is_none(package):
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(package).no_such_name  # noqa: B018
