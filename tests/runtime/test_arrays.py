"""Arrays from and to .npy and .npz files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nncompile import InputError, NncompileError
from nncompile_runtime.arrays import read_arrays, write_arrays

from .graphs import floats, spec


def test_one_array_round_trips_as_npy(tmp_path: Path) -> None:
    x = floats(3, 4)
    write_arrays(tmp_path / "x.npy", [spec("x", 3, 4)], [x])
    (positional,), named = read_arrays(tmp_path / "x.npy")
    assert named == {}
    np.testing.assert_array_equal(positional, x, strict=True)


def test_arrays_round_trip_by_name_as_npz(tmp_path: Path) -> None:
    arrays = {"x": floats(3), "file": np.arange(4), "allow_pickle": np.ones((), bool)}
    write_arrays(tmp_path / "x.npz", [spec(name) for name in arrays], list(arrays.values()))
    positional, named = read_arrays(tmp_path / "x.npz")
    assert positional == ()
    assert named.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(named[name], array, strict=True)


def test_several_arrays_do_not_fit_one_npy(tmp_path: Path) -> None:
    with pytest.raises(NncompileError, match=r"2 outputs.*npz"):
        write_arrays(tmp_path / "x.npy", [spec("a"), spec("b")], [floats(1), floats(1)])
    assert list(tmp_path.iterdir()) == []


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}], object))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=f"{name}.*pickle"):
            read_arrays(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file") as caught:
        read_arrays(tmp_path / "x.npy")
    assert caught.value.remedy == "Check the path and its permissions."
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(InputError, match="it holds no array") as caught:
        read_arrays(tmp_path / "text.npy")
    assert "pickle" not in str(caught.value)
    assert caught.value.remedy == "Give a .npy or .npz file of plain numbers."
    with pytest.raises(InputError, match="directory"):
        read_arrays(tmp_path)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_damaged_file_is_refused(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / f"x.{suffix}"
    save = np.save if suffix == "npy" else np.savez_compressed
    save(whole, floats(40, 3))
    data, rng = whole.read_bytes(), random.Random(0)
    damaged = [data[:cut] for cut in range(0, len(data), max(1, len(data) // 25))]
    for _ in range(100):
        changed = bytearray(data)
        for _ in range(4):
            changed[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        damaged.append(bytes(changed))
    refusals = []
    for content in damaged:
        whole.write_bytes(content)
        try:
            read_arrays(whole)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) >= 25
    assert all(str(whole) in refusal for refusal in refusals)
