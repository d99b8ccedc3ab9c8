"""Turning the arguments of `predict` into ONNX Runtime's feed: one clear error, or no change of value."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nncompile_runtime.errors import InputError
from nncompile_runtime.manifest import Signature, TensorSpec
from nncompile_runtime.structure import StructureMismatchError, TensorLeaf, flatten

Array = npt.NDArray[Any]

# Integers that a floating-point significand holds exactly, by significand size (IEEE 754).
_EXACT_INTEGER_BYTES = {"float16": 1, "float32": 2, "float64": 4}


def holds_every_value(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Whether each value of dtype `source` has an equal in `target`.

    Stricter than `numpy.can_cast(..., "safe")`, which lets int64 become float64.
    """
    if source.name == "bfloat16":  # of the package ml_dtypes
        return target.name in ("float32", "float64")
    if source.kind in "iu" and target.kind == "f":
        return source.itemsize <= _EXACT_INTEGER_BYTES[target.name]
    return source.kind in "biuf" and np.can_cast(source, target, "safe")


class TensorCheck:
    """Checks one graph input against its specification and makes it ready for ONNX Runtime."""

    def __init__(self, spec: TensorSpec) -> None:
        """Prepare for `spec`."""
        self.spec = spec
        self.dtype = spec.array_dtype
        self.rank = len(spec.shape)
        self.fixed = tuple((i, size) for i, size in enumerate(spec.shape) if isinstance(size, int))

    def __call__(self, value: Any, symbols: dict[str, tuple[int, str]]) -> Array:
        """The array to feed.

        Args:
            value: What the caller gave.
            symbols: Sizes that the symbolic dimensions took so far, with the input that set them.

        Raises:
            InputError: It is no array, or has another dtype, rank or shape.
        """
        array = self._as_array(value)
        if array.dtype != self.dtype or not array.dtype.isnative:
            array = self._cast(array)
        shape = array.shape
        if len(shape) != self.rank or any(shape[i] != size for i, size in self.fixed):
            raise InputError(
                f"Input {self.spec.name!r} expects {self.spec}, got shape {list(shape)}.",
                remedy=self._shape_hint(shape),
            )
        for symbol, size in zip(self.spec.shape, shape, strict=True):
            if isinstance(symbol, str) and symbols.setdefault(symbol, (size, self.spec.name))[0] != size:
                known, owner = symbols[symbol]
                raise InputError(
                    f"Input {self.spec.name!r} has {symbol} = {size}, but {owner!r} has {known}.",
                    remedy=f"Give every input the same {symbol}.",
                )
        return array

    def _as_array(self, value: Any) -> Array:
        if type(value) is np.ndarray:
            return value
        if is_tensor(value):
            plain = value.detach()
            if plain.dtype is sys.modules["torch"].bfloat16 and self.dtype in (np.float32, np.float64):
                plain = plain.float()  # numpy has no bfloat16
            try:
                array: Array = plain.cpu().resolve_conj().resolve_neg().numpy()
            except (TypeError, RuntimeError):  # a dtype that numpy lacks; sparse, quantised or meta
                got = f"a torch tensor of {value.dtype}, layout {value.layout}, device {value.device}"
                raise self._refused(got, self._cast_hint(value)) from None
            if array.dtype != self.dtype and not holds_every_value(array.dtype, self.dtype):
                raise self._refused(f"a torch tensor of {value.dtype}", self._cast_hint(value))
            return array
        if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
            return np.asarray(value)
        hint = f"Pass numpy.asarray(value, dtype=numpy.{self.dtype}) or a torch tensor."
        if isinstance(value, (list, tuple)):
            got = f"{'an empty' if not value else 'a'} {type(value).__name__}"
            raise self._refused(got, hint)
        raise self._refused("None" if value is None else f"an object of type {type(value).__name__}", hint)

    def _cast(self, array: Array) -> Array:
        """Cast where no value can change; byte order is a matter of storage, so it is always mended."""
        if not holds_every_value(array.dtype.newbyteorder("="), self.dtype):
            raise self._refused(f"dtype {array.dtype}", self._cast_hint())
        return array.astype(self.dtype)

    def _refused(self, got: str, remedy: str) -> InputError:
        return InputError(f"Input {self.spec.name!r} expects {self.spec}, got {got}.", remedy=remedy)

    def _cast_hint(self, tensor: Any = None) -> str:
        if tensor is not None:
            return f"Convert it first, for example x.to(torch.{self.spec.dtype})."
        return f"Convert it first, for example x.astype(numpy.{self.dtype})."

    def _shape_hint(self, shape: tuple[int, ...]) -> str:
        if len(shape) == self.rank - 1 and isinstance(self.spec.shape[0], str):
            return "Add the batch dimension: x[None]."
        return "Reshape or resize the input to that shape; named dimensions take any size."


class InputBinder:
    """Binds the arguments of a call to the graph's inputs, as Python binds them to `forward`."""

    def __init__(self, signature: Signature) -> None:
        """Prepare for `signature`."""
        self._arguments = signature.arguments
        self._positional = [a.name for a in signature.arguments if not a.keyword_only]
        self._by_name = {a.name: a for a in signature.arguments}
        self.checks = tuple(TensorCheck(spec) for spec in signature.inputs)

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Array], Any]:
        """The feed by graph input name, and a torch tensor among the inputs (None without one).

        Raises:
            InputError: An argument is missing, unknown, given twice, or does not fit.
        """
        values = self._bind(args, kwargs)
        flat: list[Any] = [None] * len(self.checks)
        for argument in self._arguments:
            try:
                flatten(argument.structure, values[argument.name], flat, argument.name)
            except StructureMismatchError as error:
                raise InputError(
                    f"Input {error.path!r} expects {error.expected}, got {error.got}.",
                    remedy="Nest the inputs as in the example the model was compiled with.",
                ) from None
        symbols: dict[str, tuple[int, str]] = {}
        feed = {c.spec.name: c(value, symbols) for c, value in zip(self.checks, flat, strict=True)}
        return feed, next((value for value in flat if is_tensor(value)), None)

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        expected = ", ".join(self._describe(name) for name in self._by_name) or "no inputs"
        if len(args) == 1 and not kwargs and isinstance(args[0], (Mapping, tuple)) and len(self._by_name) > 1:
            stars = "**inputs" if isinstance(args[0], Mapping) else "*inputs"
            raise InputError(
                f"The model takes {len(self._by_name)} inputs, got one {type(args[0]).__name__}.",
                remedy=f"Pass them one by one: predict({stars}). It expects: {expected}.",
            )
        if len(args) > len(self._positional):
            raise InputError(
                f"The model takes {len(self._positional)} positional inputs, got {len(args)}.",
                remedy=f"It expects: {expected}.",
            )
        values = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            if name not in self._by_name:
                raise InputError(f"The model has no input {name!r}.", remedy=f"It expects: {expected}.")
            if name in values:
                raise InputError(f"Input {name!r} is given twice.", remedy="Give it by position or by name.")
            values[name] = value
        missing = [a for a in self._arguments if a.name not in values]
        if missing:
            names = ", ".join(repr(a.name) for a in missing)
            raise InputError(f"Missing input {names}.", remedy=f"The model expects: {expected}.")
        return values

    def _describe(self, name: str) -> str:
        structure = self._by_name[name].structure
        if isinstance(structure, TensorLeaf):
            return f"{name}: {self.checks[structure.index].spec}"
        return f"{name} (a {structure.kind})"


def is_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
