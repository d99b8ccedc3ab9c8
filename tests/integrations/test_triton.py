"""Model repositories: which version a file becomes, what is refused, and what is never overwritten."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from runtime.graphs import conv_net

from nncompile import ModelLoadError, NncompileError
from nncompile.integrations import triton

from .triton_server import tree


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
