"""Runs a compiled graph on every case and compares it with eager PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from nncompile.verify.answers import answered, largest_value
from nncompile.verify.cases import Case, cases
from nncompile.verify.compare import (
    QUANTIZED_ROUNDING,
    Array,
    Difference,
    difference,
)
from nncompile.verify.eager import ChannelsLast, Eager, as_array, in_float64
from nncompile.verify.neighbours import own_errors
from nncompile.verify.record import record
from nncompile_runtime import container
from nncompile_runtime.cuda_options import channels_last
from nncompile_runtime.cuda_session import open_session
from nncompile_runtime.devices import CPU, Device
from nncompile_runtime.errors import ModelLoadError, NncompileError, VerificationError
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Precision, Signature, Verification
from nncompile_runtime.plan import default_plan
from nncompile_runtime.session import Session


@dataclass(frozen=True)
class Failure:
    """The first case that a graph fails.

    Attributes:
        case: Its number in the suite.
        what: One sentence with the numbers.
    """

    case: int
    what: str


class Suite:
    """The cases with eager's answers, computed once for all graphs that are compared.

    Attributes:
        session: That of the graph compared last; None where ONNX Runtime refused it.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        signature: Signature,
        example: tuple[torch.Tensor, ...],
        *,
        reference: torch.nn.Module | None = None,
        precision: Precision = "float32",
        exact: bool = False,
        device: Device = CPU,
    ) -> None:
        """Run eager PyTorch, in the module's own dtype and in float64.

        Args:
            module: In evaluation mode, on the CPU.
            signature: How it is called.
            example: Typical inputs, flat.
            reference: What `module` was cast from, whose float64 answers are right; None where it was not.
            precision: What it was cast to.
            exact: Whether the native kernels do without Winograd's algorithm, as the model will be run.
            device: Where graphs are run.

        Raises:
            VerificationError: Eager itself fails on a case, answers differently each time, or is too far
                off on the example in the precision.
        """
        self.session: Session | None = None
        self._signature = signature
        self._plan = default_plan(this_machine(), device.provider, device.number, exact=exact)
        mode = ChannelsLast if precision == "float16" else nullcontext
        self._eager = Eager(module, signature, mode)
        first, *others = cases(signature, example)
        self._precision = precision
        widest = module if reference is None else reference  # never `or`: a module may have a length of 0
        double, answer = in_float64(widest, signature, first.inputs) or (None, None)
        found = [answered(self._eager, double, first, precision, answer)]
        found += [answered(self._eager, double, case, precision) for case in others]
        self._cases = [case for case, _ in found]
        self._expected = [answers for _, answers in found]
        columns = zip(*(reference for _, reference in self._expected), strict=True)
        self._largest = [max(map(largest_value, column)) for column in columns]
        self._double = double
        self._nearby: dict[int, list[float]] = {}
        self._refuse_randomness()
        self._refuse_nothing_but_nan(module)

    def compare(self, model: bytes, only: int | None = None) -> Failure | Verification:
        """Compare a serialised graph, in a session with the default plan: the way it will run.

        Where that has regions on the native kernels, also without: the way it runs on other machines. What
        computes in bfloat16, for which ONNX Runtime's CPU has no kernels, is rounded to it step by step.

        Args:
            model: The bytes that are saved.
            only: Number of the one case to run; None runs all.
        """
        self.session = None
        if self._precision == "bfloat16" and self._plan.provider == "cpu":
            from nncompile.bfloat16 import emulated  # which needs onnx: what compares answers does without

            model = emulated(model)
        file, independent = container.parse(model, "the compiled graph"), only is None
        found: list[list[Difference]] = []
        cases = 0
        nhwc = self._plan.provider == "cuda" and channels_last(self._precision, file.facts.operators)
        default = self._plan.model_copy(update={"channels_last": nhwc})
        for plan in (default, default.model_copy(update={"native": False})):
            try:
                session = open_session(file, plan)
            except ModelLoadError as error:
                return Failure(0, str(error))
            self.session = self.session or session
            rows, last = self._differences(session, self._steps(file.facts.operators), only)
            if isinstance(rows, Failure):
                return rows if plan.native else replace(rows, what=f"Without native kernels: {rows.what}")
            found, cases = found + rows, len(rows)
            independent = independent and self._rows_are_independent(session, last)
            if not session.kernels.active:
                break
        return record(
            self._signature,
            found,
            cases=cases,
            precision=self._precision,
            reference="float64" if self._double else "float32",
            rows_independent=independent,
        )

    def exactly(self) -> Suite:
        """The same cases for graphs whose native kernels do without Winograd's algorithm."""
        suite = copy(self)
        suite._plan = self._plan.model_copy(update={"exact": True})
        return suite

    def fails_at_batch_one_alone(self, model: bytes) -> bool:
        """Whether a graph is right at every other batch: tracing takes the way of 2 rows and more."""
        failed = set()
        for number, case in enumerate(self._cases):
            if isinstance(self.compare(model, only=number), Failure):
                carried = zip(case.inputs, self._signature.inputs, strict=True)
                failed |= {len(x) for x, spec in carried if spec.shape[:1] == (self._signature.batch,)}
        return failed == {1}

    def _differences(
        self, session: Session, steps: list[list[float]], only: int | None
    ) -> tuple[Failure | list[list[Difference]], list[Array]]:
        """For each case the differences of all outputs, or the first case that fails; the last answer."""
        found: list[list[Difference]] = []
        got: list[Array] = []
        for number, case in enumerate(self._cases):
            if only is not None and number != only:
                continue
            try:
                got = session.run(self._feed(case.inputs))
            except NncompileError as error:
                return Failure(number, f"{case.name}: {error}"), got
            row = self._compared(number, got, steps[number])
            if any(not result.passed and not result.note for result in row):
                row = self._compared(number, got, steps[number], self._errors_nearby(number))
            for spec, result in zip(self._signature.outputs, row, strict=True):
                if not result.passed:
                    return Failure(number, _describe(case, spec.name, result)), got
            found.append(row)
        return found, got

    def _compared(
        self, number: int, got: list[Array], steps: list[float], nearby: Sequence[float] = ()
    ) -> list[Difference]:
        """The differences of all outputs of one case."""
        nearby = nearby or [0.0] * len(got)
        outputs = zip(got, *self._expected[number], steps, nearby, self._largest, strict=True)
        return [
            difference(g, e, r, precision=self._precision, step=step, nearby=own, largest=largest)
            for g, e, r, step, own, largest in outputs
        ]

    def _errors_nearby(self, number: int) -> list[float]:
        """Eager's own errors next to a case, computed once; none where there is no float64 to tell them."""
        if number not in self._nearby:
            inputs = self._cases[number].inputs
            self._nearby[number] = own_errors(self._eager, self._double, inputs) if self._double else []
        return self._nearby[number]

    def _steps(self, operators: Collection[str]) -> list[list[float]]:
        """What 8-bit roundings may change in each output of each case; 0 where the graph has none.

        A static scale is that of the whole range, which the case of large values fills; a dynamic one is
        that of the case.
        """
        largest = [[largest_value(output) for output in eager] for eager, _ in self._expected]
        if "QuantizeLinear" in operators:
            whole = [max(column) for column in zip(*largest, strict=True)]
            largest = [whole] * len(largest)
        elif "MatMulInteger" not in operators:
            return [[0.0] * len(row) for row in largest]
        return [[QUANTIZED_ROUNDING * value for value in row] for row in largest]

    def _refuse_randomness(self) -> None:
        """Eager must answer the same twice: nothing can be compared with random numbers."""
        again = self._eager(self._cases[0].inputs)
        first, _ = self._expected[0]
        outputs = zip(first, again, self._largest, strict=True)
        if not all(difference(b, a, a, largest=largest).passed for a, b, largest in outputs):
            raise VerificationError(
                "The module answers differently each time it is called, in evaluation mode: it draws random "
                "numbers, or keeps state between calls.",
                remedy="Give F.dropout and the like training=self.training, or take what changes as inputs.",
            )

    def _refuse_nothing_but_nan(self, module: torch.nn.Module) -> None:
        """NaN equals NaN, so an output that is never anything else would agree with any graph's."""
        columns = zip(*(eager for eager, _ in self._expected), strict=True)
        for spec, column in zip(self._signature.outputs, columns, strict=True):
            values = np.concatenate([answer.reshape(-1) for answer in column])
            if not (values.size and values.dtype.kind == "f" and np.isnan(values).all()):
                continue
            weights = (*module.named_parameters(), *module.named_buffers())
            broken = next((n for n, w in weights if w.is_floating_point() and w.isnan().any()), None)
            if broken is not None:
                raise VerificationError(
                    f"Eager PyTorch answers NaN on every input, in output {spec.name!r}: "
                    f"{broken!r} holds NaN, so there is nothing to compare.",
                    remedy="Load weights of a training that did not diverge.",
                )
            raise VerificationError(
                f"Eager PyTorch's output {spec.name!r} is NaN in every element, on the example and on "
                f"{len(column) - 1} other inputs: nothing can be compared.",
                remedy="Give an example with typical values, and look for the NaN in the module.",
            )

    def _feed(self, inputs: Sequence[torch.Tensor]) -> dict[str, Array]:
        return {spec.name: as_array(x) for spec, x in zip(self._signature.inputs, inputs, strict=True)}

    def _rows_are_independent(self, session: Session, whole: list[Array]) -> bool:
        """Whether the last case, which is the largest, gives the same rows as one row and the others.

        One row by itself shows groups of any size, and a Squeeze that takes a batch of 1 for no batch.
        """
        batch = self._signature.batch
        carries = [bool(s.shape) and s.shape[0] == batch for s in self._signature.inputs]
        if batch is None or not all(s.shape and s.shape[0] == batch for s in self._signature.outputs):
            return False
        inputs = self._cases[-1].inputs
        if not any(c and bool((x != x[:1]).any()) for x, c in zip(inputs, carries, strict=True)):
            return False  # rows that are all the same tell nothing

        def piece(rows: slice) -> list[Array]:
            return session.run(
                self._feed([x[rows] if c else x for x, c in zip(inputs, carries, strict=True)])
            )

        try:
            first, rest = piece(slice(1)), piece(slice(1, None))
            joined = [np.concatenate(pair) for pair in zip(first, rest, strict=True)]
        except (NncompileError, ValueError):  # other dimensions depend on the batch too
            return False
        outputs = zip(joined, whole, self._expected[-1][1], self._largest, strict=True)
        return all(
            difference(j, w, e, precision=self._precision, largest=largest).passed
            for j, w, e, largest in outputs
        )


def _describe(case: Case, output: str, result: Difference) -> str:
    detail = result.note or (
        f"differs from eager PyTorch by {result.max_abs:.3g} ({result.max_rel:.2g} of the largest value); "
        f"eager's own float error is {result.eager_max_abs:.3g}"
    )
    return f"On the {case.name} input, output {output!r} {detail}"
