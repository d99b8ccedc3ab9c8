"""Fixtures of the check's tests."""

from __future__ import annotations

import pytest

from models.gpu_check.context import Context
from models.gpu_check.preparing import prepare
from nncompile.bench import roofline
from nncompile.bench.ceilings import Ceilings, Rung


@pytest.fixture(scope="session")
def here(tmp_path_factory) -> Context:
    """One network in two precisions, compiled as the check compiles it."""
    folder = tmp_path_factory.mktemp("gpu-check")
    made = Context("cpu", folder, ("lenet5",), ("float32", "float16"), seconds=0.01, calls=130)
    findings = list(prepare(made))
    assert [f.verdict for f in findings] == ["passed"] * 3, findings
    assert {f.said for f in prepare(made)} == {"was there"}
    return made


@pytest.fixture(scope="package", autouse=True)
def known_ceilings():
    """Those of the processors take seconds to measure, and no check here looks at them."""
    with pytest.MonkeyPatch.context() as patched:
        known = Ceilings(1, 1e11, "a product", (Rung(1 << 20, 1e10),))
        patched.setattr(roofline, "measure_ceilings", lambda threads: known)
        yield
