"""Where the time of a call goes beyond what the machine allows."""

import dataclasses

import onnx
import onnx_ir as ir
import pages
import pytest

from nncompile.bench import Scenario, grid, run
from nncompile.bench.ceilings import Ceilings, Rung
from nncompile.bench.distance import Distance, call_microseconds, fewest_flops, measure_distance
from nncompile.bench.engines import Subject
from nncompile.bench.inputs import make_feed
from nncompile.bench.roofline import Limit
from nncompile.bench.sections import sections
from nncompile.costs import graph_cost
from nncompile_runtime import load
from nncompile_runtime.kernels import Layer, installed_library

SLOW = Ceilings(2, 1e9, "a product", (Rung(2**17, 1e9),))
FOUND = Distance(8, time=50.0, limit=10.0, bound="compute", call=4.0, threads=2, alone=74.0)


def graph(body):
    ports = "(float[n, 3, 11, 10] x, float[8, 3, 3, 3] w) => (float[n, 8, h, v] y)"
    text = f'<ir_version: 10, opset_import: ["": 20]> g {ports} {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def test_the_four_parts_are_the_time():
    assert FOUND.kernels == (74 - 4) / 2 - 10
    assert FOUND.sharing == 50 - 4 - (74 - 4) / 2
    assert FOUND.limit + FOUND.call + FOUND.kernels + FOUND.sharing == FOUND.time


def test_work_that_one_thread_does_alone_is_lost_in_sharing():
    alone = dataclasses.replace(FOUND, alone=50.0)
    assert alone.sharing == (50 - 4) / 2


def test_a_convolution_by_winograd_counts_with_its_products():
    model = graph("y = Conv(x, w)")  # 9 x 8 results of 3 channels: 3 x 2 tiles of 6 x 6 products
    as_defined = 2 * 5 * 8 * 3 * 9 * (9 * 8)
    assert fewest_flops(model, 5, "n", ()) == as_defined == graph_cost(model, 5, "n").totals.flops
    chosen = Layer("8x3x3x3@9x8", winograd=True, cost=0.5)
    assert fewest_flops(model, 5, "n", (chosen,)) == 2 * 5 * 8 * 3 * 36 * (3 * 2)
    for other in (chosen._replace(winograd=False), chosen._replace(name="8x3x3x3@9x9")):
        assert fewest_flops(model, 5, "n", (other,)) == as_defined


def test_every_convolution_of_a_shape_counts_so_and_nothing_else():
    model = graph("a = Conv(x, w) b = Conv(x, w) c = Add(a, b) y = Relu(c)")
    chosen = Layer("8x3x3x3@9x8", winograd=True, cost=0.5)
    elementwise = 2 * 8 * 9 * 8
    assert fewest_flops(model, 1, "n", (chosen,)) == 2 * (2 * 8 * 3 * 36 * 6) + elementwise


def test_tiles_that_reach_over_the_edge_make_no_more_products_than_the_definition():
    model = graph("y = Conv<strides = [10, 10]>(x, w)")
    chosen = Layer("8x3x3x3@1x1", winograd=True, cost=0.5)
    assert fewest_flops(model, 1, "n", (chosen,)) == 2 * 8 * 27


def test_a_call_is_measured_with_all_threads_and_with_one(lenet, tmp_path):
    signature = load(lenet.path, device="cpu").signature
    feed = make_feed(signature, 8)
    subject = Subject(str(lenet.path), signature, None, 1, feed, tmp_path)
    limit = Limit(8, 10**7, 4, complete=True, seconds=1e-2, bound="compute")
    found = measure_distance(subject, feed, limit, SLOW)
    assert (found.batch, found.threads) == (8, subject.predictor.plan.threads)
    assert 0 < found.call < found.time
    assert found.call == call_microseconds() < found.alone
    as_defined = graph_cost(ir.load(lenet.path), 8).totals.flops / SLOW.flops * 1e6
    if installed_library().path is None:
        assert found.limit == pytest.approx(as_defined)
    else:
        assert as_defined / 4 < found.limit < as_defined  # both of its convolutions run by Winograd's


def test_a_report_tells_it_where_that_was_asked_for(lenet, instant):
    options = {"schedule": instant, "scenario": Scenario("offline")}
    steps = []
    told = run(
        lenet.path, (1, 2), ("onnxruntime",), **options, distance=True, progress=lambda *s: steps.append(s)
    )
    assert [distance.batch for distance in told.distances] == [1, 2]
    assert [s[0] for s in steps[-2:]] == ["batch 1: where the time goes", "batch 2: where the time goes"]
    assert steps[-1][1:] == (len(steps) - 1, len(steps))
    assert run(lenet.path, (1,), ("onnxruntime",), **options).distances == ()


def test_it_is_shown_in_parts_of_the_time():
    found = dataclasses.replace(pages.report("net", (8,)), distances=(FOUND,))
    (section,) = sections(found)
    assert section.rows == [["8", "50.0", "74.0", "20 % compute", "8 %", "50 %", "22 %"]]
    assert len(section.columns) == 7
    assert "| net | 8 | 50.0 | 74.0 | 20 % compute | 8 % | 50 % | 22 % |" in grid.distances({"net": found})
    assert grid.distances({"net": pages.report("net", (8,))}) == ""
