"""From one value for each graph input to the arguments of `forward`: the way back from `InputBinder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nncompile_runtime.manifest import Argument
from nncompile_runtime.structure import unflattener


class Nesting:
    """Nests flat values as the arguments that a signature lists."""

    def __init__(self, arguments: Sequence[Argument]) -> None:
        """Prepare for `arguments`."""
        self._positional = [unflattener(a.structure) for a in arguments if not a.keyword_only]
        self._by_name = [(a.name, unflattener(a.structure)) for a in arguments if a.keyword_only]

    def __call__(self, flat: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from one value for each graph input, in the graph's order."""
        return [nest(flat) for nest in self._positional], {name: nest(flat) for name, nest in self._by_name}
