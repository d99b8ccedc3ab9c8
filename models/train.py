"""Train a digit classifier by the steps of seeds 001, 'Neural Network', and 004, 'Neural Networks'.

Forward pass, loss, zero_grad, backward, optimiser step. Added to the seeds' steps, because 1,437 images are
few: each batch is shifted by up to 1/16 of the image, and the learning rate falls linearly to zero. From the
repository root:

    python -m models.train lenet5 -o lenet5.safetensors
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import safetensors.torch
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from models import digits, zoo

Step = Callable[[int, int], None]

EVALUATION_BATCH = 256


class Optimizer(StrEnum):
    """An update rule; SGD runs with momentum 0.9."""

    ADAM = "adam"
    SGD = "sgd"


DEFAULT_LEARNING_RATES = {Optimizer.ADAM: 2e-3, Optimizer.SGD: 2e-2}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingResult:
    """A trained network and how it was trained.

    Attributes:
        network: Name in the zoo.
        module: The network, in evaluation mode.
        accuracy: Share of the held-out digits that it gets right, 0 to 1.
        held_out: Number of held-out digits.
        seconds: Time that the training took, evaluation excluded.
        epochs: Passes over the training images.
        seed: Seed of the split, the weights and the order of the images.
    """

    network: str
    module: nn.Module
    accuracy: float
    held_out: int
    seconds: float
    epochs: int
    seed: int


def train(
    name: str,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
    optimizer: Optimizer | str = Optimizer.ADAM,
    threads: int | None = None,
    progress: Step | None = None,
) -> TrainingResult:
    """Train one network of the zoo on scikit-learn's digits, on the CPU.

    One seed gives one result on one machine and thread count. The caller's random state and thread setting
    are as before when this returns.

    Args:
        name: Name of a trainable network in `zoo.ZOO`.
        epochs: Passes over the training images; by default the network's own number.
        learning_rate: Step size at the start; by default 0.002 for Adam and 0.02 for SGD.
        batch_size: Images in one step.
        seed: Seed of the split, the weights, the order of the images and the dropout.
        optimizer: "adam" or "sgd".
        threads: Threads that torch may use meanwhile; by default the caller's setting.
        progress: Called after every step with the steps done and the steps in all.

    Raises:
        ValueError: The name, the optimiser or a number makes no sense; the message says which.
        ImportError: The network needs a package that is missing; the message says how to install it.
    """
    entry, recipe = zoo.trainable_entry(name)
    optimizer = Optimizer(optimizer)
    epochs = recipe.epochs if epochs is None else epochs
    learning_rate = DEFAULT_LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    for what, value in (("epochs", epochs), ("learning_rate", learning_rate), ("batch_size", batch_size)):
        if not value > 0:
            raise ValueError(f"{what} must be above 0, got {value}")

    data = digits.split(seed)
    images = _inputs(data.train_images, entry)
    labels = torch.from_numpy(data.train_labels)
    steps = epochs * math.ceil(len(labels) / batch_size)
    with _torch_settings(seed, threads):
        module = entry.build().train()
        update = _optimizer(optimizer, module, learning_rate)
        decay = torch.optim.lr_scheduler.LinearLR(update, start_factor=1, end_factor=0, total_iters=steps)
        started = time.perf_counter()
        for done, (x, y) in enumerate(_batches(images, labels, epochs, batch_size, seed), start=1):
            _step(module, recipe.loss, update, x, y)
            decay.step()
            if progress is not None:
                progress(done, steps)
        seconds = time.perf_counter() - started
        module.eval()
        wanted = torch.from_numpy(data.held_out_labels)
        accuracy = evaluate(module, _inputs(data.held_out_images, entry), wanted)
    return TrainingResult(name, module, accuracy, len(data.held_out_labels), seconds, epochs, seed)


def evaluate(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest output is their label, 0 to 1.

    Args:
        module: A classifier, in evaluation mode.
        images: Inputs, shape (N, C, H, W).
        labels: Labels, shape (N,).
    """
    right = 0
    with torch.inference_mode():
        for start in range(0, len(labels), EVALUATION_BATCH):
            batch = slice(start, start + EVALUATION_BATCH)
            right += int((module(images[batch]).argmax(1) == labels[batch]).sum())
    return right / len(labels)


def save(result: TrainingResult, path: str | Path) -> None:
    """Write the weights as safetensors, with the network, accuracy and seed as metadata.

    The file appears whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    metadata = {
        "format": "pt",
        "network": result.network,
        "accuracy": repr(result.accuracy),
        "epochs": str(result.epochs),
        "seed": str(result.seed),
    }
    weights = {key: tensor.contiguous() for key, tensor in result.module.state_dict().items()}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(safetensors.torch.save(weights, metadata))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _inputs(images: digits.Images, entry: zoo.Entry) -> Tensor:
    channels, size, _ = entry.input_shape
    return torch.from_numpy(digits.to_input(digits.resize(images, size), channels))


def _optimizer(kind: Optimizer, module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    if kind is Optimizer.ADAM:
        return torch.optim.Adam(module.parameters(), lr=learning_rate)
    return torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=0.9)


@contextmanager
def _torch_settings(seed: int, threads: int | None) -> Iterator[None]:
    threads_before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dropout2d: Received a 2-D input")
        torch.default_generator.manual_seed(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if threads is not None:
                torch.set_num_threads(threads_before)


def _batches(
    images: Tensor, labels: Tensor, epochs: int, batch_size: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    reach = images.shape[-1] // 16
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            batch = order[start : start + batch_size]
            shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
            yield images[batch].roll(shift, (2, 3)), labels[batch]


def _step(
    module: nn.Module, loss_of: zoo.Loss, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> None:
    output = module(x)
    loss = loss_of(output, y)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    network: Annotated[str, typer.Argument(help="Which network: " + ", ".join(zoo.trainable_names()) + ".")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the weights (safetensors).")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images (default: the network's own).")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Step size at the start (default: adam 0.002, sgd 0.02).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's choice).")] = None,
    optimizer: Annotated[Optimizer, typer.Option(help="Update rule.")] = Optimizer.ADAM,
) -> None:
    """Train a network of the seed documents on scikit-learn's digits and save its weights."""
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        _fail(f"cannot write {output}: name a file in a folder that exists and can be written", 2)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"training {network}", total=None)
        try:
            result = train(
                network,
                epochs=epochs,
                learning_rate=lr,
                batch_size=batch_size,
                seed=seed,
                optimizer=optimizer,
                threads=threads,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except ValueError as error:
            _fail(str(error), 2)
        except ImportError as error:
            _fail(str(error), 1)
    try:
        save(result, output)
    except OSError as error:
        _fail(f"cannot write {output} ({error.strerror}): choose another --output", 1)
    typer.echo(
        f"{network}: {result.accuracy:.2%} of {result.held_out} held-out digits right, "
        f"trained in {result.seconds:.1f} s, weights in {output}"
    )


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
