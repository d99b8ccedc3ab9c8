"""`Predictor`: a loaded model that answers. This is the runtime's public face."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nncompile_runtime import batching, container, devices
from nncompile_runtime.container import ModelFile
from nncompile_runtime.errors import DeviceError
from nncompile_runtime.inputs import InputBinder
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Manifest, Signature, TensorSpec
from nncompile_runtime.plan import Plan, choose
from nncompile_runtime.session import Session, run_failure
from nncompile_runtime.signature import check_against, signature_of
from nncompile_runtime.structure import TensorLeaf, flatten, unflattener

_log = logging.getLogger("nncompile")


class Predictor:
    """A compiled model on one device. `predict` may be called from several threads at once."""

    def __init__(
        self,
        model: ModelFile,
        *,
        device: str = "auto",
        plan: Plan | Mapping[str, Any] | None = None,
        session: Session | None = None,
    ) -> None:
        """Open a session for a model that was read.

        Args:
            model: From `container.read`.
            device: `cpu`, `cuda`, `cuda:1`, or `auto`.
            plan: A plan or its fields; None takes the one stored for this machine, or the default.
            session: One that is open on the same graph; it serves where its plan is the one to run.

        Raises:
            DeviceError: The device cannot be had.
            PlanError: The plan is invalid.
            ModelLoadError: ONNX Runtime refuses the model.
        """
        self._file = model
        self._plan, self._session = _open(model, str(device), plan, session)
        if model.manifest:
            check_against(self._session, model.manifest.signature)
        self._signature = model.manifest.signature if model.manifest else signature_of(self._session)
        self._bind = InputBinder(self._signature)
        self._nest = unflattener(self._signature.result)
        self._batch = self._signature.batch
        self._pieces = self._plan.micro_batch if self._rows_independent() else None
        self._prepare_single_input()

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            *args: Inputs in the order of `forward`: numpy arrays or torch tensors of the shapes
                and dtypes that `inputs` lists. The batch may have any size, 0 included.
            **kwargs: Inputs by name.

        Returns:
            What `forward` returns, nested as `forward` nests it: torch tensors where an input was
            one (on that input's device), numpy arrays otherwise (float32 for bfloat16).

        Raises:
            InputError: An input does not fit; the message says which, what it expects, what it got.
        """
        if len(args) == 1 and not kwargs and type(args[0]) is np.ndarray:
            x = args[0]
            if x.shape[1:] == self._row and x.shape and x.dtype == self._dtype and 0 < len(x) <= self._whole:
                try:
                    outputs = self._call({self._name: x})
                except Exception as error:
                    raise run_failure(error) from None
                return outputs[0] if self._single_output else self._nest(outputs)
        feed, tensor = self._bind(args, kwargs)
        outputs = batching.run(self._session, self._signature, feed, self._pieces)
        if tensor is not None:
            outputs = self._as_tensors(outputs, tensor.device)
        return self._nest(outputs)

    __call__ = predict

    def predict_batches(self, iterable: Iterable[Any], *, batch_size: int | None = 256) -> Iterator[Any]:
        """Predict over a stream, in order, holding one batch at a time.

        Args:
            iterable: Yields samples (an array without the batch dimension), or batches of any
                size; for a model of several inputs, a tuple in the order of `forward` or a dict by
                name. An array is a stream of its rows.
            batch_size: Samples per yielded result; the last may be smaller. None keeps the batches
                as they come.

        Yields:
            What `predict` returns, for one batch after another.

        Raises:
            InputError: An element does not fit, or the model's batch is fixed to another size.
        """
        return batching.stream(self.predict, self._signature, iterable, batch_size)

    def flatten_result(self, result: Any) -> list[Any]:
        """The tensors of what `predict` returned, in the order of `outputs`."""
        flat: list[Any] = [None] * len(self.outputs)
        flatten(self._signature.result, result, flat, "result")
        return flat

    @property
    def signature(self) -> Signature:
        """How the model is called and what it returns, nesting included."""
        return self._signature

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of every graph input."""
        return self._signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of every graph output."""
        return self._signature.outputs

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`, ..."""
        return self._plan.device

    @property
    def plan(self) -> Plan:
        """How the model is run on this machine."""
        return self._plan

    @property
    def native(self) -> bool:
        """Whether fused regions run on the native kernels; `nncompile inspect` says why not."""
        return self._session.kernels.active

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by index, where the model was compiled with them."""
        return self._file.manifest.labels if self._file.manifest else None

    @property
    def manifest(self) -> Manifest | None:
        """What the artifact says about itself; None for an ONNX file from elsewhere."""
        return self._file.manifest

    @property
    def session(self) -> Session:
        """The ONNX Runtime session underneath."""
        return self._session

    def __repr__(self) -> str:
        """Name, signature and device."""
        name = self._file.manifest.model_name if self._file.manifest else self._file.name
        ins = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
        outs = ", ".join(f"{spec.name}: {spec}" for spec in self.outputs)
        return f"{type(self).__name__}({name}: {ins} -> {outs}; {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        """The model's bytes and its plan: a session itself cannot be pickled."""
        return {"name": self._file.name, "data": self._file.data, "plan": self._plan.model_dump()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a session of its own in the process that unpickles."""
        Predictor.__init__(self, container.parse(state["data"], state["name"]), plan=state["plan"])

    def _as_tensors(self, outputs: list[Any], device: Any) -> list[Any]:
        torch = sys.modules["torch"]
        narrow = [torch.bfloat16 if spec.dtype == "bfloat16" else None for spec in self.outputs]
        return [torch.from_numpy(y).to(device, dtype=dtype) for y, dtype in zip(outputs, narrow, strict=True)]

    def _rows_independent(self) -> bool:
        manifest = self._file.manifest
        return manifest is not None and manifest.verification.rows_independent

    def _prepare_single_input(self) -> None:
        """What `predict` needs to know of a model with one tensor input whose batch alone is free."""
        self._call = self._session.call
        self._name, self._dtype, self._row, self._whole = "", None, None, 0
        structures = [argument.structure for argument in self._signature.arguments]
        self._single_output = isinstance(self._signature.result, TensorLeaf)
        if len(structures) != 1 or not isinstance(structures[0], TensorLeaf):
            return
        spec = self._signature.inputs[0]
        if (
            spec.shape
            and spec.shape[0] == self._batch
            and not any(isinstance(n, str) or n == 0 for n in spec.shape[1:])
        ):
            self._name, self._dtype, self._row = spec.name, spec.array_dtype, spec.shape[1:]
            self._whole = self._pieces or sys.maxsize


def load(
    path: str | os.PathLike[str], device: str = "auto", *, plan: Plan | Mapping[str, Any] | None = None
) -> Predictor:
    """Load a model for inference. Needs no torch.

    Args:
        path: An artifact of `nncompile export`, or any single-file ONNX model.
        device: `cpu`, `cuda` or `cuda:1` are strict; only `auto` may choose the CPU where there is
            no usable GPU.
        plan: How to run it; None takes the plan stored for this machine, or the default.

    Raises:
        ModelLoadError: The file is missing, damaged or refused, or ONNX Runtime is not installed.
        DeviceError: The device cannot be had.
        PlanError: The plan is invalid.
    """
    return Predictor(container.read(path), device=device, plan=plan)


def _open(
    model: ModelFile, device: str, plan: Plan | Mapping[str, Any] | None, ready: Session | None
) -> tuple[Plan, Session]:
    """A session on the first of the candidate devices that can be had."""
    stored = model.manifest.plans if model.manifest else {}
    exact = model.manifest is not None and model.manifest.exact
    tried = devices.candidates(device)
    for candidate in tried:
        chosen = choose(plan, stored, this_machine(), candidate.provider, candidate.number, exact=exact)
        if device != "auto" and chosen.device != str(candidate):
            raise DeviceError(
                f"device={device!r} contradicts the plan's {chosen.device}.", remedy="Give one of the two."
            )
        if ready is not None and ready.plan == chosen:
            return chosen, ready
        try:
            return chosen, Session(model, chosen)
        except DeviceError as error:
            if plan is not None or candidate is tried[-1]:
                raise
            _log.warning("device='auto': running on the CPU, because %s", error)
    raise AssertionError("candidates() names at least one device")
