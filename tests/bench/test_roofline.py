"""The ceilings of this machine, the least time of a network, and the share of it that is reached."""

import dataclasses
import math
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from nncompile.bench import ceilings as measured
from nncompile.bench import grid, run
from nncompile.bench.ceilings import Ceilings, Rung, ladder, last_level_cache, measure_ceilings
from nncompile.bench.figures import percent
from nncompile.bench.report import as_markdown
from nncompile.bench.roofline import Limit, Roofline, least_seconds, limit_of, measure_roofline
from nncompile.bench.sentences import limits_line
from nncompile.costs import graph_cost
from nncompile_runtime import load

MACHINE = Ceilings(2, 1e11, "a product", (Rung(1000, 4e9), Rung(4000, 5e9), Rung(16000, 1e9)))


@pytest.fixture(scope="module")
def ceilings():
    return measure_ceilings(1)


def test_this_machine_is_measured_once_and_plausible(ceilings):
    assert measure_ceilings(1) is ceilings
    assert ceilings.threads == 1
    assert 1e8 < ceilings.flops < 1e13
    assert ceilings.product.startswith("ONNX Runtime 1.")
    assert [rung.size for rung in ceilings.rungs] == list(ladder(last_level_cache()))
    assert all(1e7 < rung.rate < 1e13 for rung in ceilings.rungs)
    assert ceilings.memory == ceilings.rungs[-1].rate


def test_the_product_is_the_product():
    from nncompile_runtime.session import onnxruntime

    a, b = np.random.default_rng(0).standard_normal((2, 8, 8), dtype=np.float32)
    model = measured._product_model(b)
    session = onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"a": a})[0], a @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "rate"),
    [
        (1, 5e9),  # the smallest was slower than the next, by noise: the faster one bounds
        (1000, 5e9),
        (3999, 5e9),
        (4000, 5e9),
        (15999, 5e9),  # between two sizes the smaller one's, which is the faster
        (16000, 1e9),
        (10**9, 1e9),
    ],
)
def test_a_bandwidth_bounds_that_of_its_size(size, rate):
    assert MACHINE.bandwidth(size) == rate


@pytest.mark.parametrize(
    ("flops", "moved", "expected"),
    [(1e9, 16000, (0.01, "compute")), (1e3, 16000, (1.6e-5, "bandwidth")), (0, 500, (1e-7, "bandwidth"))],
)
def test_the_larger_of_two_times_is_the_limit(flops, moved, expected):
    assert least_seconds(flops, moved, MACHINE) == expected


def test_a_share_is_of_the_limit_of_its_batch():
    roofline = Roofline(MACHINE, (Limit(8, 10**9, 10**4, True, 0.01, "compute"),))
    assert math.isclose(roofline.share(8, 40_000.0), 0.25)
    assert roofline.share(1, 40_000.0) is None


@pytest.mark.parametrize("cache", [0, 1 << 20, 1 << 30])
def test_the_largest_arrays_are_well_above_the_last_level_cache(cache):
    sizes = ladder(cache)
    assert sizes[-1] >= 4 * cache
    assert sizes[-1] >= 256 << 20
    assert sizes == tuple(sorted(sizes))


def test_the_last_level_cache_is_read_from_the_system(tmp_path):
    for number, text in enumerate(("32K\n", "1024K\n", "32M\n", "unknown\n", "")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(text)
    assert last_level_cache(tmp_path) == 32 << 20
    assert last_level_cache(tmp_path / "missing") == 0


def parsed(text):
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'))


def test_a_limit_counts_weights_inputs_and_outputs_once():
    model = parsed(
        "g (float[n, 4] x) => (float[n, 4] y) <float[4, 4] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> "
        "{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }"
    )
    limit = limit_of(graph_cost(model, 3), MACHINE)
    assert (limit.batch, limit.flops) == (3, 2 * (2 * 12 * 4) + 12)
    assert limit.bytes == 4 * (12 + 16 + 12)
    assert limit.complete


def test_of_a_table_only_the_picked_rows_count():
    text = (
        "g (int64[n] i) => (float[n, 2] y) <float[100, 2] t> { y = Gather(t, i) }",
        "g (int64[n] i) => (float[n, 2] y, float z) <float[100, 2] t> "
        "{ y = Gather(t, i) z = ReduceSum<keepdims = 0>(t) }",
    )
    for source, read in zip(text, (3 * 8, 800 + 4), strict=True):
        model = parsed(source.replace("t>", f"t = {{{', '.join(['1'] * 200)}}}>"))
        assert graph_cost(model, 3).least_bytes == 3 * 8 + 3 * 8 + read


def test_what_cannot_be_counted_is_said():
    model = parsed("g (float[n, k] x) => (float[n, k] y) { y = Relu(x) }")
    limit = limit_of(graph_cost(model, 1), MACHINE)
    assert (limit.flops, limit.bytes, limit.complete) == (0, 0, False)
    assert "at least, because not every node" in limits_line(Roofline(MACHINE, (limit,)))
    known = dataclasses.replace(limit, complete=True)
    assert "at least" not in limits_line(Roofline(MACHINE, (known,)))


def test_a_fused_region_is_limited_like_its_nodes(lenet):
    roofline = measure_roofline(lenet.path, load(lenet.path).signature, (1, 64), 1)
    one, many = roofline.limits
    parameters = sum(p.numel() for p in lenet.module.parameters())
    # Relu and max pools beside the layers: 2 x (multiply-adds) + biases + activations + windows.
    layers = 2 * (28 * 28 * 6 * 25 + 100 * 16 * 150 + 400 * 120 + 120 * 84 + 840)
    assert layers < one.flops < 1.05 * layers
    assert many.flops == 64 * one.flops
    assert one.bytes - 4 * (parameters + 1024 + 10) in range(64)  # and a shape
    assert many.bytes == one.bytes + 63 * 4 * 1034
    assert many.seconds >= many.flops / roofline.ceilings.flops
    assert many.complete


def test_every_row_of_a_benchmark_has_its_share(lenet, instant):
    report = run(lenet.path, (1, 2), ("onnxruntime",), schedule=instant)
    assert [limit.batch for limit in report.roofline.limits] == [1, 2]
    assert report.roofline.ceilings.threads == report.machine.processors
    for row in report.rows:
        limit = report.roofline.limits[report.batches.index(row.batch)]
        assert math.isclose(row.share, limit.seconds * 1e6 / row.latency.p50)
    table = [line for line in as_markdown(report).splitlines() if line.startswith("|")]
    assert table[0].endswith(" of limit |")
    assert table[2].endswith(f" {percent(report.rows[0].share)} |")
    assert {line.count("|") for line in table} == {10}


def test_a_grid_of_shares(lenet, instant):
    report = run(lenet.path, (2,), ("onnxruntime",), schedule=instant)
    lines = grid.shares({"lenet5": report}, "onnxruntime").splitlines()
    assert lines[0] == "| network | batch 2 |"
    assert lines[-1] == f"| lenet5 | {percent(report.row('onnxruntime', 2).share)} |"
    assert grid.shares({"lenet5": report}, "eager").splitlines()[-1] == "| lenet5 | - |"


def test_without_onnx_there_is_no_roofline(lenet, instant, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    report = run(lenet.path, (1,), ("onnxruntime",), schedule=instant)
    assert report.roofline is None
    assert {row.share for row in report.rows} == {None}
    assert "of limit" not in as_markdown(report)


@pytest.mark.parametrize(
    ("share", "text"), [(None, "-"), (1.204, "120 %"), (0.1, "10 %"), (0.0567, "5.7 %"), (0.0012, "0.12 %")]
)
def test_a_share_in_percent(share, text):
    assert percent(share) == text
