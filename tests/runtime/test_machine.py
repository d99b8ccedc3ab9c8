"""Processors that may be used, and the fingerprint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nncompile_runtime import machine
from nncompile_runtime.machine import Machine, available_processors, installed_onnxruntime, this_machine


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may run on eight processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    # This machine's own cores must not decide what these tests see.
    monkeypatch.setattr(available_processors, "__defaults__", (machine._CGROUP, Path("/no/topology")))


@pytest.fixture
def fresh() -> Iterator[None]:
    """`this_machine` reads again, here and after the test."""
    this_machine.cache_clear()
    yield
    this_machine.cache_clear()


def version_2(folder: Path, text: str) -> Path:
    (folder / "cpu.max").write_text(text)
    return folder


def version_1(folder: Path, quota: str, period: str) -> Path:
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu" / "cpu.cfs_period_us").write_text(period)
    return folder


QUOTAS = [
    ("200000", "100000", 2),
    ("250000", "100000", 3),  # two and a half: a third thread has work half of the time
    ("50000", "100000", 1),
    ("1", "1000000", 1),
    ("3200000", "100000", 8),  # more than the affinity allows
    ("-1", "100000", 8),
    ("0", "100000", 8),
    ("100000", "0", 8),
    ("100000", "", 8),
    ("", "100000", 8),
    ("many", "100000", 8),
    ("nan", "100000", 8),
    ("inf", "100000", 8),
    ("1e300", "1e-300", 8),
]


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "period", "processors"), QUOTAS)
def test_a_quota_of_version_1(quota: str, period: str, processors: int, tmp_path: Path) -> None:
    assert available_processors(version_1(tmp_path, quota + "\n", period + "\n")) == processors


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("quota", "period", "processors"), [*QUOTAS, ("max", "100000", 8)])
def test_a_quota_of_version_2(quota: str, period: str, processors: int, tmp_path: Path) -> None:
    assert available_processors(version_2(tmp_path, f"{quota} {period}\n")) == processors


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize("text", ["", "\n", "max", "100000", "\x00\x01", "a b c", "100000,100000"])
def test_a_malformed_quota_is_no_limit(text: str, tmp_path: Path) -> None:
    assert available_processors(version_2(tmp_path, text)) == 8


@pytest.mark.usefixtures("eight")
def test_no_control_groups_and_unreadable_ones(tmp_path: Path) -> None:
    assert available_processors(tmp_path) == 8
    (tmp_path / "cpu.max").mkdir()
    assert available_processors(tmp_path) == 8
    (tmp_path / "cpu.max").rmdir()
    (tmp_path / "cpu.max").write_bytes(b"\xff\xfe 100000")
    assert available_processors(tmp_path) == 8


@pytest.mark.usefixtures("eight")
def test_version_2_goes_before_version_1(tmp_path: Path) -> None:
    assert available_processors(version_2(version_1(tmp_path, "100000", "100000"), "300000 100000")) == 3


def test_affinity_limits_where_the_quota_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert available_processors(version_2(tmp_path, "400000 100000")) == 1


def test_a_system_without_affinity_counts_its_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_processors(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_processors(tmp_path) == 1


def test_this_machine_is_read_once() -> None:
    here = this_machine()
    assert here is this_machine()
    assert here.processors == available_processors()
    assert here.onnxruntime in installed_onnxruntime().values()


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ([["onnxruntime-gpu"], ["onnxruntime"]], ["onnxruntime-gpu"]),
        ([["onnxruntime"], ["onnxruntime-gpu"]], ["onnxruntime"]),
        ([["onnxruntime", "onnxruntime-gpu"], []], ["onnxruntime", "onnxruntime-gpu"]),
        ([[], []], []),
    ],
)
def test_only_what_is_imported_is_installed(
    installed: list[list[str]], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two distributions in one folder overwrite each other; in two folders, the first is taken."""
    path = []
    for number, names in enumerate(installed):
        folder = tmp_path / str(number)
        path.append(str(folder))
        for name in names:
            about = folder / f"{name.replace('-', '_')}-1.{number}.dist-info"
            about.mkdir(parents=True)
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{number}\n")
            (folder / "onnxruntime").mkdir(exist_ok=True)
            (folder / "onnxruntime" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert list(installed_onnxruntime()) == found


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("text", "cpu", "flags"),
    [
        (
            "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\nflags\t\t: fpu avx2 fma avx512f avx2x\n\n",
            "Some CPU @ 2 GHz: fast",
            ("avx2", "fma", "avx512f"),
        ),
        ("processor\t: 0\nmodel name\t: Arm\nFeatures\t: fp asimd\n", "Arm", ("asimd",)),
    ],
)
def test_the_processor_is_described(
    text: str, cpu: str, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    assert (this_machine().cpu, this_machine().vector_flags) == (cpu, flags)


@pytest.mark.usefixtures("fresh")
def test_a_machine_that_says_nothing_has_a_fingerprint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(machine, "installed_onnxruntime", dict)
    assert this_machine().cpu
    assert "no vector flags" in this_machine().fingerprint


def test_the_fingerprint_tells_machines_apart() -> None:
    one = Machine("CPU", ("avx2",), 8, "1.31.1")
    others = [
        Machine("Other", ("avx2",), 8, "1.31.1"),
        Machine("CPU", ("avx2", "fma"), 8, "1.31.1"),
        Machine("CPU", ("avx2",), 4, "1.31.1"),
        Machine("CPU", ("avx2",), 8, "1.32.0"),
    ]
    assert len({m.fingerprint for m in [one, *others]}) == 5
    assert one.fingerprint == Machine("CPU", ("avx2",), 8, "1.31.1").fingerprint


def test_a_fingerprint_fits_the_manifest_and_keeps_what_matters() -> None:
    """A key of the manifest has at most 256 characters; a long processor name must not push out the rest."""
    small, large = (Machine("C" * 300, ("avx2",), count, "1.31.1").fingerprint for count in (2, 64))
    assert len(small) <= 256
    assert small != large


@pytest.mark.parametrize(
    ("siblings", "cores"),
    [({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, 2), ({0: "0", 1: "1", 2: "2", 3: "3"}, 4), ({}, 4)],
)
def test_hardware_threads_of_one_core_count_once(tmp_path, monkeypatch, siblings, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    for number, shared in siblings.items():
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{shared}\n")
    assert machine.available_processors(tmp_path / "none", tmp_path) == cores
