"""Training: accuracy, determinism, what it leaves alone, the weights file and the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from models import digits, train, zoo

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lenet5() -> train.TrainingResult:
    return train.train("lenet5")


def invoke(*arguments: object):
    result = CliRunner().invoke(train.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def weights_of(result: train.TrainingResult) -> dict[str, torch.Tensor]:
    return result.module.state_dict()


def same_weights(first: train.TrainingResult, second: train.TrainingResult) -> bool:
    pairs = zip(weights_of(first).values(), weights_of(second).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def held_out_accuracy(module: torch.nn.Module, size: int, seed: int = 0) -> float:
    data = digits.split(seed)
    x = torch.from_numpy(digits.to_input(digits.resize(data.held_out_images, size)))
    with torch.inference_mode():
        predicted = module(x).argmax(1)
    return (predicted.numpy() == data.held_out_labels).mean()


def test_lenet5_learns_the_digits(lenet5):
    assert lenet5.accuracy >= 0.97
    assert lenet5.accuracy == held_out_accuracy(lenet5.module, 32)
    assert (lenet5.network, lenet5.held_out, lenet5.epochs, lenet5.seed) == ("lenet5", 360, 40, 0)
    assert not lenet5.module.training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net", "lenet3", "mlp"])
def test_the_others_learn_the_digits(name):
    assert train.train(name).accuracy >= 0.97


def test_sgd_learns_the_digits():
    assert train.train("mlp", optimizer="sgd", epochs=10).accuracy >= 0.93


def test_one_seed_gives_one_result():
    first = train.train("lenet5", epochs=1, seed=5)
    torch.rand(1)  # another random state of the caller
    again, other = (train.train("lenet5", epochs=1, seed=seed) for seed in (5, 6))
    assert same_weights(first, again)
    assert first.accuracy == again.accuracy
    assert not same_weights(first, other)


def test_dropout_is_seeded_too():
    first = train.train("net", epochs=1, batch_size=256)
    torch.rand(1)  # another random state of the caller
    again = train.train("net", epochs=1, batch_size=256)
    assert same_weights(first, again)


def test_optimizers_differ():
    adam, sgd = (train.train("lenet5", epochs=1, learning_rate=0.01, optimizer=o) for o in ("adam", "sgd"))
    assert not same_weights(adam, sgd)


def test_callers_random_state_and_threads_are_left_alone():
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train.train("lenet5", epochs=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_threads_hold_during_the_training_only():
    before = torch.get_num_threads()
    seen = set()
    train.train("lenet5", epochs=1, threads=3, progress=lambda *_: seen.add(torch.get_num_threads()))
    assert seen == {3}
    assert torch.get_num_threads() == before


def test_progress_counts_every_step():
    steps = []
    train.train("lenet5", epochs=2, batch_size=500, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


def test_batches_hold_every_image_once_an_epoch_in_a_new_order():
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 4, 4)
    batches = list(train._batches(images, torch.arange(10), epochs=2, batch_size=4, seed=0))
    assert [len(labels) for _, labels in batches] == [4, 4, 2, 4, 4, 2]
    assert all(torch.equal(x[:, 0, 0, 0].long(), y) for x, y in batches)
    epochs = [torch.cat([labels for _, labels in batches[i : i + 3]]) for i in (0, 3)]
    assert [sorted(order.tolist()) for order in epochs] == [list(range(10))] * 2
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("number", ["epochs", "learning_rate", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_senseless_numbers_are_refused(number, value):
    with pytest.raises(ValueError, match=f"{number} must be above 0"):
        train.train("lenet5", **{number: value})


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="adagrad"):
        train.train("lenet5", optimizer="adagrad")


def test_weights_load_strictly_and_keep_the_accuracy(lenet5, tmp_path):
    path = tmp_path / "lenet5.safetensors"
    train.save(lenet5, path)
    fresh = zoo.ZOO["lenet5"].build().eval()
    fresh.load_state_dict(load_file(path), strict=True)
    assert held_out_accuracy(fresh, 32) == lenet5.accuracy
    with safe_open(path, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "network": "lenet5",
            "accuracy": repr(lenet5.accuracy),
            "epochs": "40",
            "seed": "0",
        }
    assert [entry.name for entry in tmp_path.iterdir()] == ["lenet5.safetensors"]


def test_failed_write_leaves_the_old_file_and_nothing_else(lenet5, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "lenet5.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(train.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        train.save(lenet5, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["lenet5.safetensors"]


def test_command_line_trains_and_saves(tmp_path):
    path = tmp_path / "weights.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "models.train", "lenet5", "-o", path, "--epochs", "1", "--threads", "1"],
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.startswith("lenet5: ")
    assert "% of 360 held-out digits right, trained in" in done.stdout
    assert done.stdout.endswith(f"weights in {path}\n")
    assert done.stdout.count("\n") == 1
    again = train.train("lenet5", epochs=1, threads=1)
    saved = load_file(path)
    assert saved.keys() == weights_of(again).keys()
    assert all(torch.equal(saved[key], tensor) for key, tensor in weights_of(again).items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet4", "no network is called 'lenet4': choose one of net, mynet, lenet3, lenet5, mlp"),
        ("model", "model cannot be trained on digits, because it returns feature maps, not digits: choose"),
        ("sequential", "sequential cannot be trained on digits, because it returns feature maps"),
        ("named-sequential", "named-sequential cannot be trained on digits, because it returns feature maps"),
        ("lazy-mlp", "lazy-mlp cannot be trained on digits, because it reads vectors, not images: choose"),
        ("mlp-probabilities", "because it is mlp with a softmax and loads mlp's weights: choose one of"),
    ],
)
def test_command_line_refuses_what_cannot_be_trained(name, message, tmp_path):
    result = invoke(name, "-o", tmp_path / "weights.safetensors")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", [".", "missing/weights.safetensors"])
def test_command_line_refuses_a_bad_output_before_training(output, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained first"))
    result = invoke("lenet5", "-o", tmp_path / output)
    assert result.exit_code == 2
    assert "name a file in a folder that exists and can be written" in result.stderr


def test_command_line_reports_a_failed_write(lenet5, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "train", lambda *_, **__: lenet5)
    monkeypatch.setattr(train, "save", fail)
    result = invoke("lenet5", "-o", tmp_path / "weights.safetensors")
    assert result.exit_code == 1
    assert "(No space left on device): choose another --output" in result.stderr
    assert result.stdout == ""


def test_command_line_names_the_install_command_where_timm_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("models._timm.find_spec", lambda _: None)
    result = invoke("mynet", "-o", tmp_path / "weights.safetensors")
    assert result.exit_code == 1
    assert "pip install --no-deps torchvision==0.28.0 timm" in result.stderr


@pytest.mark.parametrize(
    "option", [("--lr", "0"), ("--epochs", "0"), ("--batch-size", "0"), ("--seed", "-1")]
)
def test_command_line_refuses_senseless_numbers(option, tmp_path):
    assert invoke("lenet5", "-o", tmp_path / "weights.safetensors", *option).exit_code == 2
    assert list(tmp_path.iterdir()) == []
