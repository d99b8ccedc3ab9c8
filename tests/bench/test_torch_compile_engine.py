from functools import partial

import pytest
import torch

from nncompile.bench.engines import EngineError, open_engine, torch_compile
from nncompile.bench.inputs import make_feed


def test_without_a_compiler_torch_compile_is_left_out(lenet, subject_of):
    from torch._inductor import config, cpp_builder

    cpp_builder.cpp_compiler_search.cache_clear()
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(EngineError, match=r"needs a C\+\+ compiler.*Install g\+\+"),
        open_engine("torch-compile", subject_of(lenet.path, lenet.module)),
    ):
        pass


def test_no_batch_is_run_uncompiled(lenet, subject_of, monkeypatch):

    monkeypatch.setattr(torch_compile, "MOST_SHAPES", 1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    subject = subject_of(lenet.path, lenet.module)
    with torch_compile.compiled(subject, "torch-compile", "a test", {}) as engine:
        engine.run(make_feed(subject.signature, 2))
        with pytest.raises(Exception, match="recompile_limit"):
            engine.run(make_feed(subject.signature, 3))
