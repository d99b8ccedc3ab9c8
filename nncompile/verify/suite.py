"""Runs a compiled graph on every case and compares it with eager PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nncompile.verify.cases import BATCHES, Case, cases
from nncompile.verify.compare import EAGER_MULTIPLE, TOLERANCES, Array, Difference, difference, telling
from nncompile.verify.eager import Eager, in_float64, widened
from nncompile_runtime import container
from nncompile_runtime.errors import ModelLoadError, NncompileError, VerificationError
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import OutputRecord, Signature, Verification
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
        self, module: torch.nn.Module, signature: Signature, example: tuple[torch.Tensor, ...]
    ) -> None:
        """Run eager PyTorch, in the module's own dtype and in float64.

        Args:
            module: In evaluation mode, on the CPU.
            signature: How it is called.
            example: Typical inputs, flat.

        Raises:
            VerificationError: Eager itself fails on a case, or answers differently each time.
        """
        self.session: Session | None = None
        self._signature = signature
        self._eager = Eager(module, signature)
        first, *others = cases(signature, example)
        double, exact = in_float64(module, signature, first.inputs) or (None, None)
        answered = [_answered(self._eager, double, first, exact)]
        answered += [_answered(self._eager, double, case) for case in others]
        self._cases = [case for case, _ in answered]
        self._expected = [answers for _, answers in answered]
        self._reference = "float64" if double else "float32"
        self._refuse_randomness()

    def compare(self, model: bytes, only: int | None = None) -> Failure | Verification:
        """Compare a serialised graph, in a session with the default plan: the way it will run.

        Args:
            model: The bytes that are saved.
            only: Number of the one case to run; None runs all.
        """
        self.session = None
        try:
            session = Session(container.parse(model, "the compiled graph"), default_plan(this_machine()))
        except ModelLoadError as error:
            return Failure(0, str(error))
        self.session = session
        found: list[list[Difference]] = []
        got: list[Array] = []
        for number, (case, (eager, reference)) in enumerate(zip(self._cases, self._expected, strict=True)):
            if only is not None and number != only:
                continue
            try:
                got = session.run(self._feed(case.inputs))
            except NncompileError as error:
                return Failure(number, f"{case.name}: {error}")
            row = [difference(g, e, r) for g, e, r in zip(got, eager, reference, strict=True)]
            for spec, result in zip(self._signature.outputs, row, strict=True):
                if not result.passed:
                    return Failure(number, _describe(case, spec.name, result))
            found.append(row)
        return self._record(found, independent=only is None and self._rows_are_independent(session, got))

    def _refuse_randomness(self) -> None:
        """Eager must answer the same twice: nothing can be compared with random numbers."""
        again = self._eager(self._cases[0].inputs)
        first, _ = self._expected[0]
        if not all(difference(b, a, a).passed for a, b in zip(first, again, strict=True)):
            raise VerificationError(
                "The module answers differently each time it is called, in evaluation mode: it draws random "
                "numbers.",
                remedy="Give F.dropout and the like training=self.training, or take the numbers as inputs.",
            )

    def _feed(self, inputs: Sequence[torch.Tensor]) -> dict[str, Array]:
        return {spec.name: x.numpy() for spec, x in zip(self._signature.inputs, inputs, strict=True)}

    def _rows_are_independent(self, session: Session, whole: list[Array]) -> bool:
        """Whether the last case, which is the largest, gives the rows that it gave whole in two pieces."""
        batch = self._signature.batch
        carries = [bool(s.shape) and s.shape[0] == batch for s in self._signature.inputs]
        if batch is None or not all(s.shape and s.shape[0] == batch for s in self._signature.outputs):
            return False
        inputs, cut = self._cases[-1].inputs, BATCHES[-1] // 3
        if not any(c and bool((x != x[:1]).any()) for x, c in zip(inputs, carries, strict=True)):
            return False  # rows that are all the same tell nothing

        def piece(rows: slice) -> list[Array]:
            return session.run(
                self._feed([x[rows] if c else x for x, c in zip(inputs, carries, strict=True)])
            )

        try:
            first, rest = piece(slice(cut)), piece(slice(cut, None))
            joined = [np.concatenate(pair) for pair in zip(first, rest, strict=True)]
        except (NncompileError, ValueError):  # other dimensions depend on the batch too
            return False
        return all(
            difference(j, w, e).passed for j, w, e in zip(joined, whole, self._expected[-1][1], strict=True)
        )

    def _record(self, found: list[list[Difference]], *, independent: bool) -> Verification:
        outputs = []
        for i, spec in enumerate(self._signature.outputs):
            column = [row[i] for row in found]
            rows = sum(d.rows for d in column)
            outputs.append(
                OutputRecord(
                    name=spec.name,
                    max_abs=max(d.max_abs for d in column),
                    max_rel=max(d.max_rel for d in column),
                    eager_max_abs=max(d.eager_max_abs for d in column),
                    top1_agreement=sum(d.agreeing_rows for d in column) / rows if rows else None,
                )
            )
        dtypes = [spec.dtype for spec in self._signature.outputs if spec.dtype in TOLERANCES]
        rtol, atol = TOLERANCES[dtypes[0]] if dtypes else (0.0, 0.0)
        return Verification(
            status="verified",
            reference="float64" if self._reference == "float64" else "float32",
            batches=BATCHES if self._signature.batch else (),
            cases=len(found),
            rtol=rtol,
            atol=atol,
            eager_multiple=EAGER_MULTIPLE,
            rows_independent=independent,
            outputs=tuple(outputs),
        )


def _answered(
    eager: Eager, double: Eager | None, case: Case, exact: list[Array] | None = None
) -> tuple[Case, tuple[list[Array], list[Array]]]:
    """A case with both sets of outputs: its fallback, where eager refuses or mistakes the invented values.

    Args:
        eager: The module as it is.
        double: The module in float64; None where it cannot run in it.
        case: The inputs.
        exact: What `double` answers, where that is known.

    Raises:
        VerificationError: Eager itself fails on the example's values.
    """
    fallback = None if case.fallback is None else Case(f"{case.name} of the example", case.fallback)
    try:
        own: list[Any] = eager(case.inputs)
        reference = exact or (double(widened(case.inputs)) if double else own)
    except Exception as error:
        if fallback:
            return _answered(eager, double, fallback)
        raise VerificationError(
            f"Eager PyTorch fails on the verification input {case.name!r}: {type(error).__name__}: {error}",
            remedy="Give an example whose values and sizes are typical, or compile with dynamic_batch=False.",
        ) from error
    if fallback and not all(map(telling, own, reference)):
        return _answered(eager, double, fallback)
    return case, (own, reference)


def _describe(case: Case, output: str, result: Difference) -> str:
    detail = result.note or (
        f"differs from eager PyTorch by {result.max_abs:.3g} ({result.max_rel:.2g} of the largest value); "
        f"eager's own float error is {result.eager_max_abs:.3g}"
    )
    return f"On the {case.name} input, output {output!r} {detail}"
