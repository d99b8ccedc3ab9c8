"""`CompiledModel`: what `compile` returns."""

from __future__ import annotations

import os
from typing import Any

from nncompile.report import CompileReport
from nncompile_runtime import container
from nncompile_runtime.predictor import Predictor
from nncompile_runtime.session import Session


class CompiledModel(Predictor):
    """A compiled model: a `Predictor` that can be saved and knows how it came about."""

    def __init__(self, data: bytes, name: str, report: CompileReport, session: Session | None = None) -> None:
        """Run an artifact.

        Args:
            data: The artifact, as it was just built.
            name: The module's class name, for messages.
            report: What the compile did.
            session: The one in which the graph was verified; another is opened where it does not serve.
        """
        super().__init__(container.parse(data, name, made_here=True), session=session)
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
