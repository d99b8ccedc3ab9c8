"""`Predictor`: a loaded model that answers. This is the runtime's public face."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from nncompile_runtime import batching, container, device_arrays, streams, torch_arrays, tuning
from nncompile_runtime.container import ModelFile
from nncompile_runtime.device_calls import DeviceCalls
from nncompile_runtime.errors import PlanError
from nncompile_runtime.findings import Tuning
from nncompile_runtime.inputs import InputBinder, python_signature
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Manifest, Signature, TensorSpec
from nncompile_runtime.outputs import as_tensors
from nncompile_runtime.plan import Plan, plain_plan
from nncompile_runtime.plans import Plans, default_of, key, stored_form
from nncompile_runtime.regimes import Regimes, Sessions, opened
from nncompile_runtime.session import Session
from nncompile_runtime.several import Several
from nncompile_runtime.signature import check_against, signature_of
from nncompile_runtime.structure import TensorLeaf, flatten, unflattener
from nncompile_runtime.trial import Subject

_MOST_SHAPES = 256


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
            plan: A plan or its fields; None takes those stored for this machine, or the default.
            session: One that is open on the same graph; it serves where its plan is the one to run.

        Raises:
            DeviceError: The device cannot be had.
            PlanError: The plan is invalid.
            ModelLoadError: ONNX Runtime refuses the model.
        """
        self._file = model
        self._asked, self._fixed = str(device), plan is not None
        plans, ready = opened(model, self._asked, plan, session)
        if model.manifest:
            check_against(ready, model.manifest.signature)
        self._signature = model.manifest.signature if model.manifest else signature_of(ready)
        self._bind = InputBinder(self._signature, plans[1].device)
        self._whole = batching.unlike_pytorch_without_rows(model)
        self._nest = unflattener(self._signature.result)
        self._narrow = self.outputs if any(spec.dtype == "bfloat16" for spec in self.outputs) else None
        arguments = self._signature.arguments
        self.__signature__ = python_signature(arguments)
        plain = len(arguments) == 1 and isinstance(arguments[0].structure, TensorLeaf)
        self._argument, self._name = (arguments[0].name, self.inputs[0].name) if plain else ("", "")
        self._dtype = self.inputs[0].array_dtype if plain else None
        self._several = Several.of(self._signature, self._bind.device)
        self._run_as(plans, Sessions(model, [ready]))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Args:
            *args: Inputs in the order of `forward`: numpy arrays or torch tensors of the shapes
                and dtypes that `inputs` lists. The batch may have any size; 0 too, unless an output may be
                the mean or an extreme of all rows.
            **kwargs: Inputs by name.

        Returns:
            What `forward` returns, nested as `forward` nests it: torch tensors where an input was one (on its
            device), CuPy arrays for CuPy's, which models on a GPU take, numpy arrays otherwise (these two
            float32 for bfloat16). What is on a GPU may still be computed, on its library's current stream.

        Raises:
            InputError: An input does not fit; the message says which, what it expects, what it got.
        """
        if len(args) + len(kwargs) == 1:
            x: Any = args[0] if args else kwargs.get(self._argument)
            if type(x) is np.ndarray:
                run = self._accepted.get(x.shape)
                if run is not None and x.dtype == self._dtype:
                    return self._nest(run({self._name: x}))
            elif (taker := device_arrays.taker_of(x)) is not None:
                run, fed = self._accepted.get(x.shape), taker.memory_of(x, self._dtype, self._bind.device)
                if run is not None and fed is not None:
                    y = run({self._name: fed})
                    return self._nest(as_tensors(y, self._narrow) if taker is torch_arrays else y)
        elif self._several is not None and (call := self._several.fed(args, kwargs)) is not None:
            shapes, feed, library = call
            run = self._accepted.get(shapes)
            if run is not None:
                y = run(feed)
                return self._nest(as_tensors(y, self._narrow) if library is torch_arrays else y)
        return self._begin(*args, **kwargs)()

    __call__ = predict

    def _begin(self, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """Check a call and, on a GPU, queue it; what this returns is the rest of `predict`."""
        feed, tensor = self._bind(args, kwargs)
        accepted, batch = self._accepted, batching.batch_of(self._signature, feed)
        if batch == 0 and self._whole is not None:
            raise batching.no_rows(self._whole)
        run = self._regimes.runner(batch)
        finish = run.start(feed) if isinstance(run, DeviceCalls) else partial(run, feed)

        def end() -> Any:
            outputs = finish()
            if self._dtype is not None or self._several is not None:
                if len(accepted) >= _MOST_SHAPES:
                    accepted.clear()
                shapes = tuple([tuple(array.shape) for array in feed.values()])
                accepted[shapes[0] if self._several is None else shapes] = run
            if tensor is not None:
                outputs = as_tensors(outputs, self._narrow, tensor.device)
            return self._nest(outputs)

        return end

    def predict_batches(self, iterable: Iterable[Any], *, batch_size: int | None = 256) -> Iterator[Any]:
        """Predict over a stream, in order, holding one batch at a time; on a GPU three.

        There two more are sent to the GPU before a result is yielded, so that copies and kernels overlap.

        Args:
            iterable: Yields samples (an array without the batch dimension), or batches of any
                size; for a model of several inputs, a tuple in the order of `forward` or a dict by
                name. An array is a stream of its rows.
            batch_size: Samples per yielded result; the last may be smaller. None keeps batches as they come.

        Yields:
            What `predict` returns, for one batch after another.

        Raises:
            InputError: An element does not fit, or the model's batch is fixed to another size.
        """
        ahead = self.plan.provider == "cuda"
        return streams.stream(self._begin, self._signature, iterable, batch_size, ahead=ahead)

    def tune(
        self,
        seconds: float = 10.0,
        *,
        batches: Sequence[int] | None = None,
        sizes: Mapping[str, int] | None = None,
        like: Any = None,
        progress: tuning.Progress | None = None,
    ) -> Tuning:
        """Find the fastest plans on this machine, run by them from now on, and keep them in the artifact.

        Plain ONNX Runtime with its default options is among what is measured, and another plan takes its
        place only where it is faster beyond the noise. Answers are compared first. An interruption leaves
        everything as it was.

        Args:
            seconds: About how long it may take; slow calls make it longer.
            batches: Rows to measure at; None takes 1, 8, 64 and 256, as far as the time allows. Between
                two of them the plan serves that is the better one halfway.
            sizes: Sizes of free dimensions other than the batch, by symbol.
            like: A torch tensor or CuPy array on the model's GPU: calls on such are measured, whose answers
                stay there. None measures calls on arrays of numpy, copies included.
            progress: Told what is done next, and which share of the work is behind it.

        Returns:
            What was tried and found. `CompiledModel.save` and `nncompile tune` keep the plans.

        Raises:
            InputError: An argument makes no sense, or a free dimension has no size.
            PlanError: The predictor was given a plan, which serves every batch.
        """
        if self._fixed:
            raise PlanError(
                "The predictor was given a plan, so there is none to choose.",
                remedy="Load the model without plan=, then tune it.",
            )
        file, machine, device = self._file, this_machine(), (self.plan.provider, self.plan.device_id)
        subject = Subject(
            file,
            self._signature,
            plain_plan(machine, *device, exact=file.exact),
            default_of(file, machine, *device),
            machine.processors,
            file.rows_independent,
            lambda plan, session: Predictor(file, plan=plan, session=session).predict,
            self.flatten_result,
            like,
        )
        found = tuning.tune(subject, seconds, batches, sizes, progress)
        self._file = container.with_plans(file, key(machine, subject.default), stored_form(found.plans))
        self._run_as(found.plans, Sessions(self._file))
        return found

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
        return self.plan.device

    @property
    def plan(self) -> Plan:
        """How the smallest batches are run on this machine; without tuning, all batches."""
        return self._regimes.first

    @property
    def plans(self) -> Mapping[int, Plan]:
        """How batches are run on this machine: plans by the smallest batch that each serves."""
        return MappingProxyType(dict(self._regimes.plans))

    @property
    def native(self) -> bool:
        """Whether fused regions run on the native kernels in `session`; `nncompile inspect` says why not."""
        return self.session.kernels.active

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names by index, where the model was compiled with them."""
        return self._file.manifest.labels if self._file.manifest else None

    @property
    def manifest(self) -> Manifest | None:
        """What the artifact says about itself; None for an ONNX file from elsewhere."""
        return self._file.manifest

    @property
    def rows_independent(self) -> bool:
        """Whether verification saw that a row's answer depends on no other row: then batches may be cut."""
        return self._file.rows_independent

    @property
    def artifact(self) -> bytes:
        """The file, with the plans that `tune` found."""
        return self._file.data

    @property
    def session(self) -> Session:
        """The ONNX Runtime session underneath, for the smallest batches."""
        return self._regimes.sessions.get(self.plan)

    def __repr__(self) -> str:
        """Name, signature and device."""
        name = self._file.manifest.model_name if self._file.manifest else self._file.name
        ins = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
        outs = ", ".join(f"{spec.name}: {spec}" for spec in self.outputs)
        return f"{type(self).__name__}({name}: {ins} -> {outs}; {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        """The model's bytes with what was asked for: a session itself cannot be pickled.

        So `auto` chooses anew where it is unpickled, which may be another machine.
        """
        plan = self.plan.model_dump() if self._fixed else None
        return {"name": self._file.name, "data": self._file.data, "device": self._asked, "plan": plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a session of its own in the process that unpickles."""
        model = container.parse(state["data"], state["name"])
        Predictor.__init__(self, model, device=state["device"], plan=state["plan"])

    def _run_as(self, plans: Plans, sessions: Sessions) -> None:
        """Run by these plans from now on."""
        regimes = Regimes(plans, sessions, self._signature, rows_independent=self._file.rows_independent)
        regimes.sessions.get(regimes.first)
        self._regimes = regimes
        # The checked shapes of plain inputs, of a single one or of all, and how they are run; each call still
        # looks at dtypes.
        # Set after the regimes and read before them: no call under way puts an old one's runner in here.
        self._accepted = regimes.checked


def load(
    path: str | os.PathLike[str], device: str = "auto", *, plan: Plan | Mapping[str, Any] | None = None
) -> Predictor:
    """Load a model for inference. Needs no torch.

    Args:
        path: An artifact of `nncompile export`, or any single-file ONNX model.
        device: `cpu`, `cuda` or `cuda:1` are strict; only `auto` may choose the CPU where there is
            no usable GPU.
        plan: How to run it; None takes the plans stored for this machine, or the default.

    Raises:
        ModelLoadError: The file is missing, damaged or refused, or ONNX Runtime is not installed.
        DeviceError: The device cannot be had.
        PlanError: The plan is invalid.
    """
    return Predictor(container.read(path), device=device, plan=plan)
