import json

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import nncompile
from nncompile.cli import predict
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor


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


@pytest.fixture
def foreign(folder):
    """`foreign(text)`: a plain ONNX file, of which nobody knows whether its rows are independent."""

    def save(text):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{text}')
        onnx.save(model, "foreign.onnx")
        return "foreign.onnx"

    return save


@pytest.fixture
def sizes(monkeypatch):
    """The rows of each call, with no more than two at once by default."""
    seen, original = [], Predictor.predict

    def spy(net, **inputs):
        seen.append(len(inputs["x"]))
        return original(net, **inputs)

    monkeypatch.setattr(Predictor, "predict", spy)
    monkeypatch.setattr(predict, "_ROWS", 2)
    return seen


def test_independent_rows_are_cut(run, folder, exported, batch, sizes):
    np.save(folder / "x.npy", batch)
    assert run("predict", exported.model, "x.npy", "-o", "y.npy").code == 0
    assert sizes == [2, 2, 1]
    np.testing.assert_allclose(np.load(folder / "y.npy"), expected(exported, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "cut"), [([], [5]), (["-b", "3"], [3, 2])])
def test_other_rows_stay_together_unless_asked_for(run, folder, foreign, sizes, options, cut):
    x = np.random.default_rng(0).normal(size=(5, 2)).astype("f4")
    np.save(folder / "x.npy", x)
    model = foreign("g (float[n, 2] x) => (float[n, 2] y) { y = Softmax<axis = 0>(x) }")
    assert run("predict", model, "x.npy", "-o", "y.npy", *options).code == 0
    assert sizes == cut
    parts = [torch.from_numpy(part).softmax(0).numpy() for part in np.split(x, np.cumsum(cut)[:-1])]
    np.testing.assert_allclose(np.load(folder / "y.npy"), np.concatenate(parts), rtol=1e-5)


def test_rows_that_depend_on_one_another_stay_together(run, folder, exported, batch, sizes):
    model = container.read(exported.model)
    seen = model.manifest.verification.model_copy(update={"rows_independent": False})
    about = model.manifest.model_copy(update={"verification": seen})
    container.write("depend.onnx", container.replace_manifest(model.data, about))
    np.save(folder / "x.npy", batch)
    assert run("predict", "depend.onnx", "x.npy", "-o", "y.npy").code == 0
    assert sizes == [5]


PAIR = "g (float[n, 2] x, float[{}, 2] z) => (float[n, k] y) {{ t = Transpose(z) y = MatMul(x, t) }}"


def test_an_input_without_a_batch_is_not_cut(run, folder, foreign, sizes):
    x, z = np.ones((5, 2), "f4"), np.arange(6, dtype="f4").reshape(3, 2)
    np.savez(folder / "x.npz", x=x, z=z)
    assert run("predict", foreign(PAIR.format("k")), "x.npz", "-o", "y.npy", "-b", "2").code == 0
    assert sizes == [2, 2, 1]
    np.testing.assert_array_equal(np.load(folder / "y.npy"), x @ z.T)


def test_a_fixed_batch_is_not_cut(run, folder, foreign, sizes):
    x = np.arange(10, dtype="f4").reshape(5, 2)
    np.save(folder / "x.npy", x)
    model = foreign("g (float[5, 2] x) => (float[5, 2] y) { y = Neg(x) }")
    assert run("predict", model, "x.npy", "-o", "y.npy", "-b", "2").code == 0
    assert sizes == [5]
    np.testing.assert_array_equal(np.load(folder / "y.npy"), -x)


def test_a_scalar_beside_rows_is_refused_by_name(run, folder, foreign):
    np.savez(folder / "x.npz", x=np.ones((5, 2), "f4"), z=np.float32(1))
    result = run("predict", foreign(PAIR.format("n")), "x.npz", "-b", "2")
    assert result.code == 1
    assert "x.npz: Input 'z' expects" in result.err


def test_rows_that_another_input_lacks_are_not_dropped(run, folder, foreign):
    np.savez(folder / "x.npz", x=np.ones((4, 2), "f4"), z=np.ones((5, 2), "f4"))
    result = run("predict", foreign(PAIR.format("n")), "x.npz", "-o", "y.npy", "-b", "2")
    assert result.code == 1
    assert "has n = 5, but 'x' has 4" in result.err


def test_an_output_without_rows(run, folder, foreign):
    np.save(folder / "x.npy", np.ones((5, 3), "f4"))
    model = foreign("g (float[n, 3] x) => (float[3] y) { a = Constant<value_ints = [0]>() "
                    "y = ReduceSum<keepdims = 0>(x, a) }")  # fmt: skip
    assert run("predict", model, "x.npy", "-o", "y.npy").code == 0
    np.testing.assert_array_equal(np.load(folder / "y.npy"), [5, 5, 5])
    for arguments, problem in (
        (["x.npy"], "Output 'y' is [3], not one row for each of 5 inputs"),
        (["x.npy", "x.npy", "-o", "y.npy"], "has no batch dimension, so 2 predictions cannot be joined"),
        (["x.npy", "-b", "2", "-o", "y.npy"], "has no batch dimension, so 3 predictions cannot be joined"),
    ):
        result = run("predict", model, *arguments)
        assert result.code == 1
        assert problem in result.err
        assert "fix: " in result.err


def test_a_scalar(run, folder, foreign):
    np.save(folder / "x.npy", np.array(2, "f4"))
    model = foreign("g (float x) => (float y) { y = Neg(x) }")
    assert run("predict", model, "x.npy", "-o", "y.npy").code == 0
    assert np.load(folder / "y.npy") == -2


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
    assert lines[1] == {"input": "x.npy", "row": 1, "index": None, "label": None, "score": None}
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
