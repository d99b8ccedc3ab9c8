"""`nncompile inspect --profile`."""

import json
import math

import pytest

from nncompile_runtime.kernels import installed_library


@pytest.fixture
def native():
    if installed_library().path is None:
        pytest.skip(installed_library().note)


def test_every_node_has_a_time_and_a_share(run, exported):
    result = run("inspect", exported.apart, "--profile", "-b", 4)
    assert result.code == 0
    shown = [line for line in result.out.splitlines() if "conv" in line or "Gemm" in line]
    assert all(line.rstrip().endswith("%") for line in shown if line.startswith(("relu", "head")))
    assert "batch 4" in result.out
    assert "between the nodes" in result.out
    assert "Limit: " in result.out


def test_a_region_is_shown_natively_and_plainly(run, exported, native):
    data = json.loads(run("inspect", exported.model, "--profile", "--json", "-b", 4).out)["profile"]
    ours, plain = data["runs"]
    assert [node["operator"] for node in ours["nodes"]] == ["nncompile.FusedRegion"]
    assert len(plain["nodes"]) > 1
    for run_ in data["runs"]:
        assert run_["batch"] == 4
        total = sum(node["share"] for node in run_["nodes"]) + run_["between_nodes"] / run_["microseconds"]
        assert math.isclose(total, 1, abs_tol=1e-9) or run_["between_nodes"] == 0
    (region,) = ours["nodes"]
    peak = data["ceilings"]["flops"]
    assert region["of_limit"] * region["microseconds"] * 1e-6 >= region["flops"] / peak * (1 - 1e-9)
    shown = run("inspect", exported.model, "--profile", "-b", 4).out
    assert "region: Conv 1, Relu 1, Reshape 1, Gemm 1" in shown
    assert "the plan says native=False" in shown
