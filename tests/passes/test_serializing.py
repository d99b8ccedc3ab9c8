"""The bytes of a graph: what protobuf writes, weights of every size and dtype where they were."""

import numpy as np
import onnx_ir as ir
import pytest

from nncompile.passes.serializing import serialize

MIB = 2**20
NO_LIMIT = 2**31


def model(*tensors: ir.TensorProtocol) -> ir.Model:
    """A graph of one operator with these weights."""

    def value(tensor: ir.TensorProtocol) -> ir.Value:
        return ir.Value(
            name=tensor.name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype)
        )

    weights = [value(tensor) for tensor in tensors]
    x = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Neg", [x], name="negation")
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=weights, name="g", opset_imports={"": 20})
    return ir.Model(graph, ir_version=10, producer_name="test")


def weight(name, dtype="f4", size=2 * MIB, **options) -> ir.Tensor:
    values = np.random.default_rng(0).integers(0, 100, size // np.dtype(dtype).itemsize)
    return ir.Tensor(values.astype(dtype).reshape(2, -1), name=name, **options)


def protobufs(of: ir.Model) -> bytes:
    return ir.to_proto(of).SerializeToString(deterministic=True)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "u1", "?"])
@pytest.mark.parametrize("size", [MIB - 16, MIB, 3 * MIB])
def test_as_protobuf_writes_it(dtype, size):
    graph = model(weight("w", dtype, size))
    assert serialize(graph, NO_LIMIT) == protobufs(graph)


def test_several_weights_and_what_stands_beside_them():
    described = weight("c", doc_string="described", metadata_props={"k": "v"})
    graph = model(weight("a", "f8"), weight("small", size=64), weight("b"), described)
    graph.metadata_props["key"] = "value"
    assert serialize(graph, NO_LIMIT) == protobufs(graph)


def test_a_weight_that_is_not_contiguous():
    turned = ir.Tensor(np.arange(MIB, dtype="f4").reshape(1024, 1024).T, name="turned")
    graph = model(turned)
    assert not turned.numpy().flags.c_contiguous
    assert serialize(graph, NO_LIMIT) == protobufs(graph)


def test_a_weight_that_came_from_protobuf():
    graph = ir.from_proto(ir.to_proto(model(weight("w"))))
    assert serialize(graph, NO_LIMIT) == protobufs(graph)


def test_the_graph_keeps_its_weights():
    tensor = weight("w")
    graph = model(tensor)
    serialize(graph, NO_LIMIT)
    assert graph.graph.initializers["w"].const_value is tensor


def test_it_keeps_them_after_a_failure():
    def fails():
        raise OSError("no such weight")

    tensor = weight("w")
    lost = ir.LazyTensor(fails, dtype=ir.DataType.FLOAT, shape=ir.Shape([4]), name="lost")
    graph = model(tensor, lost)
    with pytest.raises(ir.serde.SerdeError):
        serialize(graph, NO_LIMIT)
    assert graph.graph.initializers["w"].const_value is tensor


@pytest.mark.parametrize("size", [64, 2 * MIB])
def test_the_limit(size):
    graph = model(weight("w", size=size))
    length = len(protobufs(graph))
    assert serialize(graph, length - 1) is None
    assert len(serialize(graph, length)) == length
