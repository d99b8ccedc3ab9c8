"""`nncompile predict`: arrays or images in, predictions out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nncompile.cli import console
from nncompile.cli.usage import UsageError, check_folder, wrong_usage
from nncompile_runtime.errors import InputError

if TYPE_CHECKING:
    from nncompile_runtime.inputs import Array
    from nncompile_runtime.predictor import Predictor

_ROWS = 256  # at once, where that changes no answer
_OUTPUTS = (".jsonl", ".npy", ".npz")


def predict(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="The .onnx file.")],
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help=".npy, .npz, image files, or folders of images.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=".jsonl, .npy or .npz; stdout without it.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", "-b", min=1, help="Rows at once; 256 if rows are independent, else all."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Predict, and write JSON lines (one a row) or arrays."""
    if output is not None and output.suffix not in _OUTPUTS:
        raise UsageError(
            f"It is not clear how to write {output.name}.",
            remedy=f"Name it {', '.join('*' + s for s in _OUTPUTS)}.",
        )
    if output is not None:
        check_folder(output)
    from nncompile_runtime import arrays, devices, load

    with wrong_usage():
        devices.candidates(device)
    predictor = load(model, device=device)
    files = list(_expand(inputs))
    kinds = {path.suffix.lower() in arrays.SUFFIXES for path in files}
    if len(kinds) > 1:
        raise InputError("Arrays and images are mixed.", remedy="Predict them in two calls.")
    if kinds == {True}:
        names, results = _predict_arrays(predictor, files, batch_size)
    else:
        names, results = _predict_images(predictor, files, batch_size)
    flat = _joined(predictor, results)
    if output is not None and output.suffix != ".jsonl":
        arrays.write_arrays(output, predictor.outputs, flat)
        return
    text = "".join(json.dumps(line) + "\n" for line in _lines(predictor, names, flat))
    if output is None:
        sys.stdout.write(text)
    else:
        from nncompile_runtime import container

        container.write(output, text.encode())


def _expand(inputs: Sequence[Path]) -> Iterator[Path]:
    """Files as given; a folder stands for the images in it, by name."""
    from nncompile_runtime.images import SUFFIXES

    for path in inputs:
        if not path.is_dir():
            yield path
            continue
        found = sorted(child for child in path.iterdir() if child.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"There are no images in {path}.", remedy=f"Image files end in {', '.join(sorted(SUFFIXES))}."
            )
        yield from found


def _step(predictor: Predictor, batch_size: int | None) -> int | None:
    """Rows to predict at once: as asked for, else what changes no answer; None for all."""
    return batch_size or (_ROWS if predictor.rows_independent else None)


def _predict_arrays(
    predictor: Predictor, files: list[Path], batch_size: int | None
) -> tuple[list[str], list[Any]]:
    from nncompile_runtime.arrays import read_arrays
    from nncompile_runtime.shapes import carries_batch
    from nncompile_runtime.structure import TensorLeaf

    names: list[str] = []
    results: list[Any] = []
    signature, asked = predictor.signature, _step(predictor, batch_size)
    tensors = {a.name: a.structure.index for a in signature.arguments if isinstance(a.structure, TensorLeaf)}
    batched = [name for name, i in tensors.items() if carries_batch(signature.inputs[i], signature.batch)]
    prepares = predictor.manifest is not None and predictor.manifest.preprocessing is not None
    for path in files:
        positional, named = read_arrays(path)
        if prepares and any(array.dtype.kind == "u" for array in (*positional, *named.values())):
            console.err.print(
                f"{path}: arrays are used as they are; only images are scaled and normalised",
                markup=False,
            )
        columns = dict(zip(tensors, positional, strict=False)) | named
        cut = {name: columns[name] for name in batched if name in columns and columns[name].ndim}
        rows = max(map(len, cut.values() or [array for array in columns.values() if array.ndim]), default=1)
        fit = cut and all(len(array) == rows for array in cut.values())  # else `predict` says which does not
        step = min(asked or rows, rows) if fit else rows
        for start in range(0, rows or 1, step or 1):
            piece = {name: array[start : start + step] for name, array in cut.items()}
            with _naming(path):
                results.append(predictor.predict(**{**columns, **piece}))
        names += [str(path)] * rows
    return names, results


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An input that is refused comes from this file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error.problem}", remedy=error.remedy) from error


def _predict_images(
    predictor: Predictor, files: list[Path], batch_size: int | None
) -> tuple[list[str], list[Any]]:
    from rich.progress import track

    from nncompile_runtime.images import load_images, preprocessing_for

    how = predictor.manifest.preprocessing if predictor.manifest else None
    if how is None:
        how = preprocessing_for(predictor.inputs[0])
        console.err.print(
            f"{predictor.inputs[0].name}: the model does not say how images are prepared; using {how.mode}, "
            f"{how.size[0]}x{how.size[1]}, values 0 to 1",
            markup=False,
        )
    step = _step(predictor, batch_size) or len(files)
    pieces = [files[start : start + step] for start in range(0, len(files), step)]
    steps = track(
        pieces, "predicting", console=console.err, disable=not console.err.is_terminal, transient=True
    )
    return [str(path) for path in files], [predictor.predict(load_images(piece, how)) for piece in steps]


def _joined(predictor: Predictor, results: list[Any]) -> list[Array]:
    """The results of all pieces, joined along the batch, in the order of the graph's outputs."""
    import numpy as np

    from nncompile_runtime.shapes import carries_batch

    batch = predictor.signature.batch
    single = [spec.name for spec in predictor.outputs if batch and not carries_batch(spec, batch)]
    if single and len(results) > 1:
        raise InputError(
            f"Output {single[0]!r} has no batch dimension, so {len(results)} predictions cannot be joined.",
            remedy="Predict one file at a time, without --batch-size.",
        )
    rows = [predictor.flatten_result(result) for result in results]
    return [np.concatenate(column) if len(column) > 1 else column[0] for column in zip(*rows, strict=True)]


def _lines(predictor: Predictor, names: list[str], flat: list[Array]) -> Iterator[dict[str, Any]]:
    """One record a row: the best class where the output is one score per class, all values otherwise.

    JSON has no NaN and no infinity: null stands for them. A row with a NaN has no best class.
    """
    import numpy as np

    for spec, array in zip(predictor.outputs, flat, strict=True):
        if array.shape[:1] != (len(names),):
            raise InputError(
                f"Output {spec.name!r} is {list(array.shape)}, not one row for each of {len(names)} inputs.",
                remedy="Write arrays: -o FILE.npz.",
            )
    scores = flat[0]
    single = len(flat) == 1 and scores.ndim == 2 and scores.shape[1] > 1 and scores.dtype.kind == "f"
    labels = predictor.labels
    for row, name in enumerate(names):
        if single:
            best = None if np.isnan(scores[row]).any() else int(scores[row].argmax())
            label = {} if labels is None else {"label": _label(labels, best)}
            score = None if best is None else _plain(scores[row, best])
            yield {"input": name, "row": row, "index": best, **label, "score": score}
        else:
            values = {
                spec.name: _plain(array[row]) for spec, array in zip(predictor.outputs, flat, strict=True)
            }
            yield {"input": name, "row": row, **values}


def _label(labels: Sequence[str], index: int | None) -> str | None:
    return labels[index] if index is not None and index < len(labels) else None


def _plain(values: Array) -> Any:
    """Numbers as JSON can hold them."""
    import numpy as np

    if values.dtype.kind != "f" or np.isfinite(values).all():
        return values.tolist()
    plain = np.asarray(values, dtype=object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()
