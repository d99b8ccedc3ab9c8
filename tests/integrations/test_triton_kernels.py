"""Fused regions under Triton: inlined, or run by the native kernels where these are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.graphs import floats

import nncompile
from nncompile import NncompileError
from nncompile.integrations import triton
from nncompile_runtime import container

from .triton_server import config_of, serve, tree


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one fused region, through the whole compiler."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3), torch.nn.Flatten()
    path = tmp_path_factory.mktemp("regions") / "regions.onnx"
    model = nncompile.compile(torch.nn.Sequential(*layers).eval(), torch.randn(2, 1, 6, 6))
    model.save(path)
    assert model.manifest.verification.rows_independent
    return path


class TestFusedRegions:
    def test_without_the_kernels(self, regions: Path, repository: Path) -> None:
        written = triton.write(regions, repository, device="cpu")
        assert written.notes[0].startswith("Fused regions run on ONNX Runtime's own kernels")
        x = floats(5, 1, 6, 6)
        (y,) = serve(written.folder).run(None, {nncompile.load(regions, device="cpu").inputs[0].name: x})
        np.testing.assert_allclose(y, nncompile.load(regions, device="cpu")(x), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("threads", [1, 2, None])
    def test_with_the_kernels(self, regions: Path, repository: Path, threads: int | None) -> None:
        """Also where the session has fewer threads than the kernels reckon with, who are not told."""
        kernels = pytest.importorskip("nncompile_kernels", reason="nncompile-kernels is not installed")
        path = kernels.library_path()
        written = triton.write(regions, repository, device="cpu", threads=threads, kernels=path)
        assert written.notes == ()
        assert list(config_of(written.folder).model_operations.op_library_filename) == [path]
        ours, theirs = nncompile.load(regions, device="cpu"), serve(written.folder)
        assert ours.native
        for rows in (1, 2, 3, 40):
            x = floats(rows, 1, 6, 6)
            np.testing.assert_array_equal(theirs.run(None, {ours.inputs[0].name: x})[0], ours(x))

    @pytest.mark.parametrize(
        ("how", "fault"),
        [
            ({"device": "cuda"}, "they are for the CPU, and the device is 'cuda'"),
            ({}, "they are for the CPU, and the device is 'auto'"),
            ({"device": "cpu", "kernels": "kernels.so"}, "'kernels.so' is no absolute path"),
        ],
    )
    def test_kernels_refused(self, regions: Path, repository: Path, how: Any, fault: str) -> None:
        with pytest.raises(NncompileError, match=fault):
            triton.write(regions, repository, **{"kernels": "/kernels.so", **how})
        assert tree(repository) == {}

    def test_no_kernels_for_what_has_no_region_or_is_exact(
        self, net: Path, regions: Path, repository: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(NncompileError, match="has no fused regions"):
            triton.write(net, repository, device="cpu", kernels="/kernels.so")
        model = container.read(regions)
        exact = model.manifest.model_copy(update={"exact": True})
        container.write(tmp_path / "exact.onnx", container.replace_manifest(model.data, exact))
        with pytest.raises(NncompileError, match="exact=True"):
            triton.write(tmp_path / "exact.onnx", repository, device="cpu", kernels="/kernels.so")
