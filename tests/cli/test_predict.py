import json

import numpy as np
import pytest
import torch
from PIL import Image

import nncompile


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype("f4")


def expected(exported, x):
    with torch.no_grad():
        return exported.net(torch.from_numpy(x)).numpy()


def test_npy_to_npy(run, folder, exported, batch):
    np.save(folder / "x.npy", batch)
    assert run("predict", exported.model, "x.npy", "-o", "y.npy", "-b", "2").code == 0
    np.testing.assert_allclose(np.load(folder / "y.npy"), expected(exported, batch), rtol=1e-4, atol=1e-5)


def test_npz_by_name_to_npz(run, folder, exported, batch):
    np.savez(folder / "x.npz", x=batch)
    assert run("predict", exported.model, "x.npz", "-o", "y.npz").code == 0
    got = np.load(folder / "y.npz")["output"]
    np.testing.assert_allclose(got, expected(exported, batch), rtol=1e-4, atol=1e-5)


def test_rows_as_json_lines_on_stdout(run, folder, exported, batch):
    np.save(folder / "x.npy", batch)
    result = run("predict", exported.model, "x.npy")
    lines = [json.loads(line) for line in result.out.splitlines()]
    answer = expected(exported, batch)
    assert [line["index"] for line in lines] == answer.argmax(1).tolist()
    assert [line["label"] for line in lines] == [("cat", "dog", "eel")[i] for i in answer.argmax(1)]
    assert [line["row"] for line in lines] == list(range(5))
    np.testing.assert_allclose([line["score"] for line in lines], answer.max(1), rtol=1e-4)


def test_a_folder_of_images(run, folder, exported):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    (folder / "images").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "images" / f"{3 - i}.png")
    (folder / "images" / "notes.txt").write_text("not an image")
    assert run("predict", exported.model, "images", "-o", "y.jsonl", "-b", "3").code == 0
    lines = [json.loads(line) for line in (folder / "y.jsonl").read_text().splitlines()]
    x = ((pixels[::-1, None] / 255 - 0.5) / 0.25).astype("f4")
    assert [line["input"] for line in lines] == [f"images/{i}.png" for i in range(4)]
    assert [line["index"] for line in lines] == expected(exported, x).argmax(1).tolist()


def test_an_empty_batch(run, folder, exported, batch):
    np.save(folder / "x.npy", batch[:0])
    assert run("predict", exported.model, "x.npy", "-o", "y.npy").code == 0
    assert np.load(folder / "y.npy").shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.npy"], "none.npy cannot be read"),
        (["x.npy", "a.png"], "Arrays and images are mixed"),
        (["empty"], "There are no images in empty"),
        (["wrong.npy"], "expects float32[batch, 1, 8, 8], got dtype float64"),
        (["objects.npy"], "objects.npy cannot be read"),
        (["broken.npz"], "broken.npz cannot be read"),
        (["broken.png"], "broken.png cannot be read as an image"),
        (["x.npy", "-o", "missing/y.npy"], "There is no folder missing"),
    ],
)
def test_errors(run, folder, exported, batch, arguments, problem):
    np.save(folder / "x.npy", batch)
    np.save(folder / "wrong.npy", batch.astype("f8"))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "empty").mkdir()
    for name in ("broken.npz", "broken.png"):
        (folder / name).write_bytes(b"no")
    result = run("predict", exported.model, *arguments)
    assert result.code == 1
    assert problem in result.err
    assert "fix: " in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["x.npy", "-o", "y.csv"], "not clear how to write y.csv"),
        (["x.npy", "--device", "tpu"], "Unknown device 'tpu'"),
    ],
)
def test_options_that_are_not_offered(run, exported, arguments, problem):
    """Wrong whatever the files hold: x.npy is not even there."""
    result = run("predict", exported.model, *arguments)
    assert result.code == 2
    assert problem in result.err
    assert "fix: " in result.err


def test_a_missing_input_is_a_matter_of_its_path(run, exported):
    for name in ("none.npy", "none.png"):
        result = run("predict", exported.model, name)
        assert result.code == 1
        assert "No such file or directory." in result.err
        assert "fix: Check the path" in result.err


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "cannot be read"), (b"", "is empty"), (b"nonsense", "not an ONNX"), ("cut", "changed|truncated")],
)
def test_bad_model_files(run, folder, exported, batch, content, problem):
    np.save(folder / "x.npy", batch)
    if content is not None:
        data = exported.model.read_bytes()[:-1000] if content == "cut" else content
        (folder / "bad.onnx").write_bytes(data)
    result = run("predict", "bad.onnx", "x.npy")
    assert result.code == 1
    assert any(word in result.err for word in problem.split("|"))


def strict(line):
    return json.loads(line, parse_constant=pytest.fail)


def test_json_has_no_nan(run, folder, exported, batch):
    batch[1] = np.nan
    np.save(folder / "x.npy", batch)
    lines = [strict(line) for line in run("predict", exported.model, "x.npy").out.splitlines()]
    assert lines[1] == {"input": "x.npy", "row": 1, "index": None, "score": None}
    assert all(line["index"] is not None for line in lines[:1] + lines[2:])


def test_json_has_no_nan_in_values(run, folder):
    nncompile.compile(torch.nn.ReLU(), torch.randn(2, 3, 2)).save(folder / "relu.onnx")
    np.save(folder / "x.npy", np.array([[[1, np.nan], [np.inf, 2], [3, 4]]], "f4"))
    (line,) = run("predict", "relu.onnx", "x.npy").out.splitlines()
    assert strict(line)["output"] == [[1.0, None], [None, 2.0], [3.0, 4.0]]


def test_the_folder_of_the_output_is_looked_at_first(run, exported):
    result = run("predict", exported.model, "missing.npy", "-o", "nowhere/y.npy")
    assert (result.code, result.out) == (1, "")
    assert "There is no folder nowhere" in result.err


def test_the_error_names_the_file(run, folder, exported, batch):
    np.save(folder / "x.npy", batch)
    np.save(folder / "y.npy", batch[0])
    result = run("predict", exported.model, "x.npy", "y.npy")
    assert result.code == 1
    assert "error: y.npy: Input 'x' expects" in result.err
