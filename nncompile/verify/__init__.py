"""OptimizedModel -> VerifiedModel: compare with eager PyTorch; on a mismatch, find the pass and drop it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch

from nncompile.stages import CapturedModel, OptimizedModel, VerifiedModel
from nncompile.verify.compare import NARROW
from nncompile.verify.fast_path import switched_off, two_answers
from nncompile.verify.suite import Failure, Suite
from nncompile_runtime import container
from nncompile_runtime.container import ModelFile
from nncompile_runtime.devices import CPU, Device
from nncompile_runtime.errors import VerificationError
from nncompile_runtime.failures import NO_KERNEL
from nncompile_runtime.machine import this_machine
from nncompile_runtime.manifest import Precision, Verification
from nncompile_runtime.plan import default_plan
from nncompile_runtime.session import Session

_log = logging.getLogger("nncompile")

Optimize = Callable[[frozenset[str]], OptimizedModel]


def verify(
    captured: CapturedModel, optimize: Optimize, *, precision: Precision = "float32", exact: bool = False
) -> VerifiedModel:
    """Compare the optimised graph with eager PyTorch; leave out each pass that breaks the numbers.

    A graph that is right on the native kernels without Winograd's algorithm alone is run without it.

    Args:
        captured: The module and its example.
        optimize: Runs the passes without those named, always from the captured graph.
        precision: Whose tolerances hold.
        exact: Whether the native kernels are to do without Winograd's algorithm.

    Raises:
        VerificationError: The graph is wrong with no pass at all, or eager PyTorch has two answers.
    """
    from nncompile.verify.rows import keeps_rows_apart  # it needs onnx-ir: what compares answers does without

    make_suite = partial(
        Suite,
        captured.module,
        captured.signature,
        captured.example,
        reference=captured.reference,
        precision=precision,
        exact=exact,
    )
    suite = make_suite()
    dropped: tuple[str, ...] = ()
    while True:
        model = optimize(frozenset(dropped))
        outcome = suite.compare(model.model)
        if isinstance(outcome, Verification):
            apart = outcome.rows_independent and keeps_rows_apart(captured.graph, captured.signature)
            record = outcome.model_copy(update={"dropped_passes": dropped, "rows_independent": apart})
            return VerifiedModel(model, record, suite.session, exact)
        if not exact and _right_without_winograd(suite, model, outcome):
            _log.warning(
                "The native kernels do without Winograd's algorithm, as with exact=True. %s.", outcome.what
            )
            suite, exact = suite.exactly(), True
            continue
        guilty = _bisect(suite, optimize, model, frozenset(dropped), outcome)
        if guilty is None and NO_KERNEL in outcome.what:
            raise VerificationError(
                f"ONNX Runtime's CPU cannot run the module in its dtype. {outcome.what}.",
                remedy="Compile module.float(), with example inputs of float32.",
            )
        if guilty is None and _right_without_fast_path(make_suite, model, outcome):
            raise two_answers(outcome.what)
        if guilty is None and suite.fails_at_batch_one_alone(model.model):
            raise VerificationError(
                f"The module treats a batch of 1 unlike every other. {outcome.what}.",
                remedy="Write forward for any batch, without a branch on x.shape[0] or len(x), or compile "
                "with dynamic_batch=False (--static), which accepts the example's batch size only.",
            )
        if guilty is None:
            raise VerificationError(
                f"The graph is wrong with no pass at all. {outcome.what}.",
                remedy="PyTorch's exporter translated the module wrongly; report it with the module's code."
                if precision not in NARROW
                else f"Compile with precision='float32': the module may be at the edge of {precision}.",
            )
        _log.warning("Pass %r changes the answers and is left out. %s.", guilty, outcome.what)
        dropped = (*dropped, guilty)


def verify_file(
    model: ModelFile,
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    reference: torch.nn.Module | None = None,
    device: Device = CPU,
) -> Verification:
    """Compare an artifact that was saved with the module it should be.

    Args:
        model: The artifact; it must have a manifest.
        module: In evaluation mode, on the CPU, in the file's precision.
        example: Typical inputs, flat, in the order of the graph's inputs.
        reference: What `module` was cast from; None where it was not.
        device: Where the artifact is run.

    Raises:
        DeviceError: The device cannot be had.
        VerificationError: They differ, or the module does not take such inputs.
    """
    if model.manifest is None:
        raise VerificationError(
            f"{model.name} has no manifest: it is not known how its inputs map to forward.",
            remedy="Verify a file that nncompile export wrote.",
        )
    about = model.manifest
    suite = Suite(
        module,
        about.signature,
        example,
        reference=reference,
        precision=about.precision,
        exact=about.exact,
        device=device,
    )
    outcome = suite.compare(model.data)
    if isinstance(outcome, Failure):
        raise VerificationError(
            f"{model.name} does not answer as the module does. {outcome.what}.",
            remedy="Check that module and weights are those it was exported with, or export it again.",
        )
    return outcome


def skip(model: OptimizedModel, *, precision: Precision = "float32", exact: bool = False) -> VerifiedModel:
    """Mark a graph as expressly not verified."""
    session = None
    if precision == "bfloat16":  # the graph itself may need a GPU
        from nncompile.bfloat16 import emulated

        file = container.parse(emulated(model.model), "the compiled graph")
        session = Session(file, default_plan(this_machine(), exact=exact))
    return VerifiedModel(model, Verification(status="skipped"), session, exact)


def _right_without_winograd(suite: Suite, model: OptimizedModel, failure: Failure) -> bool:
    on_kernels = suite.session is not None and suite.session.kernels.active
    return on_kernels and not isinstance(suite.exactly().compare(model.model, only=failure.case), Failure)


def _right_without_fast_path(
    make_suite: Callable[[], Suite], model: OptimizedModel, failure: Failure
) -> bool:
    with switched_off() as was_on:
        return was_on and not isinstance(make_suite().compare(model.model, only=failure.case), Failure)


def _bisect(
    suite: Suite, optimize: Optimize, model: OptimizedModel, dropped: frozenset[str], failure: Failure
) -> str | None:
    """The pass whose addition makes the failing case fail; None where it fails without any."""
    active = [report.name for report in model.passes]

    def fails(count: int) -> bool:
        without = dropped | frozenset(active[count:])
        return isinstance(suite.compare(optimize(without).model, only=failure.case), Failure)

    if fails(0):
        return None
    good, bad = 0, len(active)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(middle) else (middle, bad)
    return active[bad - 1]
