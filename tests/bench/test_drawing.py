"""Graphs as lists with rails."""

import re

import onnx
import onnx_ir as ir
import pytest
import torch

from nncompile.bench.drawing import draw


def drawn(text, batch=2):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
    return draw(ir.from_proto(model), batch)


def tops(line):
    return {float(x) for path in line.paths for x in re.findall(r"^M([\d.]+) 0", path)}


def bottoms(line):
    straight = {float(x) for path in line.paths for x in re.findall(r"^M([\d.]+) 0V1$", path)}
    return straight | {float(x) for path in line.paths for x in re.findall(r" ([\d.]+) 1$", path)}


def assert_rails_meet(drawing):
    """What leaves a line at the bottom enters the next one at the top, and nothing else does."""
    assert tops(drawing.lines[0]) == set()
    for above, below in zip(drawing.lines, drawing.lines[1:], strict=False):
        assert bottoms(above) == tops(below)
    assert bottoms(drawing.lines[-1]) == set()
    for line in drawing.lines:
        assert all(0 < x < drawing.width for x in {line.at, *tops(line)})


CHAIN = "g (float[n, 4] x) => (float[n, 4] y) { a = Relu(x) y = Exp(a) }"
RESIDUAL = "g (float[n, 4] x) => (float[n, 4] y) { a = Relu(x) b = Exp(a) y = Add(b, x) }"


def test_a_chain_stays_on_one_rail():
    drawing = drawn(CHAIN)
    assert [line.operator for line in drawing.lines] == ["input", "Relu", "Exp", "output"]
    assert {line.at for line in drawing.lines} == {drawing.lines[0].at}
    assert [line.shape for line in drawing.lines] == ["", "2x4", "2x4", ""]
    assert [line.flops for line in drawing.lines] == ["", "8", "8", ""]
    assert drawing.nodes == 2
    assert_rails_meet(drawing)


def test_a_value_keeps_its_rail_until_its_last_reader():
    drawing = drawn(RESIDUAL)
    assert_rails_meet(drawing)
    relu, exp, add = drawing.lines[1:4]
    first = drawing.lines[0].at
    assert first in bottoms(relu)
    assert first in bottoms(exp)
    assert len(tops(add)) == 2
    assert len(bottoms(add)) == 1


def test_outputs_that_nobody_reads_have_no_rail():
    drawing = drawn(
        "g (float[4, 2] x) => (float[2, 2] y) { a, b = Split<axis = 0, num_outputs = 2>(x) y = Exp(a) }"
    )
    assert_rails_meet(drawing)
    assert len(bottoms(drawing.lines[1])) == 1


def test_a_graph_output_that_is_read_again_runs_down_to_the_end():
    drawing = drawn("g (float[n] x) => (float[n] a, float[n] y) { a = Relu(x) y = Exp(a) }")
    assert [line.operator for line in drawing.lines[-2:]] == ["output", "output"]
    assert_rails_meet(drawing)


def test_a_value_that_is_read_twice_by_one_node():
    assert_rails_meet(drawn("g (float[n] x) => (float[n] y) { y = Mul(x, x) }"))


def test_an_input_that_is_also_an_output():
    assert_rails_meet(drawn("g (float[n] x) => (float[n] x, float[n] y) { y = Relu(x) }"))


def test_many_values_at_once_stay_within_the_page():
    nodes = "".join(f"a{i} = Exp(x) " for i in range(100))
    drawing = drawn(
        f"g (float[n] x) => (float[n] y) {{ {nodes} y = Sum({', '.join(f'a{i}' for i in range(100))}) }}"
    )
    assert drawing.nodes == 101
    assert drawing.width <= 100
    assert drawing.operators == (("Exp", 100), ("Sum", 1))
    assert_rails_meet(drawing)


@pytest.mark.parametrize("region", [True, False])
def test_a_compiled_network(lenet, region, tmp_path):
    import nncompile

    path = lenet.path
    if not region:
        path = tmp_path / "apart.onnx"
        torch.manual_seed(0)
        skipped = ["outline-fused-regions"]
        nncompile.compile(lenet.module, torch.randn(2, 1, 32, 32), disabled_passes=skipped).save(path)
    drawing = draw(ir.load(path), 4, "batch")
    assert_rails_meet(drawing)
    kinds = [line.kind for line in drawing.lines]
    assert kinds[0] == kinds[-1] == "port"
    if region:
        assert kinds == ["port", "region", "port"]
        assert drawing.lines[1].contains.count("Conv") == 2
    else:
        assert kinds.count("layer") == 5
        assert kinds.count("pool") == 2
    assert drawing.lines[-2].shape == "4x10"
