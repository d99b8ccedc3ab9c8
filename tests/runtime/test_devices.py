"""Which device a request stands for, and that a strict one is never silently the CPU."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from nncompile import DeviceError, load
from nncompile_runtime.devices import _SIGNS, candidates, say_cpu

from .graphs import build, predictor, spec

without_gpu = pytest.mark.skipif(
    any(sign.exists() for sign in _SIGNS), reason="this machine has an NVIDIA driver"
)


def names(device: str, signs: Sequence[Path]) -> list[str]:
    return [str(candidate) for candidate in candidates(device, signs)]


def test_requests(tmp_path: Path) -> None:
    missing = [tmp_path / "missing", tmp_path / "gone"]
    driver = [missing[0], tmp_path]  # one sign is enough
    for there in (driver, missing):
        assert names("cpu", there) == ["cpu"]
        assert names("cuda", there) == ["cuda:0"]
        assert names("cuda:1", there) == ["cuda:1"]
        assert names("cuda:255", there) == ["cuda:255"]
    assert names("auto", driver) == ["cuda:0", "cpu"]
    assert names("auto", missing) == ["cpu"]


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    """What `auto` says once a process is said anew."""
    say_cpu.cache_clear()


NAMES = ["tpu", "", "gpu", "CPU", "cpu:0", "auto:0"]
INDICES = ["cuda:", "cuda:x", "cuda:-1", "cuda:256", "cuda:1:2", "cuda: 1", "cuda:²"]


@pytest.mark.parametrize("device", [*NAMES, *INDICES, None, 0])
def test_an_unknown_device_is_an_error(device: Any, artifact: Path) -> None:
    with pytest.raises(DeviceError, match="Unknown device") as caught:
        load(artifact, device=device)
    assert "cuda:1" in caught.value.remedy


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_an_error(device: str, artifact: Path) -> None:
    with pytest.raises(DeviceError, match="CUDAExecutionProvider") as caught:
        load(artifact, device=device)
    assert caught.value.remedy


@without_gpu
def test_auto_takes_the_cpu_and_says_so(artifact: Path, log: pytest.LogCaptureFixture) -> None:
    assert load(artifact).device == "cpu"
    assert any("running on the CPU" in record.getMessage() for record in log.records)


@without_gpu
def test_auto_takes_the_cpu_where_a_driver_cannot_be_used(
    artifact: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(candidates, "__defaults__", ((tmp_path,),))
    assert load(artifact, device="auto").device == "cpu"
    (warning,) = [record for record in log.records if record.levelno == logging.WARNING]
    assert "running on the CPU, because" in warning.getMessage()


@without_gpu
def test_auto_says_so_once(artifact: Path, log: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        load(artifact)
    assert len([record for record in log.records if "running on the CPU" in record.getMessage()]) == 1


@without_gpu
def test_nothing_is_printed(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to the data."""
    with pytest.raises(DeviceError):
        load(artifact, device="cuda")
    load(artifact, device="auto")
    assert capfd.readouterr().out == ""


def test_a_plan_that_contradicts_the_device_is_an_error() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = build([node], [spec("x", 1)], [spec("y", 1)])
    for device, provider in (("cpu", "cuda"), ("cuda", "cpu"), ("cuda:1", "cuda")):
        with pytest.raises(DeviceError, match="contradicts"):
            predictor(model, device=device, plan={"provider": provider})


@without_gpu
def test_auto_does_not_overrule_the_users_plan(artifact: Path) -> None:
    assert load(artifact, plan={"provider": "cpu"}).device == "cpu"
    with pytest.raises(DeviceError, match="CUDAExecutionProvider"):
        load(artifact, plan={"provider": "cuda"})
