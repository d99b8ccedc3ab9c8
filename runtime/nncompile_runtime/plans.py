"""Which plans serve a model here: the user's, those stored for this machine by batch, or the default."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from nncompile_runtime.container import ModelFile
from nncompile_runtime.cuda_options import channels_last
from nncompile_runtime.errors import PlanError
from nncompile_runtime.machine import Machine
from nncompile_runtime.plan import MAX_BATCH, Plan, default_plan

_MOST_REGIMES = 64
_log = logging.getLogger("nncompile")

Plans = Mapping[int, Plan]
"""Plans by the smallest batch that each serves; the first key is 1."""


def default_of(
    model: ModelFile, machine: Machine, provider: Literal["cpu", "cuda"] = "cpu", device_id: int = 0
) -> Plan:
    """A model's plan where nothing was measured: exact if compiled so, in the layout that suits its graph."""
    return default_plan(
        machine,
        provider,
        device_id,
        exact=model.exact,
        channels_last=channels_last(model.precision, model.facts.operators),
    )


def choose(
    user: Plan | Mapping[str, Any] | None,
    stored: Mapping[str, Mapping[str, Any]],
    machine: Machine,
    default: Plan,
) -> dict[int, Plan]:
    """The plans to run: the user's, else those stored for this machine, else the default.

    Args:
        user: A plan, or its fields; it serves every batch.
        stored: The manifest's plans by `key`.
        machine: The machine at hand.
        default: The plan where nothing was measured, from `default_of`: on the device to run on. A plan that
            does not speak of `exact` takes its over.

    Returns:
        Plans by the smallest batch that each serves, in order; the first key is 1.

    Raises:
        PlanError: The user's plan is invalid. Stored ones that are invalid are only warned about,
            because they come from a file and the default is always safe.
    """
    if user is not None:
        return {1: _of_user(user, exact=default.exact)}
    kept = stored.get(key(machine, default))
    if kept is None:
        return {1: default}
    try:
        plans = {
            _batch(start): Plan.model_validate({"exact": default.exact, **fields})
            for start, fields in kept.items()
        }
        if 1 not in plans or len(plans) > _MOST_REGIMES:
            raise ValueError(f"there is none for a batch of 1, or more than {_MOST_REGIMES}")
        fault = disagreement(plans)
        if fault is not None:
            raise ValueError(fault)
    except (ValueError, TypeError) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        _log.warning("The stored plans for this machine are invalid (%s); using the default.", why)
        return {1: default}
    fit = all(
        plan.device == default.device
        and plan.threads * (plan.workers if plan.provider == "cpu" else 1) <= machine.processors
        for plan in plans.values()
    )
    return dict(sorted(plans.items())) if fit else {1: default}


def disagreement(plans: Plans) -> str | None:
    """Why plans may not serve one model: a sample would be rounded in another way in another batch.

    ONNX Runtime's kernels and the native ones round differently as well; what is refused here is that the
    native ones, which promise the same bits whatever the batch, run two algorithms.
    """
    served: dict[str, int] = {}
    for start, plan in sorted(plans.items()):
        if plan.native:
            served.setdefault(_algorithms(plan), start)
    if len(served) < 2:
        return None
    (one, first), (other, second), *_ = served.items()
    return f"the native kernels' algorithms would be {one!r} at batch {first} and {other!r} at batch {second}"


def _algorithms(plan: Plan) -> str:
    """What the native kernels round by: as defined, all layouts round alike."""
    if plan.exact or plan.winograd == "never":
        return "never"
    return plan.winograd if plan.lanes else f"{plan.winograd} without lanes"


def key(machine: Machine, plan: Plan) -> str:
    """The key of a manifest's `plans` under which those of one machine and device are kept."""
    return machine.fingerprint + ("" if plan.provider == "cpu" else f" | {plan.device}")


def stored_form(plans: Plans) -> dict[str, Any]:
    """What the manifest keeps under `key`: the fields that differ from `Plan()`, by smallest batch."""
    return {str(start): plan.model_dump(exclude_defaults=True) for start, plan in sorted(plans.items())}


def _of_user(user: Plan | Mapping[str, Any], *, exact: bool) -> Plan:
    if isinstance(user, Plan):
        speaks = "exact" in user.model_fields_set or not exact
        return user if speaks else user.model_copy(update={"exact": True})
    if not isinstance(user, Mapping):
        raise PlanError(
            f"The plan is a {type(user).__name__}.",
            remedy="Give a nncompile.Plan or a dict of its fields.",
        )
    try:
        return Plan.model_validate({"exact": exact, **user})
    except ValidationError as error:
        raise PlanError(
            f"The plan is invalid: {_first(error)}.",
            remedy=f"Its fields are {', '.join(Plan.model_fields)}.",
        ) from None


def _batch(text: str) -> int:
    """The batch that a stored plan begins at."""
    if (
        text.isascii()
        and text.isdigit()
        and not text.startswith("0")
        and len(text) < 8
        and int(text) <= MAX_BATCH
    ):
        return int(text)
    raise ValueError(f"{text[:40]!r} is no batch from 1 to {MAX_BATCH}")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'plan'}: {first['msg']}"
