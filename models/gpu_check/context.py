"""What every check works on: the device, and networks with their weights and compiled files in a folder.

`preparing.py` makes the files, where onnx and onnxscript are installed; a GPU machine may have torch and
onnxruntime-gpu alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nncompile
from models.gpu_check.table import NotRunError
from models.zoo import LARGER, ZOO
from nncompile.verify.eager import as_array
from nncompile_runtime import Predictor

NETWORKS = {**ZOO, **LARGER}
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
NO_KERNEL = "no-kernel.onnx"
_SOME = ("lenet5", "net", "mlp", "resnet18")
_SMALL = ("lenet5", "net", "mlp")
_SEED = 20240501


@dataclass(frozen=True)
class Context:
    """What is checked, and where.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        folder: Holds the compiled networks.
        networks: Their names.
        precisions: Those that each is compiled in.
        seconds: Timed seconds of each engine in a check of speed.
        calls: Calls of each kind in the check of memory.
        peers: Folder of what torch.compile made for the engines that are compared; None in a dry run.
    """

    device: str
    folder: Path
    networks: tuple[str, ...] = tuple(NETWORKS)
    precisions: tuple[str, ...] = PRECISIONS
    seconds: float = 0.5
    calls: int = 1000
    peers: Path | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether this is more than a dry run."""
        return self.device != "cpu"

    @property
    def some(self) -> tuple[str, ...]:
        """A few networks, for what does not differ from one to another."""
        return tuple(name for name in _SOME if name in self.networks) or self.networks[:1]

    @property
    def small(self) -> tuple[str, ...]:
        """The small networks, whose calls are short.

        Raises:
            NotRunError: None of them was chosen.
        """
        names = tuple(name for name in _SMALL if name in self.networks)
        if not names:
            raise NotRunError(f"it needs one of {', '.join(_SMALL)}")
        return names

    def as_json(self) -> str:
        """What `from_json` takes."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Context:
        """The context that `as_json` wrote."""
        plain = json.loads(text)
        tuples = {name: tuple(plain[name]) for name in ("networks", "precisions")}
        paths = {name: Path(plain[name]) for name in ("folder", "peers") if plain[name] is not None}
        return cls(**{**plain, **tuples, **paths})

    def path(self, name: str, precision: str) -> Path:
        """Where a compiled network is, or will be."""
        return self.folder / f"{name}-{precision}.onnx"

    def file(self, name: str, precision: str) -> Path:
        """A compiled network.

        Raises:
            NotRunError: There is none.
        """
        path = self.path(name, precision)
        if not path.exists():
            raise NotRunError(f"{name} is not there in {precision}: see the check 'compile'")
        return path

    def exported(self, name: str, precision: str) -> Path:
        """Where PyTorch's own export of a network is, if it was made."""
        return self.folder / f"{name}-{precision}-exported.onnx"

    def load(self, name: str, precision: str, plan: dict[str, Any] | None = None) -> Predictor:
        """A compiled network on the device.

        Args:
            name: The network.
            precision: What it computes in.
            plan: Fields of a plan besides the provider; None takes the default plan.

        Raises:
            NotRunError: It needs a GPU, and this is a dry run.
        """
        if precision == "bfloat16" and not self.on_gpu:
            raise NotRunError("ONNX Runtime's CPU does not compute in bfloat16")
        provider, _, number = self.device.partition(":")
        fields = None if plan is None else {"provider": provider, "device_id": int(number or 0), **plan}
        return nncompile.load(self.file(name, precision), device=self.device, plan=fields)

    def module(self, name: str) -> torch.nn.Module:
        """A network with the weights that were compiled, on the CPU, in evaluation mode.

        Raises:
            NotRunError: A package that it needs is missing.
        """
        module = _built(name)
        weights = self.folder / f"{name}.pt"
        if weights.exists():
            module.load_state_dict(torch.load(weights, weights_only=True))
        return module

    def inputs(self, name: str, batch: int, seed: int = 0) -> np.ndarray:
        """Standard normal images or vectors, float32."""
        shape = (batch, *NETWORKS[name].input_shape)
        return np.random.default_rng((_SEED, seed)).standard_normal(shape, dtype=np.float32)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """The same on the device."""
        return torch.from_numpy(array).to(self.device)


def arrays(predictor: Predictor, result: Any) -> list[np.ndarray]:
    """What `predict` returned, copied to arrays on the host, in the order of the outputs."""
    flat = predictor.flatten_result(result)
    return [np.array(as_array(y.cpu()) if isinstance(y, torch.Tensor) else y) for y in flat]


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What nncompile warns of meanwhile, in any thread."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("nncompile")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def _built(name: str) -> torch.nn.Module:
    """A network of random weights of one seed, its batch norms with statistics as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        try:
            module = NETWORKS[name].build().eval()
        except ImportError as error:
            raise NotRunError(str(error)) from error
        for part in module.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return module
