import numpy as np
import pytest
import torch
from opening import opened

import nncompile
from nncompile.bench.correctness import rejected
from nncompile.bench.engines import EngineError, open_engine
from nncompile.bench.inputs import make_feed


def test_ncnn_runs_a_batch_alike_in_all_ways(lenet, subject_of):
    subject = subject_of(lenet.path, lenet.module, threads=2)
    with opened("ncnn", subject) as engine:
        arrays = [make_feed(subject.signature, 4, seed=5)["x"]]
        (expected,), *others = [way(arrays) for way in engine.ways()]
        assert expected.shape == (4, 10)
        assert len(others) == 3
        for (got,) in others:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_ncnn_keeps_to_float32_and_the_threads_given(lenet, subject_of):
    with opened("ncnn", subject_of(lenet.path, lenet.module, threads=2)) as engine:
        assert [net.opt.num_threads for net in engine._nets] == [2, 1]
        for net in engine._nets:
            half = [name for name in dir(net.opt) if "fp16" in name or "bf16" in name]
            assert half
            assert not any(getattr(net.opt, name) for name in half)


def test_ncnn_needs_the_module_and_float32(lenet, subject_of, tmp_path):
    with pytest.raises(EngineError, match="pnnx converts none"), opened("ncnn", subject_of(lenet.path)):
        pass
    path = tmp_path / "table.onnx"
    table = torch.nn.Embedding(5, 3)
    nncompile.compile(table, torch.zeros(2, 4, dtype=torch.int64)).save(path)
    with pytest.raises(EngineError, match="ncnn takes float32"), opened("ncnn", subject_of(path, table)):
        pass


def test_ncnn_says_what_pnnx_cannot_convert(lenet, subject_of):
    class Untraceable(torch.nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    with (
        pytest.raises(EngineError, match=r"pnnx cannot convert the module: .*not today"),
        opened("ncnn", subject_of(lenet.path, Untraceable())),
    ):
        pass


class Vectors(torch.nn.Module):
    """Linear layers alone, with an axis of length 1 besides: of such axes pnnx keeps some and drops some."""

    def __init__(self, *, kept_axis):
        super().__init__()
        self.linear = torch.nn.Linear(6, 4)
        self.kept_axis = kept_axis

    def forward(self, x):
        y = self.linear(torch.flatten(x, 1))
        return y.unsqueeze(1) if self.kept_axis else y


@pytest.mark.parametrize("kept_axis", [False, True])
def test_ncnn_answers_in_the_modules_shape(subject_of, tmp_path, kept_axis):
    module, path = Vectors(kept_axis=kept_axis), tmp_path / "vectors.onnx"
    nncompile.compile(module, torch.zeros(2, 1, 2, 3), verify=False).save(path)
    subject = subject_of(path, module)
    feed = make_feed(subject.signature, 3)
    with opened("ncnn", subject) as engine, open_engine("eager", subject) as eager:
        assert rejected({"eager": eager, "ncnn": engine}, "eager", feed, 3) == ()
        (answer,) = engine.run(feed)
    assert answer.shape == ((3, 1, 4) if kept_axis else (3, 4))


@pytest.mark.parametrize(
    ("shape", "wanted", "found"),
    [
        ((2, 1, 10), (10,), (2, 10)),
        ((2, 10), (1, 10, 1), (2, 1, 10, 1)),
        ((2, 1), (), (2,)),
        ((2, 1, 3, 4), (3, 1, 4), (2, 3, 1, 4)),
        ((2, 4, 3), (3, 4), (2, 4, 3)),
        ((2, 12), (3, 4), (2, 12)),
        ((2, 5), (10,), (2, 5)),
        ((2, 1, 10), ("k",), (2, 1, 10)),
    ],
)
def test_only_axes_of_length_1_come_and_go(shape, wanted, found):
    engine = pytest.importorskip("nncompile.bench.engines.ncnn", exc_type=ImportError)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    got = engine._with_units(array, wanted)
    assert got.shape == found
    np.testing.assert_array_equal(got.ravel(), array.ravel())
