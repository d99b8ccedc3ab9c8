"""The native kernels: found, registered, refused; whatever happens, the answers are right."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from nncompile import ModelLoadError, Predictor
from nncompile_runtime import kernels
from nncompile_runtime.kernels import Kernels, Layer, installed_library, register, with_choices
from nncompile_runtime.machine import Machine
from nncompile_runtime.plan import Plan, default_plan
from nncompile_runtime.plans import choose

from .graphs import conv_net, doubling, floats, manifest, predictor

X = floats(5, 1, 8, 8, seed=1)
PROGRAM = [
    *(1, 4, 1, 8, 8, 5),
    *(1, 14, 0, 0, 1, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0, 1),
    *(7, 4, 1, 1, -1, -1),
    *(2, 10, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0),
    *(12, 1, 3),
    *(6, 4, 4, 2, -1, 0),
    *(1, 5, 2),
]


def region_net(**attributes: Any) -> onnx.ModelProto:
    """`conv_net` as one fused region, written by hand."""
    model, _, _ = conv_net()
    inputs, imports = ["x", "w", "b", "v"], [helper.make_opsetid("", 20)]
    given = {"schema": 1, "program": PROGRAM, "constants": [0.0], **attributes}
    names = ("nncompile", "FusedRegion")
    body = helper.make_function(*names, inputs, ["y"], list(model.graph.node), imports, sorted(given))
    body.overload = "r0"
    node = helper.make_node("FusedRegion", inputs, ["y"], domain="nncompile", overload="r0", **given)
    del model.graph.node[:]
    model.graph.node.append(node)
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("nncompile", 1))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    """What was warned about is forgotten, here and after the test."""
    kernels._warn_once.cache_clear()
    yield
    kernels._warn_once.cache_clear()


@pytest.fixture
def expected() -> np.ndarray:
    return predictor(conv_net()[0]).predict(X)


def package(
    monkeypatch: pytest.MonkeyPatch, library: Any, options: tuple[str, ...] | None = None
) -> ModuleType:
    """Stand for nncompile-kernels.

    `library` is what `library_path()` returns, or raises; `options` are its OPTIONS, which the oldest lack.
    """

    def library_path() -> Any:
        if isinstance(library, Exception):
            raise library
        return library

    module = ModuleType("nncompile_kernels")
    module.library_path = library_path  # type: ignore[attr-defined]
    module.info = lambda: {"version": "9.9", "built": ["avx2"], "used": "avx2"}  # type: ignore[attr-defined]
    if options is not None:
        module.OPTIONS = options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nncompile_kernels", module)
    return module


def runs_plain(expected: np.ndarray, why: str) -> Predictor:
    model = predictor(region_net())
    assert not model.native
    assert why in model.session.kernels.note
    np.testing.assert_array_equal(model.predict(X), expected)
    return model


class TestWithoutKernels:
    def test_not_installed(
        self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, log: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "nncompile_kernels", None)
        runs_plain(expected, "nncompile-kernels is not installed")
        assert log.records == []

    def test_not_for_this_processor(
        self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, log: pytest.LogCaptureFixture
    ) -> None:
        package(monkeypatch, None)
        runs_plain(expected, "nncompile-kernels 9.9 has no kernels for this processor")
        assert log.records == []

    def test_a_package_that_cannot_be_imported(
        self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, tmp_path: Path
    ) -> None:
        (tmp_path / "nncompile_kernels.py").write_text("import nothing_of_this_name")
        monkeypatch.delitem(sys.modules, "nncompile_kernels", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        runs_plain(expected, "nncompile-kernels cannot be imported: No module named 'nothing_of_this_name'")

    def test_a_package_that_raises(self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray) -> None:
        package(monkeypatch, OSError("no such thing"))
        runs_plain(expected, "nncompile-kernels is broken: OSError: no such thing")

    @pytest.mark.parametrize(
        "content", [None, b"", b"this is no library", b"\x7fELF\x02\x01\x01" + bytes(64)]
    )
    def test_a_library_that_does_not_load_is_warned_about_once(
        self,
        monkeypatch: pytest.MonkeyPatch,
        expected: np.ndarray,
        log: pytest.LogCaptureFixture,
        tmp_path: Path,
        content: bytes | None,
    ) -> None:
        library = tmp_path / "kernels.so"
        if content is not None:
            library.write_bytes(content)
        package(monkeypatch, str(library))
        for _ in range(2):
            runs_plain(expected, "could not register nncompile-kernels 9.9 (avx2)")
        (record,) = log.records
        assert "without the native kernels" in record.getMessage()
        assert "\n" not in record.getMessage()

    def test_a_library_without_the_entry_point(
        self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray, log: pytest.LogCaptureFixture
    ) -> None:
        """Any shared library that is no custom-operator library."""
        import _ctypes

        package(monkeypatch, _ctypes.__file__)
        runs_plain(expected, "could not register")
        assert len(log.records) == 1

    def test_a_plan_that_wants_none(self, monkeypatch: pytest.MonkeyPatch, expected: np.ndarray) -> None:
        package(monkeypatch, AssertionError("must not be asked"))
        model = predictor(region_net(), plan={"native": False})
        assert model.session.kernels == Kernels(False, "the plan says native=False")
        np.testing.assert_array_equal(model.predict(X), expected)

    def test_a_model_without_regions_asks_for_none(
        self, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
    ) -> None:
        package(monkeypatch, AssertionError("must not be asked"))
        model = doubling()
        assert model.session.kernels == Kernels(False, "the model has no fused regions")
        assert log.records == []

    def test_a_region_without_its_function_needs_the_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nncompile_kernels", None)
        model = region_net()
        del model.functions[:]
        with pytest.raises(ModelLoadError, match="FusedRegion"):
            predictor(model)


class Options:
    """Takes down what is asked of `onnxruntime.SessionOptions`, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.asked.append((key, value))

    def register_custom_ops_library(self, path: str) -> None:
        self.asked.append((path,))


@pytest.mark.parametrize("exact", [False, True])
def test_the_plan_reaches_the_library_before_it_is_registered(
    monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    package(monkeypatch, "/kernels.so")
    options = Options()
    assert register(options, Plan(threads=3, exact=exact)) == Kernels(True, "nncompile-kernels 9.9 (avx2)")
    assert options.asked == [
        ("nncompile.threads", "3"),
        ("nncompile.exact", str(int(exact))),
        ("/kernels.so",),
    ]


CHOICES = ("threads", "exact", "winograd", "lanes", "split")


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({}, []),
        ({"winograd": "never"}, [("nncompile.winograd", "never")]),
        ({"winograd": "16x6x5x5@10x10"}, [("nncompile.winograd", "16x6x5x5@10x10")]),
        ({"lanes": False}, [("nncompile.lanes", "off")]),
        ({"split": 0}, [("nncompile.split", "0")]),
    ],
)
def test_choices_reach_a_library_that_knows_them_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    chosen: dict[str, Any],
    asked: list[tuple[str, str]],
) -> None:
    package(monkeypatch, "/kernels.so", CHOICES)
    options = Options()
    assert register(options, Plan(**chosen)).active
    assert options.asked == [("nncompile.threads", "1"), ("nncompile.exact", "0"), *asked, ("/kernels.so",)]

    package(monkeypatch, "/kernels.so")
    options = Options()
    kernels = register(options, Plan(**chosen))
    assert kernels.active is not bool(chosen)
    if chosen:
        (name,) = chosen
        assert kernels.note == (
            f"nncompile-kernels 9.9 (avx2) knows no {name}, which the plan gives; update it"
        )
        assert options.asked == []
        assert [kernels.note in record.getMessage() for record in log.records] == [True]


@pytest.mark.parametrize("form", ["", " tiles", " rows"])
def test_which_form_of_winograds_algorithm_runs(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Older kernels do not tell."""
    told = ["lanes 16", "lanes 8", f"4x1x3x3@6x6 1 0.5{form}", "8x4x3x3@1x1 0 1.5"]
    module = package(monkeypatch, "/kernels.so", (*CHOICES, "session"))
    module.report = lambda number: told  # type: ignore[attr-defined]
    found = with_choices(Kernels(True, "", session=1), Plan(), "net.onnx")
    winograd = Layer("4x1x3x3@6x6", winograd=True, cost=0.5, rows=form == " rows")
    assert found.layers == (winograd, Layer("8x4x3x3@1x1", winograd=False, cost=1.5))
    assert found.lanes == 8


def test_an_old_library_with_a_new_plan_runs_plain(
    monkeypatch: pytest.MonkeyPatch, expected: np.ndarray
) -> None:
    package(monkeypatch, "/kernels.so")
    model = predictor(region_net(), plan={"lanes": False, "winograd": "never"})
    assert "knows no lanes, winograd" in model.session.kernels.note
    np.testing.assert_array_equal(model.predict(X), expected)


def test_the_kernels_are_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, "/kernels.so")
    options = Options()
    assert not register(options, Plan(provider="cuda")).active
    assert options.asked == []


MACHINE = Machine("CPU", ("avx2",), 8, "1.31.1")


class TestExact:
    """An artifact that was compiled for exact kernels runs them, unless the user's plan says otherwise."""

    @pytest.mark.parametrize("exact", [False, True])
    def test_the_default_plan_and_a_stored_one(self, exact: bool) -> None:
        stored = {MACHINE.fingerprint: {"1": {"threads": 3}}}
        default, expected = default_plan(MACHINE, exact=exact), Plan(threads=3, exact=exact)
        assert choose(None, {}, MACHINE, default)[1] == Plan(threads=8, exact=exact)
        assert choose(None, stored, MACHINE, default)[1] == expected
        assert choose({"threads": 3}, {}, MACHINE, default)[1] == expected
        assert choose(Plan(threads=3), {}, MACHINE, default)[1] == expected

    @pytest.mark.parametrize("exact", [False, True])
    def test_a_plan_that_speaks_of_it(self, exact: bool) -> None:
        stored = {MACHINE.fingerprint: {"1": {"exact": not exact}}}
        for user in (None, {"exact": not exact}, Plan(exact=not exact)):
            assert choose(user, stored, MACHINE, default_plan(MACHINE, exact=exact))[1].exact is not exact

    def test_the_manifest_says_so_also_after_pickling(self) -> None:
        model, inputs, outputs = conv_net()
        loaded = predictor(model, manifest(inputs, outputs, exact=True))
        assert loaded.plan.exact
        assert pickle.loads(pickle.dumps(loaded)).plan.exact


native = pytest.mark.skipif(installed_library().path is None, reason=installed_library().note)


@native
class TestWithKernels:
    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("exact", [False, True])
    def test_the_answers(self, expected: np.ndarray, threads: int, exact: bool) -> None:
        model = predictor(region_net(), plan={"threads": threads, "exact": exact})
        assert model.native
        for rows in (1, 2, 5):
            np.testing.assert_allclose(model.predict(X[:rows]), expected[:rows], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        "attributes", [{"schema": 99}, {"program": PROGRAM[:-1]}, {"program": [1, 4, 2, *PROGRAM[3:]]}]
    )
    def test_a_program_that_the_library_refuses_runs_plain(
        self, expected: np.ndarray, log: pytest.LogCaptureFixture, attributes: dict[str, Any]
    ) -> None:
        model = predictor(region_net(**attributes))
        assert not model.native
        assert "refuses test.onnx" in model.session.kernels.note
        assert len(log.records) == 1
        np.testing.assert_array_equal(model.predict(X), expected)

    def test_what_they_chose(self, log: pytest.LogCaptureFixture) -> None:
        (layer,) = predictor(region_net()).session.kernels.layers
        assert layer.name == "4x1x3x3@6x6"
        assert not layer.winograd
        assert layer.cost > 1
        for winograd in ("always", "4x1x3x3@6x6"):
            (told,) = predictor(region_net(), plan={"winograd": winograd}).session.kernels.layers
            assert told == layer._replace(winograd=True, rows=told.rows)
            assert not told.rows or predictor(region_net()).session.kernels.lanes
        assert log.records == []

    def test_samples_in_lanes(self) -> None:
        assert predictor(region_net()).session.kernels.lanes in (0, 8)  # it does not pay on every processor
        assert predictor(region_net(), plan={"lanes": False}).session.kernels.lanes == 0

    def test_a_plan_that_names_no_convolution_of_the_model_is_warned_about(
        self, expected: np.ndarray, log: pytest.LogCaptureFixture
    ) -> None:
        plan = {"winograd": "4x1x3x3@6x6,4x1x3x3@6x7"}
        model = predictor(region_net(), plan=plan)
        (record,) = log.records
        assert record.getMessage() == (
            "The plan's winograd names 4x1x3x3@6x7; of test.onnx it applies to 4x1x3x3@6x6."
        )
        np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4, atol=1e-5)
        predictor(region_net(), plan={**plan, "exact": True})
        assert len(log.records) == 1

    @pytest.mark.parametrize("choice", [{"winograd": "always"}, {"lanes": False}, {"split": 0}])
    def test_every_choice_gives_the_same_answers(self, expected: np.ndarray, choice: dict[str, Any]) -> None:
        model = predictor(region_net(), plan={"threads": 2, **choice})
        assert model.native
        for rows in (1, 2, 5):
            np.testing.assert_allclose(model.predict(X[:rows]), expected[:rows], rtol=1e-4, atol=1e-5)

    def test_an_empty_batch_and_pieces(self, expected: np.ndarray) -> None:
        _, inputs, outputs = conv_net()
        model = predictor(region_net(), manifest(inputs, outputs), plan={"micro_batch": 2})
        assert model.native
        assert model.predict(X[:0]).shape == (0, 5)
        np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4, atol=1e-5)
