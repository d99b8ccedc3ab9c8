"""Which graphs keep the rows of a batch apart: what comparing answers on the example's masks cannot show."""

import onnx
import onnx_ir as ir
import pytest
import torch
from row_wise import Of

import nncompile
from nncompile.verify.rows import joining_node

JOINING = {
    "a maximum over rows": ("ReduceMax<keepdims = 0>(x, zero)", "float[4]"),
    "one that keeps the axis": ("ReduceSum(x, zero)", "float[1, 4]"),
    "over all axes": ("ReduceMin<keepdims = 0>(x)", "float"),
    "a product over rows": ("MatMul(t, x)", "float[4, 4]"),
    "one row": ("Gather(x, zero)", "float[1, 4]"),
    "the first rows": ("Slice(x, zero, one, zero)", "float[1, 4]"),
    "all but the first": ("Slice(x, one, far, zero)", "float[fewer, 4]"),
    "backwards": ("Slice(x, one, least, zero, least)", "float[n, 4]"),
    "up to what is computed": ("Slice(x, zero, end, zero)", "float[n, 4]"),
    "other rows": ("Gather(x, order)", "float[n, 4]"),
    "sums so far": ("CumSum(x, first)", "float[n, 4]"),
    "shares of rows": ("Softmax<axis = 0>(x)", "float[n, 4]"),
    "an order of rows": ("Softmax<axis = -2>(x)", "float[n, 4]"),
    "a maximum of rows and places": ("ReduceMax<keepdims = 0>(flat)", "float"),
}
APART = {
    "a maximum over columns": ("ReduceMax<keepdims = 0>(x, one)", "float[n]"),
    "columns with weights": ("MatMul(x, w)", "float[n, 4]"),
    "one column": ("Gather<axis = 1>(x, one)", "float[n, 1]"),
    "all rows": ("Slice(x, zero, far, zero)", "float[n, 4]"),
    "some columns": ("Slice(x, zero, end, one)", "float[n, 4]"),
    "shares of columns": ("Softmax(x)", "float[n, 4]"),
    "rows of a table": ("Gather(w, order)", "float[n, 4]"),
    "how many rows": ("Shape(x)", "int64[2]"),
    "rows that data picks": ("Compress<axis = 0>(x, picked)", "float[u0, 4]"),
    "what is like a row": ("CastLike(w, x)", "float[4, 4]"),
}


COMPUTED = {"fewer": "n - 1", "several": "4*n"}  # the text format has names of sizes alone


def parsed(text):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
    for value in (*model.graph.value_info, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in COMPUTED:
                size.dim_param = COMPUTED[size.dim_param]
    return ir.from_proto(model).graph


def of(nodes, result):
    """A graph that ends in one node on `x`, its transpose `t`, or the two axes as one."""
    text = f"""g (float[n, 4] x, int64[n] order, int64[1] end, bool[n] picked) => ({result} y)
        <float[4, n] t, float[several] flat, int64[1] zero = {{0}}, int64[1] one = {{1}},
         int64[1] far = {{9223372036854775807}}, int64[1] least = {{-9223372036854775807}},
         int64 first = {{0}}, float[4, 4] w>
        {{ t = Transpose<perm = [1, 0]>(x) m = Constant<value_ints = [-1]>() flat = Reshape(x, m)
           y = {nodes} }}"""
    return parsed(text)


@pytest.mark.parametrize("name", JOINING)
def test_what_joins_rows(name):
    node = joining_node(of(*JOINING[name]), "n")
    assert node is not None
    assert node.outputs[0].name == "y"


@pytest.mark.parametrize("name", APART)
def test_what_keeps_them_apart(name):
    assert joining_node(of(*APART[name]), "n") is None


def test_a_tensor_without_sizes_has_rows_where_its_source_has():
    text = "g ({} x) => (float y) {{ z = Abs(x) y = ReduceMax<keepdims = 0>(z) }}"
    for shape, joined in (("float[n, 4]", True), ("float[3, 4]", False)):
        assert (joining_node(parsed(text.format(shape)), "n") is not None) == joined


@pytest.mark.parametrize(("axis", "apart"), [(0, False), (1, True)])
def test_a_mask_that_is_true_everywhere_in_the_example(axis, apart):
    """With pieces of its batch, each would have another answer; the example's rows never showed it."""
    net = Of(lambda x, mask: x * mask.any(axis, keepdim=True))
    model = nncompile.compile(net, (torch.randn(2, 4), torch.ones(2, 4, dtype=torch.bool)))
    assert model.rows_independent == apart


@pytest.mark.parametrize(("largest", "apart"), [(torch.Tensor.max, False), (lambda i: i.amax(1, True), True)])
def test_integers_of_which_the_example_has_few_rows(largest, apart):
    net = Of(lambda ids: ids / largest(ids))
    assert nncompile.compile(net, torch.tensor([[1, 3], [2, 9]])).rows_independent == apart
