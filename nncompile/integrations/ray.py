"""Ray Data: a compiled file as the class that `Dataset.map_batches` calls; each actor opens it once.

Contract: https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html. Ray is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nncompile_runtime.errors import InputError
from nncompile_runtime.inputs import Array
from nncompile_runtime.plan import Plan
from nncompile_runtime.predictor import load
from nncompile_runtime.structure import unflattener


class BatchPredictor:
    """Columns of a batch in, those that the model does not read and its outputs back.

    For example `dataset.map_batches(BatchPredictor, fn_constructor_args=["net.onnx"], batch_size=64)`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        plan: Plan | Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Open the file, as `nncompile.load` does.

        Args:
            path: The file, as the worker sees it.
            device: `auto`, `cpu`, `cuda` or `cuda:1`; with `num_gpus=1` an actor sees one GPU, `cuda`.
            plan: How to run it. `{"threads": n}` with `num_cpus=n` keeps actors from sharing processors.
            columns: The dataset's column for an input, by the input's name; others have the same name.

        Raises:
            InputError: `columns` names an input that the model does not have.
            NncompileError: Whatever `nncompile.load` raises.
        """
        self.predictor = load(path, device=device, plan=plan)
        inputs = [spec.name for spec in self.predictor.inputs]
        columns = dict(columns or {})
        unknown = next((name for name in columns if name not in inputs), None)
        if unknown is not None:
            raise InputError(
                f"columns names the input {unknown!r}, which the model does not have.",
                remedy=f"Its inputs are {', '.join(inputs)}.",
            )
        self._columns = [columns.get(name, name) for name in inputs]
        self._nests = {a.name: unflattener(a.structure) for a in self.predictor.signature.arguments}

    def __call__(self, batch: dict[str, Array]) -> dict[str, Array]:
        """Predict one batch.

        Args:
            batch: Arrays of equally many rows, by column.

        Returns:
            The columns that are no input, and one for each output of the model, by its name.

        Raises:
            InputError: A column is missing or does not fit, an output has not one row for each of the
                batch's, or its name is taken by a column.
        """
        missing = next((column for column in self._columns if column not in batch), None)
        if missing is not None:
            raise InputError(
                f"The batch has no column {missing!r}; there are {', '.join(map(repr, batch)) or 'none'}.",
                remedy="Give columns={'the model's input': 'the dataset's column'}.",
            )
        flat = [batch[column] for column in self._columns]
        result = self.predictor.predict(**{name: nest(flat) for name, nest in self._nests.items()})
        answers = {name: values for name, values in batch.items() if name not in self._columns}
        rows = len(next(iter(batch.values()), ()))
        for spec, output in zip(self.predictor.outputs, self.predictor.flatten_result(result), strict=True):
            if output.shape[:1] != (rows,):
                raise InputError(
                    f"Output {spec.name!r} is {list(output.shape)}, not one row for each of {rows}.",
                    remedy="Compile a model that returns a row for each row.",
                )
            if spec.name in answers:
                raise InputError(
                    f"The batch has a column {spec.name!r}, which an output would replace.",
                    remedy="Rename it first: dataset.rename_columns({...}).",
                )
            answers[spec.name] = output
        return answers
