"""Model repositories: what Triton's parser and checks make of them, and what is never overwritten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from runtime.graphs import build, conv_net, floats, manifest, spec

import nncompile
from nncompile import DeviceError, ModelLoadError, NncompileError
from nncompile.integrations import triton
from nncompile.integrations.triton_config import quoted
from nncompile_runtime import container
from nncompile_runtime.cuda_options import provider_options
from nncompile_runtime.manifest import FreeSize
from nncompile_runtime.plan import Plan

from .triton_server import config_of, parse, serve

NEG = helper.make_node("Neg", ["x"], ["y"])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """`saved(model, inputs, outputs, ...)`: the path of an artifact, about which the options say more."""

    def save(model: onnx.ModelProto, *ports: Any, name: str = "net", **about: Any) -> Path:
        path = tmp_path / f"{name}.onnx"
        container.write(path, container.append_manifest(model.SerializeToString(), manifest(*ports, **about)))
        return path

    return save


@pytest.fixture
def net(saved: Any) -> Path:
    return saved(*conv_net(), labels=("a", "b", "c", "d", "e"))


def shaped(saved: Any, *shape: Any, output: Any = None, node: Any = NEG, **about: Any) -> Path:
    ports = [spec("x", *shape)], [spec("y", *(shape if output is None else output))]
    return saved(build([node], *ports), *ports, **about)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


class TestConfiguration:
    def test_a_batched_model(self, net: Path, repository: Path) -> None:
        written = triton.write(net, repository)
        assert written == (repository / "net" / "1", 64, ())
        assert sorted(tree(repository)) == [
            "net",
            "net/1",
            "net/1/model.onnx",
            "net/config.pbtxt",
            "net/labels.txt",
        ]
        config = config_of(written.folder)
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (64, True)
        assert (list(config.input[0].dims), list(config.output[0].dims)) == ([1, 8, 8], [5])
        assert config.output[0].label_filename == "labels.txt"
        assert (repository / "net" / "labels.txt").read_text() == "a\nb\nc\nd\ne\n"
        x = floats(3, 1, 8, 8)
        (y,) = serve(written.folder).run(None, {"x": x})
        np.testing.assert_allclose(y, nncompile.load(net, device="cpu")(x), rtol=1e-5, atol=1e-6)

    def test_labels_of_no_output(self, saved: Any, repository: Path) -> None:
        """There are five scores and three labels: whose they are is not known."""
        written = triton.write(saved(*conv_net(), labels=("a", "b", "c")), repository)
        assert config_of(written.folder).output[0].label_filename == ""
        assert not (repository / "net" / "labels.txt").exists()

    def test_rows_that_depend_on_one_another_are_never_batched(self, saved: Any, repository: Path) -> None:
        """Two clients' rows in one call would answer each other's."""
        softmax = helper.make_node("Softmax", ["x"], ["y"], axis=0)
        file = shaped(saved, "batch", 4, node=softmax, rows_independent=False)
        written = triton.write(file, repository)
        config = config_of(written.folder)
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
        assert list(config.input[0].dims) == [-1, 4]
        assert written.notes[0].startswith("Requests are not batched: verification did not see")
        serve(written.folder)
        with pytest.raises(NncompileError, match="max_batch_size=8 does not suit"):
            triton.write(file, repository, name="other", max_batch_size=8)
        assert not (repository / "other").exists()

    @pytest.mark.parametrize(
        ("shape", "output", "node", "batch", "dims"),
        [
            (("batch", 4), ("batch", 4), NEG, 64, ([4], [4])),
            (("batch",), ("batch",), NEG, 64, ([1], [1])),
            (("batch", "n"), ("batch", "n"), NEG, 64, ([-1], [-1])),
            ((3, 4), (3, 4), NEG, 0, ([3, 4], [3, 4])),
            ((), (), NEG, 0, ([1], [1])),
            (("batch", 4), (), helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0), 0, ([-1, 4], [1])),
            (("batch", 4), ("2*batch", 4), helper.make_node("Concat", ["x", "x"], ["y"], axis=0), 0,
             ([-1, 4], [-1, 4])),
        ],
        ids=["rows", "numbers", "free", "static", "scalar", "sum", "doubled"],
    )  # fmt: skip
    def test_shapes(
        self, saved: Any, repository: Path, shape: Any, output: Any, node: Any, batch: int, dims: Any
    ) -> None:
        about = {"batch": "batch" if "batch" in shape else None}
        written = triton.write(shaped(saved, *shape, output=output, node=node, **about), repository)
        config = config_of(written.folder)
        assert config.max_batch_size == written.max_batch_size == batch
        assert (list(config.input[0].dims), list(config.output[0].dims)) == dims
        serve(written.folder)

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int8", "uint8", "uint16", "bool"])
    def test_dtypes(self, saved: Any, repository: Path, dtype: str) -> None:
        ports = [spec("x", "batch", 2, dtype=dtype)], [spec("y", "batch", 2, dtype=dtype)]
        model = build([helper.make_node("Identity", ["x"], ["y"])], *ports)
        serve(triton.write(saved(model, *ports), repository).folder)

    def test_bfloat16_is_float32_there(self, saved: Any, repository: Path) -> None:
        ports = [spec("x", "batch", 2)], [spec("y", "batch", 2)]
        said = [spec("x", "batch", 2, dtype="bfloat16")], [spec("y", "batch", 2, dtype="bfloat16")]
        serve(triton.write(saved(build([NEG], *ports), *said, precision="bfloat16"), repository).folder)

    def test_a_file_from_elsewhere(self, tmp_path: Path, repository: Path) -> None:
        ports = [spec("x", "n", 4)], [spec("y", "n", 4)]
        (tmp_path / "their.model.onnx").write_bytes(build([NEG], *ports).SerializeToString())
        written = triton.write(tmp_path / "their.model.onnx", repository)
        assert written[:2] == (repository / "their.model" / "1", 0)
        serve(written.folder)

    def test_options(self, net: Path, repository: Path) -> None:
        how = {"device": "cpu", "max_batch_size": 8, "instances": 3, "threads": 2}
        config = config_of(triton.write(net, repository, **how).folder)
        assert config.max_batch_size == 8
        assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, 2)  # KIND_CPU
        assert config.parameters["intra_op_thread_count"].string_value == "2"
        assert not config.HasField("optimization")

    def test_one_row_a_call(self, net: Path, repository: Path) -> None:
        """Then there is nothing to wait for."""
        assert not config_of(triton.write(net, repository, max_batch_size=1).folder).HasField(
            "dynamic_batching"
        )

    @pytest.mark.parametrize(
        ("device", "kind", "gpus"),
        [("auto", 0, []), ("cpu", 2, []), ("cuda", 1, []), ("cuda:0", 1, [0]), ("cuda:3", 1, [3])],
    )
    def test_devices(self, net: Path, repository: Path, device: str, kind: int, gpus: list[int]) -> None:
        config = config_of(triton.write(net, repository, device=device).folder)
        assert (config.instance_group[0].kind, list(config.instance_group[0].gpus)) == (kind, gpus)
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert [one.name for one in accelerators] == ([] if device == "cpu" else ["cuda"])

    @pytest.mark.parametrize("precision", ["float32", "tf32", "float16"])
    def test_on_a_gpu_as_exact_as_under_nncompile(self, saved: Any, repository: Path, precision: str) -> None:
        file = saved(*conv_net(), precision=precision)
        config = config_of(triton.write(file, repository, device="cuda").folder)
        (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        plan = Plan(provider="cuda", channels_last=precision == "float16")
        expected = provider_options(plan, precision)
        del expected["device_id"]
        assert dict(cuda.parameters) == expected
        assert cuda.parameters["use_tf32"] == ("0" if precision == "float32" else "1")

    @pytest.mark.parametrize("device", ["auto", "cpu"])
    def test_what_computes_in_bfloat16_needs_a_gpu(self, saved: Any, repository: Path, device: str) -> None:
        file = saved(*conv_net(), precision="bfloat16", target="cuda")
        with pytest.raises(DeviceError, match="bfloat16"):
            triton.write(file, repository, device=device)
        assert tree(repository) == {}
        triton.write(file, repository, device="cuda")

    @pytest.mark.parametrize(
        "text", ['a"b', "back\\new", "two\nlines", "größe", "日本", "\x00\x7f", "\x01", "octal 7", "'"]
    )
    def test_any_name_can_be_said(self, text: str) -> None:
        assert parse(f"input {{ name: {quoted(text)} }}").input[0].name == text
        assert parse(f"input {{ name: {quoted(text + '7')} }}").input[0].name == text + "7"


class TestPadBeforeMaxPool:
    """ONNX Runtime 1.31 folds Pad(0) into MaxPool as if it padded with -inf."""

    x = -1 - np.abs(floats(2, 1, 4, 4))

    @pytest.fixture
    def written(self, saved: Any, repository: Path) -> Path:
        nodes = [
            helper.make_node("Pad", ["x", "pads", "zero"], ["p"]),
            helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3]),
        ]
        ports = [spec("x", "batch", 1, 4, 4)], [spec("y", "batch", 1, 4, 4)]
        weights = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.float32(0)}
        written = triton.write(saved(build(nodes, *ports, weights), *ports), repository)
        assert written.notes == (
            "ONNX Runtime's optimisers are off: Pad_Fusion would change the answers, and Triton cannot "
            "switch off one alone.",
        )
        return written.folder

    def test_triton_answers_as_nncompile(self, written: Path) -> None:
        (y,) = serve(written).run(None, {"x": self.x})
        assert (y[:, :, 0] == 0).all()
        np.testing.assert_array_equal(y, nncompile.load(written / "model.onnx", device="cpu")(self.x))

    @pytest.mark.skipif(not ort.__version__.startswith("1.31."), reason="known of ONNX Runtime 1.31")
    def test_with_its_default_options_it_would_not(self, written: Path) -> None:
        path = written.parent / "config.pbtxt"
        path.write_text(path.read_text().replace("graph { level: 2 }", ""))
        (y,) = serve(written).run(None, {"x": self.x})
        assert (y[:, :, 0] < 0).all()


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


class TestVersions:
    def test_the_next_free_one(self, net: Path, repository: Path) -> None:
        for expected in ("1", "2"):
            assert triton.write(net, repository).folder.name == expected
        assert triton.write(net, repository, version=10).folder.name == "10"
        for folder in ("0", "011", "12a", "old"):
            (repository / "net" / folder).mkdir()
        assert triton.write(net, repository).folder.name == "11"

    def test_one_that_is_there_stays(self, net: Path, saved: Any, repository: Path) -> None:
        triton.write(net, repository)
        before = tree(repository)
        other = saved(*conv_net(), labels=("a", "b", "c", "d", "e"), target="cpu")
        with pytest.raises(NncompileError, match="net/1 exists"):
            triton.write(other, repository, version=1)
        assert tree(repository) == before
        assert triton.write(other, repository, version=1, overwrite=True).folder == repository / "net" / "1"
        assert tree(repository) == {**before, "net/1/model.onnx": other.read_bytes()}

    @pytest.mark.parametrize("what", ["config.pbtxt", "labels.txt"])
    def test_a_configuration_that_says_something_else_stays(
        self, net: Path, repository: Path, what: str
    ) -> None:
        triton.write(net, repository)
        changed, before = repository / "net" / what, tree(repository)
        changed.write_text("changed by hand\n")
        with pytest.raises(NncompileError, match=f"{what} is there and says something else"):
            triton.write(net, repository)
        assert tree(repository) == {**before, f"net/{what}": b"changed by hand\n"}
        triton.write(net, repository, overwrite=True)
        assert tree(repository) == {**before, "net/2": None, "net/2/model.onnx": net.read_bytes()}

    @pytest.mark.parametrize("first", [True, False])
    def test_a_failure_leaves_nothing(
        self, net: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, first: bool
    ) -> None:
        if not first:
            triton.write(net, repository)
        before = tree(repository)

        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(NncompileError, match="cannot be written: No space left") as caught:
            triton.write(net, repository)
        assert caught.value.remedy
        assert tree(repository) == before

    def test_everybody_may_read_what_is_written(self, net: Path, repository: Path) -> None:
        """Triton often runs as another user; temporary folders are their maker's own."""
        umask = os.umask(0o022)
        try:
            folder = triton.write(net, repository).folder
        finally:
            os.umask(umask)
        assert folder.stat().st_mode & 0o777 == 0o755
        assert (folder / "model.onnx").stat().st_mode & 0o777 == 0o644


class TestRefusals:
    @pytest.mark.parametrize(
        ("how", "fault"),
        [
            ({"name": "a/b"}, "'a/b' is no name"),
            ({"name": ".."}, r"'\.\.' is no name"),
            ({"name": ""}, "'' is no name"),
            ({"version": 0}, "version=0 is no version"),
            ({"version": -1}, "version=-1 is no version"),
            ({"max_batch_size": -1}, "max_batch_size=-1"),
            ({"max_batch_size": 2**31}, "max_batch_size=2147483648"),
            ({"instances": 0}, "instances=0"),
            ({"threads": 0}, "threads=0"),
            ({"device": "gpu"}, "Unknown device 'gpu'"),
        ],
    )
    def test_arguments(self, net: Path, repository: Path, how: Any, fault: str) -> None:
        with pytest.raises(NncompileError, match=fault) as caught:
            triton.write(net, repository, **how)
        assert caught.value.remedy
        assert tree(repository) == {}

    def test_a_label_of_two_lines(self, saved: Any, repository: Path) -> None:
        """It would shift the names of all classes behind it."""
        file = saved(*conv_net(), labels=("a", "b\nc", "d", "e", "f"))
        with pytest.raises(NncompileError, match=r"label 'b\\nc' has a line break"):
            triton.write(file, repository)
        assert tree(repository) == {}

    def test_no_file_and_no_repository(self, net: Path, repository: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelLoadError, match=r"missing\.onnx"):
            triton.write(tmp_path / "missing.onnx", repository)
        with pytest.raises(NncompileError, match="There is no folder"):
            triton.write(net, tmp_path / "missing")


def test_sizes_that_the_model_is_not_right_for_are_named(tmp_path: Path, repository: Path) -> None:
    ports = [spec("x", "batch", "n")], [spec("y", "batch", "n")]
    about = manifest(*ports)
    sizes = {"n": FreeSize(least=4, step=2, typical=8)}
    signature = about.signature.model_copy(update={"sizes": sizes})
    model = build([NEG], *ports).SerializeToString()
    data = container.append_manifest(model, about.model_copy(update={"signature": signature}))
    container.write(tmp_path / "net.onnx", data)
    (note,) = triton.write(tmp_path / "net.onnx", repository, device="cuda").notes
    assert (
        note
        == "Triton takes any size, and the model is right for n 4, 6, 8 and so on: check requests for it."
    )
