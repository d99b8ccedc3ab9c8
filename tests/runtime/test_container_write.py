"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nncompile import NncompileError
from nncompile_runtime import container


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def raising(error: BaseException) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_a_new_file_is_written(tmp_path: Path) -> None:
    container.write(tmp_path / "a.onnx", b"one")
    container.write(str(tmp_path / "b.onnx"), b"two")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.onnx": b"one", "b.onnx": b"two"}


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"a longer old content")
    container.write(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    step: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, raising(OSError(code, os.strerror(code))))
    with pytest.raises(NncompileError, match=os.strerror(code)) as caught:
        container.write(path, b"new")
    assert str(path) in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.onnx": b"old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interruption_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        container.write(path, b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.onnx": b"old"}


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)

        def recorded(*args: Any, _name: str = name, _original: Any = original) -> Any:
            steps.append(_name)
            return _original(*args)

        monkeypatch.setattr(os, name, recorded)
    container.write(tmp_path / "a.onnx", b"new")
    assert steps[:2] == ["fsync", "replace"]


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(NncompileError, match=r"missing.*cannot be written"):
        container.write(tmp_path / "missing" / "a.onnx", b"new")
    (tmp_path / "taken").mkdir()
    with pytest.raises(NncompileError, match="taken"):
        container.write(tmp_path / "taken", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_files_mode_follows_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    with umask(mask):
        container.write(tmp_path / "a.onnx", b"new")
        assert os.umask(mask) == mask
    assert (tmp_path / "a.onnx").stat().st_mode & 0o777 == mode


def test_an_old_files_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with umask(0o077):
        container.write(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_long_name_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / ("模" * 80 + ".onnx")  # 245 of 255 bytes
    container.write(path, b"new")
    assert path.read_bytes() == b"new"


def test_of_several_writers_one_wins_whole(tmp_path: Path) -> None:
    contents = [bytes([65 + i]) * 100_000 for i in range(4)]
    threads = [
        threading.Thread(target=container.write, args=(tmp_path / "a.onnx", content)) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.onnx").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1
