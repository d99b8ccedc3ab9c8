"""An execution plan: everything about *how* a graph is run, and which plan is chosen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nncompile_runtime.errors import PlanError
from nncompile_runtime.machine import Machine

_log = logging.getLogger("nncompile")


class Plan(BaseModel):
    """How a graph is run. Plans come from files too, so every field has a closed range.

    Attributes:
        provider: ONNX Runtime's execution provider.
        device_id: Which GPU; 0 on the CPU.
        threads: Threads of ONNX Runtime's intra-operator pool, the calling thread included.
        spinning: Whether idle pool threads spin for a while before they sleep.
        blocked_layout: Whether ONNX Runtime may use its blocked NCHWc layout.
        micro_batch: Rows run at once; a larger batch is cut into pieces whose outputs are written
            straight into the result. None runs any batch whole.
        native: Whether fused regions run on the native kernels, where those are installed.
        exact: Whether the native kernels do without Winograd's algorithm, which is faster and rounds more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    provider: Literal["cpu", "cuda"] = "cpu"
    device_id: Annotated[int, Field(ge=0, le=255)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    spinning: bool = True
    blocked_layout: bool = True
    micro_batch: Annotated[int, Field(ge=1, le=2**20)] | None = None
    native: bool = True
    exact: bool = False

    @property
    def device(self) -> str:
        """`cpu`, or `cuda:0` and so on."""
        return self.provider if self.provider == "cpu" else f"{self.provider}:{self.device_id}"


def default_plan(
    machine: Machine, provider: Literal["cpu", "cuda"] = "cpu", device_id: int = 0, *, exact: bool = False
) -> Plan:
    """The plan where nothing was measured."""
    return Plan(provider=provider, device_id=device_id, threads=machine.processors, exact=exact)


def choose(
    user: Plan | Mapping[str, Any] | None,
    stored: Mapping[str, Mapping[str, Any]],
    machine: Machine,
    provider: Literal["cpu", "cuda"] = "cpu",
    device_id: int = 0,
    *,
    exact: bool = False,
) -> Plan:
    """The plan to run: the user's, else the one stored for this machine, else the default.

    Args:
        user: A plan, or its fields.
        stored: The manifest's plans by machine fingerprint.
        machine: The machine at hand.
        provider: The provider to run on, where the user gave no plan.
        device_id: The GPU to run on, where the user gave no plan.
        exact: What the model was compiled for; a plan that does not speak of it takes it over.

    Raises:
        PlanError: The user's plan is invalid. A stored one that is invalid is only warned about,
            because it comes from a file and the default is always safe.
    """
    if isinstance(user, Plan):
        speaks = "exact" in user.model_fields_set or not exact
        return user if speaks else user.model_copy(update={"exact": True})
    if user is not None:
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
    default = default_plan(machine, provider, device_id, exact=exact)
    kept = stored.get(machine.fingerprint)
    if kept is None:
        return default
    try:
        plan = Plan.model_validate({"exact": exact, **kept})
    except ValidationError as error:
        _log.warning("The stored plan for this machine is invalid (%s); using the default.", _first(error))
        return default
    return plan if plan.device == default.device and plan.threads <= machine.processors else default


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'plan'}: {first['msg']}"
