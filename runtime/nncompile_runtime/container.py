"""The artifact: one ONNX file with two entries of ours behind the model (docs/artifact-format.md).

    model bytes | manifest entry | digest entry

Both entries are `metadata_props` of ModelProto. Protobuf lets a repeated field be appended, so the
file stays valid ONNX; the digest is the SHA-256 of every byte before its own entry.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nncompile_runtime import manifest as manifests
from nncompile_runtime.errors import ModelLoadError, NncompileError
from nncompile_runtime.manifest import Manifest, Precision
from nncompile_runtime.onnx_scan import DOUBLE, FLOAT16, GraphFacts, scan
from nncompile_runtime.wire import LENGTH_DELIMITED, WireError, fields, write_bytes_field

MANIFEST_KEY = b"nncompile.manifest"
DIGEST_KEY = b"nncompile.sha256"
MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit for one message
_ARCHIVE = b"PK\x03\x04"  # how a ZIP file begins
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2


@dataclass(frozen=True)
class ModelFile:
    """A model file that was read, checked and scanned.

    Attributes:
        name: Where it came from, for messages.
        data: The whole file; valid ONNX.
        manifest: What it says about itself; None for an ONNX file that nncompile did not write.
        facts: What its graph asks for.
    """

    name: str
    data: bytes
    manifest: Manifest | None
    facts: GraphFacts

    @property
    def precision(self) -> Precision:
        """How the model computes; `float32` where nothing is said."""
        return self.manifest.precision if self.manifest else "float32"

    @property
    def in_bfloat16(self) -> bool:
        """Whether the graph itself computes in bfloat16, for which ONNX Runtime's CPU lacks kernels."""
        return (
            self.manifest is not None
            and self.manifest.target == "cuda"
            and self.manifest.precision == "bfloat16"
        )

    @property
    def exact(self) -> bool:
        """Whether the native kernels are to do without Winograd's algorithm."""
        return self.manifest is not None and self.manifest.exact

    def harmful_optimizers(self, provider: str) -> tuple[str, ...]:
        """Those of ONNX Runtime's that may harm this graph.

        As of ONNX Runtime 1.31, `Pad_Fusion` takes Pad(0) before a MaxPool for -inf, `MatMulScaleFusion`
        keeps a factor of float64 in an attribute, which is float32, and on the CPU `MatmulTransposeFusion`
        ends the process where the batch is transposed before a product with weights of float16.

        Args:
            provider: `cpu` or `cuda`.
        """
        operators, types = self.facts.operators.keys(), self.facts.weight_types
        pads = {"Pad", "MaxPool"} <= operators
        factors = "MatMul" in operators and DOUBLE in types
        products = provider == "cpu" and {"Transpose", "MatMul"} <= operators and FLOAT16 in types
        found = (
            ("Pad_Fusion", pads),
            ("MatMulScaleFusion", factors),
            ("MatmulTransposeFusion", products),
        )
        return tuple(name for name, there in found if there)

    @property
    def rows_independent(self) -> bool:
        """Whether a row's answer was seen not to depend on the other rows, so that batches may be cut."""
        return self.manifest is not None and self.manifest.verification.rows_independent


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a model file.

    Raises:
        ModelLoadError: No path, missing, unreadable, empty, truncated, not ONNX, changed since it was
            written, with data outside the file, or with a manifest that cannot be used.
    """
    try:
        if isinstance(path, bytes):  # a model, not its path
            raise TypeError
        name = os.fsdecode(path)
    except TypeError:
        raise ModelLoadError(
            f"A model is loaded from a path, not from an object of type {type(path).__name__}.",
            remedy="Give the path of an .onnx file.",
        ) from None
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise ModelLoadError(
                    f"{name} is {size} bytes; one ONNX file holds at most {MAX_FILE_BYTES}.",
                    remedy="Export the model in a smaller precision.",
                )
            data = file.read(size + 1)  # no more: Python sets aside at once what it may read
            if len(data) > size:  # a device or a pipe, which say size 0
                data += file.read(MAX_FILE_BYTES + 1 - len(data))
            if len(data) > MAX_FILE_BYTES:
                raise ModelLoadError(f"{name} is endless.", remedy="Give a file.")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ModelLoadError(
            f"{name!r} cannot be read: {getattr(error, 'strerror', None) or error}.",
            remedy="Check the path and its permissions.",
        ) from None
    return parse(data, name)


def parse(data: bytes, name: str, *, made_here: bool = False) -> ModelFile:
    """Check the bytes of a model file; see `read`.

    Args:
        data: The whole file.
        name: Where it came from, for messages.
        made_here: Whether `append_manifest` made the bytes in this process: their digest is then not
            computed again.
    """
    if not data:
        raise ModelLoadError(f"{name} is empty.", remedy="Export the model again.")
    try:
        manifest = _read_manifest(data, name, made_here=made_here)
        facts = scan(data)
    except WireError as error:
        if data.startswith(_ARCHIVE):
            raise ModelLoadError(
                f"{name} is an archive, as torch.save writes it, and no ONNX file.",
                remedy="Export the module that its weights belong to: nncompile export MODULE --weights.",
            ) from None
        raise ModelLoadError(
            f"{name} is not an ONNX file, or is truncated ({error}).",
            remedy="Copy the file again, or export the model again.",
        ) from None
    if not facts.has_graph:
        raise ModelLoadError(f"{name} is not an ONNX model: it holds no graph.", remedy="Check the file.")
    if facts.external_data:
        raise ModelLoadError(
            f"{name} keeps tensor data in other files, which is refused.",
            remedy="Save the model as one file (onnx.save_model(..., save_as_external_data=False)).",
        )
    return ModelFile(name, data, manifest, facts)


def append_manifest(model: bytes, manifest: Manifest) -> bytes:
    """The artifact: `model` with the manifest and the digest behind it.

    Args:
        model: A serialised ModelProto without our entries.
        manifest: What to say about it.

    Raises:
        NncompileError: The manifest is larger than can be read back.
    """
    text = manifest.model_dump_json().encode()
    if len(text) > manifests.MAX_MANIFEST_BYTES:
        raise NncompileError(
            f"The manifest would be {len(text)} bytes; only {manifests.MAX_MANIFEST_BYTES} can be read.",
            remedy="Give fewer or shorter labels.",
        )
    entry = _entry(MANIFEST_KEY, text)
    digest = hashlib.sha256(model)
    digest.update(entry)
    return b"".join((model, entry, _entry(DIGEST_KEY, digest.hexdigest().encode())))


def replace_manifest(data: bytes, manifest: Manifest) -> bytes:
    """The same artifact with another manifest; the model's bytes stay as they are.

    Args:
        data: An artifact; a plain ONNX file gets its first manifest.
        manifest: What to say about the model.
    """
    entries = [start for start, key, _ in _metadata(data) if key == MANIFEST_KEY]
    return append_manifest(data[: entries[0]] if entries else data, manifest)


def with_plans(file: ModelFile, key: str, plans: dict[str, Any]) -> ModelFile:
    """The same model with plans kept for one machine; one that has no manifest stays as it is.

    Args:
        file: The model.
        key: Of the machine and device (`plans.key`).
        plans: By smallest batch (`plan.stored_form`).
    """
    if file.manifest is None:
        return file
    kept = {name: one for name, one in file.manifest.plans.items() if name != key}
    while len(kept) >= manifests.MAX_MACHINES:
        del kept[next(iter(kept))]
    manifest = file.manifest.model_copy(update={"plans": {**kept, key: plans}})
    return replace(file, data=replace_manifest(file.data, manifest), manifest=manifest)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: an interruption leaves an older file as it was.

    Raises:
        NncompileError: The folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    try:
        with _temporary_beside(target) as temporary:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, _mode_for(target))
            os.replace(temporary, target)
    except OSError as error:
        raise NncompileError(
            f"{target} cannot be written: {error.strerror or error}.",
            remedy="Choose a folder that exists, is writable and has room; nothing was changed.",
        ) from None


@contextmanager
def _temporary_beside(target: Path) -> Iterator[str]:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".nncompile-", suffix=".part")
    os.close(handle)
    try:
        yield temporary
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _mode_for(target: Path) -> int:
    """The permissions of the file that is replaced, or what the umask gives a new one."""
    if target.exists():
        return target.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _entry(key: bytes, value: bytes) -> bytes:
    return write_bytes_field(_METADATA_PROPS, write_bytes_field(_KEY, key) + write_bytes_field(_VALUE, value))


def _metadata(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """The top-level metadata entries: start, key, value."""
    for field in fields(data, 0, len(data)):
        if field.number != _METADATA_PROPS or field.wire_type != LENGTH_DELIMITED:
            continue
        parts = {
            part.number: data[part.value_start : part.end]
            for part in fields(data, field.value_start, field.end)
        }
        yield field.start, parts.get(_KEY, b""), parts.get(_VALUE, b"")


def _read_manifest(data: bytes, name: str, *, made_here: bool) -> Manifest | None:
    ours = [entry for entry in _metadata(data) if entry[1] in (MANIFEST_KEY, DIGEST_KEY)]
    if not ours:
        return None
    if [key for _, key, _ in ours] != [MANIFEST_KEY, DIGEST_KEY]:
        raise _damaged(name, "its manifest and its digest are not both there, once, in this order")
    (start, _, text), (digest_start, _, digest) = ours
    if data[start:digest_start] != _entry(MANIFEST_KEY, text) or data[digest_start:] != _entry(
        DIGEST_KEY, digest
    ):
        raise _damaged(name, "its manifest and its digest are not the last two entries")
    if not made_here and hashlib.sha256(memoryview(data)[:digest_start]).hexdigest().encode() != digest:
        raise _damaged(name, "its SHA-256 digest does not match")
    return manifests.parse(text, name)


def _damaged(name: str, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{name} was changed since it was written: {what}.",
        remedy="Copy the file again, or export the model again.",
    )
