"""VerifiedModel -> the bytes of one .onnx file with its manifest."""

from __future__ import annotations

from importlib import metadata

from nncompile.options import CompileOptions
from nncompile.stages import VerifiedModel
from nncompile_runtime.container import append_manifest
from nncompile_runtime.machine import installed_onnxruntime
from nncompile_runtime.manifest import Manifest, PassRecord

_PRODUCERS = ("nncompile", "torch", "onnx", "onnx-ir", "onnxscript")


def build(verified: VerifiedModel, options: CompileOptions) -> bytes:
    """The artifact; see docs/artifact-format.md."""
    optimized = verified.optimized
    versions = {name: metadata.version(name) for name in _PRODUCERS}
    manifest = Manifest(
        producer=versions | installed_onnxruntime(),
        model_name=optimized.captured.name,
        signature=optimized.captured.signature,
        target=options.target,
        precision=options.precision,
        exact=verified.exact,
        passes=tuple(PassRecord(name=report.name, changes=report.changes) for report in optimized.passes),
        verification=verified.verification,
        preprocessing=options.preprocess,
        labels=options.labels,
    )
    return append_manifest(optimized.model, manifest)
