"""`CompiledModel`: what `compile` returns."""

from __future__ import annotations

import os
from typing import Any

from nncompile.report import CompileReport
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor


class CompiledModel(Predictor):
    """A compiled model: a `Predictor` that can be saved and knows how it came about."""

    def __init__(self, data: bytes, name: str, report: CompileReport) -> None:
        """Open a session for an artifact.

        Args:
            data: The artifact.
            name: The module's class name, for messages.
            report: What the compile did.
        """
        super().__init__(container.parse(data, name))
        self.report = report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact: one file, whole or not at all.

        Raises:
            NncompileError: The folder is missing or not writable, or the disk is full.
        """
        container.write(path, self._file.data)

    def __getstate__(self) -> dict[str, Any]:
        """The predictor's state with the report."""
        return {**super().__getstate__(), "report": self.report}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open a session of its own in the process that unpickles."""
        super().__setstate__(state)
        self.report = state["report"]
