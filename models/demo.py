"""The main job, end to end: train LeNet5 on handwritten digits, export it, predict, compare, bench.

From the repository root: `make demo`, or `python -m models.demo`. Everything it writes goes to `demo/`.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from models import digits
from models.lenet import LeNet5

FOLDER = Path("demo")
WEIGHTS = FOLDER / "lenet5.safetensors"
MODEL = FOLDER / "lenet5.onnx"
IMAGES = FOLDER / "digits"
PREDICTIONS = FOLDER / "predictions.jsonl"
SOURCE = "models/lenet.py:LeNet5"
SIZE = 32
SHOWN = 10

console = Console(highlight=False, soft_wrap=True)


def main() -> None:
    """Run the demo; exit code 1 where a step fails or the compiled accuracy is not eager's."""
    started = time.perf_counter()
    FOLDER.mkdir(exist_ok=True)

    _heading("1. Train LeNet5 on 1,437 handwritten digits, 360 held out")
    _python(f"-m models.train lenet5 -o {WEIGHTS}")

    _heading("2. Export: capture, optimise, verify against eager PyTorch, write one file")
    _nncompile(
        f"export {SOURCE} --weights {WEIGHTS} --input-shape 1x1x{SIZE}x{SIZE} -o {MODEL} "
        f"--image-size {SIZE}x{SIZE} --image-mode L --mean {digits.MEAN} --std {digits.STD}"
    )

    _heading("3. Predict the held-out digits from PNG files")
    data = digits.split()
    images = digits.resize(data.held_out_images, SIZE)
    paths = digits.write_pngs(images, data.held_out_labels, IMAGES)
    console.print(f"wrote {len(paths)} PNG files to {IMAGES}/")
    _nncompile(f"predict {MODEL} {IMAGES} -o {PREDICTIONS}")
    predicted = [json.loads(line)["index"] for line in PREDICTIONS.read_text().splitlines()]
    truth = data.held_out_labels.tolist()
    _show(paths, predicted, truth)

    _heading("4. The same accuracy in eager PyTorch and compiled")
    same = _compare(images, predicted, truth)

    _heading("5. Bench")
    _nncompile(f"bench {MODEL} --module {SOURCE} --weights {WEIGHTS} -b 1,64 --seconds 1")
    console.print(f"\ndemo finished in {time.perf_counter() - started:.0f} s; its files are in {FOLDER}/")
    sys.exit(0 if same else 1)


def _heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def _nncompile(arguments: str) -> None:
    _python(f"-m nncompile {arguments}", shown=f"nncompile {arguments}")


def _python(arguments: str, shown: str = "") -> None:
    """Show a command line, run it with this Python, and stop where it fails."""
    console.print(f"$ {shown or f'python {arguments}'}", style="cyan", markup=False)
    code = subprocess.run([sys.executable, *arguments.split()], check=False).returncode  # noqa: S603
    if code:
        console.print(f"the demo stops: the command above ended with exit code {code}", style="red")
        sys.exit(code)


def _show(paths: list[Path], predicted: list[int], truth: list[int]) -> None:
    """The first digits, and every digit that was read wrongly."""
    wrong = [row for row in range(len(truth)) if predicted[row] != truth[row]]
    table = Table("image", "truth", "predicted", "", box=None, pad_edge=False)
    for row in [*range(SHOWN), *(row for row in wrong if row >= SHOWN)]:
        mark = "" if predicted[row] == truth[row] else "wrong"
        table.add_row(paths[row].name, str(truth[row]), str(predicted[row]), mark)
    console.print(table)


def _compare(images: digits.Images, predicted: list[int], truth: list[int]) -> bool:
    import safetensors.torch

    net = LeNet5().eval()
    net.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    with torch.inference_mode():
        eager = net(torch.from_numpy(digits.to_input(images))).argmax(1).tolist()
    rows = len(truth)
    for name, answers in (("eager PyTorch", eager), ("compiled", predicted)):
        right = sum(answer == label for answer, label in zip(answers, truth, strict=True))
        console.print(f"{name:<14} {right} of {rows} right ({right / rows:.2%})")
    differing = sum(a != b for a, b in zip(eager, predicted, strict=True))
    console.print(f"{differing} of {rows} predictions differ")
    return differing == 0


if __name__ == "__main__":
    main()
