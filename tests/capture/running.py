"""Running a captured graph as it stands: no pass, no verification."""

from typing import Any

import onnx_ir as ir

from nncompile.stages import CapturedModel
from nncompile_runtime import container
from nncompile_runtime.inputs import InputBinder
from nncompile_runtime.machine import this_machine
from nncompile_runtime.plan import default_plan
from nncompile_runtime.session import Session
from nncompile_runtime.structure import unflattener


def call(model: CapturedModel, *args: Any, **kwargs: Any) -> Any:
    """Run the captured graph, called and answering as `forward`."""
    data = ir.to_proto(model.graph).SerializeToString()
    session = Session(container.parse(data, "captured"), default_plan(this_machine()))
    feed, _ = InputBinder(model.signature)(args, kwargs)
    return unflattener(model.signature.result)(session.run(feed))
