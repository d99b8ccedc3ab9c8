"""What compiled the files in a folder, and what came of each: what other code made is made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from models.gpu_check.table import Finding
from nncompile_runtime import NncompileError, container, cuda
from nncompile_runtime.machine import installed_onnxruntime
from nncompile_runtime.session import onnxruntime

RECORD = "prepared.json"
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("torch", "triton", "numpy", "onnx", "onnx-ir", "onnxscript")
_NETWORKS = ("models/*.py", "models/gpu_check/context.py")
# Of the checks those alone that decide what is compiled.
OF_NETWORKS = (*_NETWORKS, "nncompile/**/*.py", "runtime/**/*.py", "models/gpu_check/preparing.py")
OF_PEERS = (
    *_NETWORKS,
    "nncompile/bench/cold.py",
    "nncompile/bench/engines/*.py",
    "models/gpu_check/warming.py",
)


@dataclass(frozen=True)
class Maker:
    """What a compiled network depends on besides the network.

    Attributes:
        sources: SHA-256 of the code that decides what comes out, networks included.
        versions: Package -> version.
        gpu: Name of the GPU on which linear layers are raced; empty where there is none.
    """

    sources: str
    versions: dict[str, str]
    gpu: str


@dataclass(frozen=True)
class Record:
    """What was prepared in a folder.

    Attributes:
        maker: By what.
        found: What was compiled, or why it was not, by `what`.
    """

    maker: Maker
    found: dict[str, Finding] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record of a folder; None where it has none that can be read."""
        try:
            plain = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            found = [Finding(**finding) for finding in plain["found"]]
            return cls(Maker(**plain["maker"]), {finding.what: finding for finding in found})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Leave the record in its folder."""
        plain = {"maker": asdict(self.maker), "found": [asdict(finding) for finding in self.found.values()]}
        container.write(folder / RECORD, json.dumps(plain, indent=2).encode())


def this_maker(code: Sequence[str] = OF_NETWORKS) -> Maker:
    """What compiles here, by files of its code."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Maker(sources(code), versions | installed_onnxruntime(), gpu())


def sources(code: Sequence[str] = OF_NETWORKS, root: Path = _ROOT) -> str:
    """SHA-256 of code, given as patterns, names included."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in code for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def gpu() -> str:
    """Name of the GPU on which a compile races linear layers: the first one; empty where there is none."""
    try:
        cuda.require(onnxruntime(), 0)
    except NncompileError:
        return ""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "a GPU unknown to PyTorch"
