"""Where the time of a call goes beyond what the machine allows."""

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pages
import pytest
import torch

from nncompile.bench import Scenario, grid, run
from nncompile.bench.attribution import Network, call_microseconds, measure_distance
from nncompile.bench.ceilings import Ceilings, Rung
from nncompile.bench.distance import Distance, Stage
from nncompile.bench.engines import Subject
from nncompile.bench.inputs import make_feed
from nncompile.bench.least_work import fewest_flops, plain_graph
from nncompile.bench.roofline import Limit
from nncompile.bench.sections import sections
from nncompile.bench.stages import spans
from nncompile.costs import graph_cost
from nncompile_runtime import load
from nncompile_runtime.kernels import Layer, installed_library
from nncompile_runtime.plan import Plan

SLOW = Ceilings(2, 1e9, "a product", (Rung(2**17, 1e9),))
FOUND = Distance(8, time=50.0, limit=10.0, bound="compute", call=4.0, threads=2, alone=74.0)
WINOGRAD = Layer("8x3x3x3@9x8", winograd=True, cost=0.5)


def graph(body, ports="(float[n, 3, 11, 10] x) => (float[n, 8, h, v] y)"):
    """A model with weights of zeros: `w` of 8 x 3 x 3 x 3, `u` of 8 x 8 x 3 x 3, `m` of 8 x 8."""
    weights = "float[8, 3, 3, 3] w, float[8, 8, 3, 3] u, float[8, 8] m"
    text = f'<ir_version: 10, opset_import: ["": 20]> g {ports} <{weights}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (8, 3, 3, 3)), ("u", (8, 8, 3, 3)), ("m", (8, 8))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))
    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.output[0]}/{node.op_type}_{number}"
    return plain_graph(model.SerializeToString())


def cut(model, flops=None):
    return spans(model, flops or [1] * len(model.graph), Plan())


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
    assert fewest_flops(model, 5, "n", ()) == (as_defined,)
    assert graph_cost(model, 5, "n").totals.flops == as_defined
    assert fewest_flops(model, 5, "n", (WINOGRAD,)) == (2 * 5 * 8 * 3 * 36 * (3 * 2),)
    for other in (WINOGRAD._replace(winograd=False), WINOGRAD._replace(name="8x3x3x3@9x9")):
        assert fewest_flops(model, 5, "n", (other,)) == (as_defined,)


def test_along_the_rows_it_takes_more_products():
    """9 rows of 2 tiles, in each 6 products for each of the kernel's 3 rows; as defined 9 x 8 of 9."""
    model, rows = graph("y = Conv(x, w)"), WINOGRAD._replace(rows=True)
    assert fewest_flops(model, 5, "n", (rows,)) == (2 * 5 * 8 * 3 * (9 * 2 * 6 * 3),)
    assert fewest_flops(model, 5, "n", (rows._replace(winograd=False),)) == (2 * 5 * 8 * 3 * (9 * 8 * 9),)


@pytest.mark.parametrize(
    ("rows", "second"), [(False, 3 * 3 * 8 * 8), (True, 10 * 3 * 8 * 5)], ids=["tiles", "rows"]
)
def test_lenet5_by_hand(rows, second):
    """5 x 5: 8 products where 4 results take 20. 10 rows of 3 tiles, the last of 2 columns; 3 x 3 tiles."""
    ports, weights = "(float[n, 6, 14, 14] x) => (float[n, 16, h, v] y)", "float[16, 6, 5, 5] w"
    text = f'<ir_version: 10, opset_import: ["": 20]> g {ports} <{weights}> {{ y = Conv(x, w) }}'
    model = onnx.parser.parse_model(text)
    zeros = np.zeros((16, 6, 5, 5), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, "w"))
    layer = Layer("16x6x5x5@10x10", winograd=True, cost=0.4, rows=rows)
    assert fewest_flops(plain_graph(model.SerializeToString()), 1, "n", (layer,)) == (2 * 6 * 16 * second,)


def test_every_convolution_of_a_shape_counts_so_and_nothing_else():
    model = graph("a = Conv(x, w) b = Conv(x, w) c = Add(a, b) y = Relu(c)")
    products = 2 * 8 * 3 * 36 * 6
    assert fewest_flops(model, 1, "n", (WINOGRAD,)) == (products, products, 8 * 9 * 8, 8 * 9 * 8)


def test_tiles_that_reach_over_the_edge_make_no_more_products_than_the_definition():
    model = graph("y = Conv<strides = [10, 10]>(x, w)")
    assert fewest_flops(model, 1, "n", (WINOGRAD._replace(name="8x3x3x3@1x1"),)) == (2 * 8 * 27,)


def test_a_graph_is_cut_in_front_of_layers():
    model = graph("a = Conv(x, w) b = Relu(a) c = Conv(b, u) y = Relu(c)")
    first, last = cut(model)
    assert [(span.name, list(span.nodes)) for span in (first, last)] == [("a", [0, 1]), ("c", [2, 3])]
    assert (first.weights, last.weights) == (4 * 8 * 27, 4 * 8 * 72)
    assert last.until is None


def test_nothing_is_cut_where_a_second_value_passes_by():
    same = "Conv<pads = [1, 1, 1, 1]>"
    model = graph(f"a = Conv(x, w) b = {same}(a, u) c = {same}(b, u) d = Add(a, c) y = Conv(d, u)")
    assert [span.name for span in cut(model)] == ["a", "b to c", "y"]


def test_an_output_passes_by_everything_behind_it():
    ports = "(float[n, 3, 11, 10] x) => (float[n, 8, h, v] a, float[n, 8, i, j] y)"
    model = graph("a = Conv(x, w) b = Conv(a, u) c = Conv(b, u) y = Conv(c, u)", ports)
    assert [span.name for span in cut(model)] == ["a", "b to y"]


def test_nothing_is_cut_at_a_value_of_unknown_shape():
    model = graph("a = Conv(x, w) b = Relu(a) y = Conv(b, u)")
    list(model.graph)[1].outputs[0].shape = None
    assert [span.name for span in cut(model)] == ["a to y"]


def test_a_change_of_shape_belongs_to_the_layer_behind():
    ports = "(float[n, 3, 3, 3] x) => (float[n, 8] y)"
    body = "a = Conv(x, w) b = Flatten(a) y = Gemm<transB = 1>(b, m)"
    assert [list(span.nodes) for span in cut(graph(body, ports))] == [[0], [1, 2]]


def test_many_layers_are_six_parts_of_about_as_many_operations():
    layers = " ".join(f"v{n} = Conv<pads = [1, 1, 1, 1]>(v{n - 1}, u)" for n in range(1, 12))
    model = graph(f"v0 = Conv(x, w) {layers} y = Conv(v11, u)")
    parts = cut(model, [10, *[1] * 10, 5, 5])
    assert [list(part.nodes)[-1] for part in parts] == sorted({0, 5, 10, 11, 12} | {0})
    assert sum(len(part.nodes) for part in parts) == 13
    assert len(cut(model)) == 6


def test_a_part_answers_what_the_module_has_there(lenet):
    model = plain_graph(lenet.path.read_bytes())
    feed = make_feed(load(lenet.path, device="cpu").signature, 3)
    first, *others = spans(model, [1] * len(model.graph), Plan(threads=1))
    assert [part.name for part in (first, *others)] == ["conv1", "conv2", "fc1", "fc2", "fc3"]
    (found,) = first.until.run(feed)
    with torch.no_grad():
        hidden = torch.relu(lenet.module.conv1(torch.from_numpy(feed["x"])))
        wanted = torch.max_pool2d(hidden, 2).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    if installed_library().path is not None:
        assert all(part.until.native for part in (first, *others[:-1]))


def test_a_call_is_measured_with_all_threads_with_one_and_by_layers(lenet, tmp_path):
    signature = load(lenet.path, device="cpu").signature
    feed = make_feed(signature, 8)
    subject = Subject(str(lenet.path), signature, None, 1, feed, tmp_path)
    limit = Limit(8, 10**7, 4, complete=True, seconds=1e-2, bound="compute")
    found = measure_distance(Network.of(subject), feed, limit, SLOW, layers=True)
    assert (found.batch, found.threads) == (8, subject.predictor.plan.threads)
    assert 0 < found.call < found.time
    assert found.call == call_microseconds() < found.alone
    assert sum(stage.time for stage in found.stages) == pytest.approx(found.time - found.call)
    assert all(stage.time for stage in found.stages[1:-1])
    assert sum(stage.limit for stage in found.stages) >= found.limit * 0.999
    as_defined = graph_cost(ir.load(lenet.path), 8).totals.flops / SLOW.flops * 1e6
    if installed_library().path is None:
        assert found.limit == pytest.approx(as_defined)
    else:
        assert as_defined / 4 < found.limit < as_defined  # both of its convolutions run by Winograd's


def test_a_report_tells_it_where_that_was_asked_for(lenet, instant):
    options = {"schedule": instant, "scenario": Scenario("offline")}
    steps, batches = [], (1, 2, 3)
    told = run(
        lenet.path, batches, ("onnxruntime",), **options, distance=True, progress=lambda *s: steps.append(s)
    )
    assert [distance.batch for distance in told.distances] == [1, 2, 3]
    assert [len(distance.stages) for distance in told.distances] == [5, 0, 5]
    assert [s[0] for s in steps[-3:]] == [f"batch {b}: where the time goes" for b in batches]
    assert steps[-1][1:] == (len(steps) - 1, len(steps))
    assert run(lenet.path, (1,), ("onnxruntime",), **options).distances == ()


def test_it_is_shown_in_parts_of_the_time_and_by_layers():
    layers = (Stage("conv1", 30.0, 6.0), Stage("fc1", -0.5, 0.1))
    told = dataclasses.replace(FOUND, stages=layers)
    found = dataclasses.replace(pages.report("net", (8,)), distances=(told,))
    parts, by_layers = sections(found)
    assert parts.rows == [["8", "50.0", "74.0", "20 %", "compute", "8 %", "50 %", "22 %"]]
    assert len(parts.columns) == 8
    assert by_layers.rows == [["8", "conv1", "30.0", "6.00", "20 %"], ["8", "fc1", "-0.50", "0.10", "-"]]
    assert "| net | 8 | 50.0 | 74.0 | 20 % | compute | 8 % | 50 % | 22 % |" in grid.distances({"net": found})
    assert "| net | 8 | conv1 | 30.0 | 6.00 | 20 % |" in grid.layers({"net": found})
    quiet = {"net": pages.report("net", (8,))}
    assert grid.distances(quiet) == grid.layers(quiet) == ""
