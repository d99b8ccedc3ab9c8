"""Answers on the device against eager PyTorch in float64, with the tolerances of verification.

The cases are those of `nncompile.verify`: the example, seeded normal values, large ones, constants, at
batches 1, 2, 3 and 8. The yardstick is eager PyTorch on the device in the file's precision, the reference the
module in float64 there. TF32 has the significand of float16, whose tolerances it gets; ONNX Runtime's CPU, on
which a compile is verified, has no TF32, so this is where it is looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from models.gpu_check.context import Context, arrays
from models.gpu_check.table import Finding, NotRunError
from models.gpu_check.ways import LARGE, LARGE_PLANS, LARGE_PRECISION
from models.zoo import LARGER
from nncompile.bench.engines.on_gpu import as_in_file, flat_call, tf32_as_in
from nncompile.verify.answers import answered
from nncompile.verify.cases import cases
from nncompile.verify.compare import Difference, difference
from nncompile.verify.eager import as_array
from nncompile.verify.neighbours import own_errors
from nncompile_runtime import NncompileError, Plan, Predictor, container
from nncompile_runtime.cuda_options import unsuited

FUSED = {"channels_last": True, "fuse_bias": True}
Answer = Callable[[Sequence[torch.Tensor]], list[np.ndarray]]
Run = tuple[str, str, dict[str, Any] | None]  # network, precision, fields of the plan


def answers(context: Context) -> Iterator[Finding]:
    """Each network in each precision: numpy arrays in and out, and tensors that stay on the device.

    On a GPU with `fuse_bias` too, which no default plan asks for, and ResNet-18 in float16 channels last, as
    it is and from CUDA graphs. The larger networks come last: what runs out of time loses least.
    """
    runs: list[Run] = []
    for name in sorted(context.networks, key=lambda name: name in LARGER):
        for precision in context.precisions:
            plans = [None, FUSED] if fuses(context, name, precision) else [None]
            runs += [(name, precision, plan) for plan in plans]
    if context.on_gpu and LARGE in context.networks and LARGE_PRECISION in context.precisions:
        runs += [(LARGE, LARGE_PRECISION, plan) for plan in LARGE_PLANS]
    doubles: dict[str, Answer] = {}
    for name, precision, plan in runs:
        way = "fuse_bias" if plan is FUSED else plan
        what = f"{name}, {precision}" + (f", {way}" if way else "")
        try:
            yield _compared(context, what, name, precision, plan, doubles)
        except NotRunError as error:
            yield Finding(what, "not run", str(error))
        except NncompileError as error:
            yield Finding.of(what, False, f"{type(error).__name__}: {error}")


def fuses(context: Context, name: str, precision: str) -> bool:
    """Whether `FUSED` suits a network that is there, and changes something."""
    path = context.path(name, precision)
    if not context.on_gpu or not path.exists():
        return False
    model = container.read(path)
    fault = unsuited(
        Plan.model_validate({"provider": "cuda", **FUSED}), model.facts.operators, model.precision
    )
    return "Conv" in model.facts.operators and fault is None and not model.in_bfloat16


def _compared(
    context: Context,
    what: str,
    name: str,
    precision: str,
    plan: dict[str, Any] | None,
    doubles: dict[str, Answer],
) -> Finding:
    predictor = context.load(name, precision, plan)
    module = context.module(name)
    judged = "float16" if precision == "tf32" else precision
    own = _on_device(as_in_file(module, precision, channels_last=False), predictor, context.device, precision)
    if name not in doubles:  # which all precisions share
        doubles[name] = kept(_on_device(module.double(), predictor, context.device, "float32"))
    double = doubles[name]
    worst = Difference(True)
    agreeing = rows = 0
    calls = {
        "from arrays": lambda inputs: predictor(*(x.numpy() for x in inputs)),
        "from tensors on the device": lambda inputs: predictor(*(x.to(context.device) for x in inputs)),
    }
    for case in cases(predictor.signature, (torch.from_numpy(context.inputs(name, 2)),)):
        case, (eager, reference) = answered(own, double, case, judged)
        for how, call in calls.items():
            got = arrays(predictor, call(case.inputs))
            for number, (a, b, c) in enumerate(zip(got, eager, reference, strict=True)):
                found = difference(a, b, c, precision=judged)
                if not found.passed and not found.note:
                    nearby = own_errors(own, double, case.inputs) or [0.0] * len(got)
                    found = difference(a, b, c, precision=judged, nearby=nearby[number])
                if not found.passed:
                    where = f"output {number} of {case.name}, {how}"
                    why = ""
                    if precision == "float32" and difference(a, b, c, precision="float16").passed:
                        why = "; within TF32's tolerance: a kernel rounds to 10 bits although use_tf32 is off"
                    return Finding.of(what, False, f"{where}: {_figures(found)}{why}")
                agreeing, rows = agreeing + found.agreeing_rows, rows + found.rows
                worst = max(worst, found, key=lambda d: d.max_rel)
    top1 = f", top-1 agreement {agreeing / rows:.1%}" if rows else ""
    return Finding.of(what, True, _figures(worst) + top1)


def kept(answer: Answer) -> Answer:
    """The same answers; those to inputs that were given before are not computed again."""
    known: dict[bytes, list[np.ndarray]] = {}

    def call(inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
        digest = hashlib.blake2b()
        for x in inputs:
            digest.update(f"{x.dtype} {tuple(x.shape)};".encode() + x.numpy().tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = answer(inputs)
        return known[key]

    return call


def _on_device(module: torch.nn.Module, predictor: Predictor, device: str, precision: str) -> Answer:
    """A module on the device behind the graph's flat signature."""
    call = flat_call(module.to(device), predictor)

    def answer(inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
        with torch.no_grad(), tf32_as_in(precision):
            return [as_array(y.cpu()) for y in call([x.clone().to(device) for x in inputs])]

    return answer


def _figures(found: Difference) -> str:
    return found.note or (
        f"largest error {found.max_abs:.2g}, {found.max_rel:.2g} of the largest value "
        f"(eager's own {found.eager_max_abs:.2g})"
    )
