"""Turning the arguments of `predict` into ONNX Runtime's feed: one clear error, or no change of value."""

from __future__ import annotations

import inspect
import keyword
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nncompile_runtime import device_arrays, torch_arrays
from nncompile_runtime.errors import InputError
from nncompile_runtime.manifest import Argument, FreeSize, Signature, TensorSpec
from nncompile_runtime.structure import ConstantLeaf, StructureMismatchError, TensorLeaf, flatten
from nncompile_runtime.torch_arrays import is_tensor

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

    def __init__(
        self, spec: TensorSpec, device: str = "cpu", sizes: Mapping[str, FreeSize] | None = None
    ) -> None:
        """Prepare for `spec` of a model on `device`: `cpu`, `cuda:0` and so on.

        Args:
            spec: What it expects.
            device: Where the model runs.
            sizes: What the symbols of its shape may be; any size where they are not named.
        """
        self.spec, self.device = spec, device
        self.sizes = sizes or {}
        self.dtype = spec.array_dtype
        self.rank = len(spec.shape)
        self.fixed = tuple((i, size) for i, size in enumerate(spec.shape) if isinstance(size, int))

    def __call__(self, value: Any, symbols: dict[str, tuple[int, str]]) -> Array:
        """The array to feed; a tensor or a CuPy array that is on the model's GPU stays one, and there.

        Args:
            value: What the caller gave.
            symbols: Sizes that the symbolic dimensions took so far, with the input that set them.

        Raises:
            InputError: It is no array, has another dtype, rank or shape, or is on another device.
        """
        array: Array
        library = device_arrays.library_of(value)
        if library is not None:
            array = self._on_gpu(value, library)
        else:
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
            if not isinstance(symbol, str):
                continue
            allowed = self.sizes.get(symbol)
            if allowed is not None and size not in allowed:
                raise InputError(
                    f"Input {self.spec.name!r} is {self.spec}, and {symbol} = {size}: the model was compiled "
                    f"for {allowed}.",
                    remedy="Pad or cut the input to such a size.",
                )
            if symbols.setdefault(symbol, (size, self.spec.name))[0] != size:
                known, owner = symbols[symbol]
                raise InputError(
                    f"Input {self.spec.name!r} has {symbol} = {size}, but {owner!r} has {known}.",
                    remedy=f"Give every input the same {symbol}.",
                )
        return array

    def _on_gpu(self, value: Any, library: device_arrays.Library) -> Any:
        device = library.device(value)
        if device != self.device:
            raise InputError(
                f"Input {self.spec.name!r} is on {device}, and the model runs on {self.device}.",
                remedy=f"Move it first, {library.moving(self.device)}, "
                f"or load the model with device='{device}'.",
            )
        plain = library.plain(value, self.dtype)
        source = None if plain is None else library.numpy_dtype(plain)
        if source != self.dtype:
            if source is None or not holds_every_value(source, self.dtype):
                raise self._refused(library.described(value), self._cast_hint(library))
            plain = library.cast(plain, self.dtype)
        return library.contiguous(plain)

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
                raise self._refused(torch_arrays.described(value), self._host_hint(value)) from None
            if array.dtype != self.dtype and not holds_every_value(array.dtype, self.dtype):
                raise self._refused(f"a torch tensor of {value.dtype}", self._cast_hint(torch_arrays))
            return array
        code = None if isinstance(value, np.ndarray) else device_arrays.to_take_over(value)
        if code is not None:
            got = f"a {type(value).__module__}.{type(value).__name__} that is not on the host"
            raise self._refused(got, f"Make it a tensor or a CuPy array without a copy: {code}.")
        if np.ma.is_masked(value):
            raise self._refused("a masked array with masked values", "Fill them first: x.filled(0), say.")
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

    def _cast_hint(self, library: device_arrays.Library | None = None) -> str:
        code = f"x.astype(numpy.{self.dtype})" if library is None else library.casting(self.spec.dtype)
        return f"Convert it first, for example {code}."

    def _host_hint(self, tensor: Any) -> str:
        """What makes an array of a tensor that numpy refuses."""
        if tensor.is_meta:
            return "Give a tensor that holds values."
        if tensor.layout is not sys.modules["torch"].strided:
            return "Make it dense first: x.to_dense()."
        return self._cast_hint(torch_arrays)

    def _shape_hint(self, shape: tuple[int, ...]) -> str:
        if len(shape) == self.rank - 1 and isinstance(self.spec.shape[0], str):
            return "Add the batch dimension: x[None]."
        move = _misplaced_channels(shape, self.spec.shape)
        if move is not None:
            source, target = move
            return (
                f"Its axes are in another order, it seems: moveaxis(x, {source}, {target}) of numpy or torch "
                "mends that; reshape would mix the values up."
            )
        return "Reshape or resize the input to that shape; named dimensions take any size."


def _misplaced_channels(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> tuple[int, int] | None:
    """Which axis belongs where, if moving the channels from last to first or back makes the shape fit."""
    if len(shape) != len(wanted) or len(shape) < 3:
        return None
    batch, first, *inner, last = shape
    for moved, move in (((batch, last, first, *inner), (-1, 1)), ((batch, *inner, last, first), (1, -1))):
        if all(isinstance(size, str) or size == has for size, has in zip(wanted, moved, strict=True)):
            return move
    return None


class InputBinder:
    """Binds the arguments of a call to the graph's inputs, as Python binds them to `forward`."""

    def __init__(self, signature: Signature, device: str = "cpu") -> None:
        """Prepare for `signature` of a model on `device`: `cpu`, `cuda:0` and so on."""
        self.device = device
        self._arguments = signature.arguments
        self._positional = [a.name for a in signature.arguments if not a.keyword_only]
        self._by_name = {a.name: a for a in signature.arguments}
        self.checks = tuple(TensorCheck(spec, device, signature.sizes) for spec in signature.inputs)

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
                    remedy="Nest the inputs as in the example that the model was compiled with, and pass the "
                    "constants of that; compile again for others.",
                ) from None
        symbols: dict[str, tuple[int, str]] = {}
        feed = {c.spec.name: c(value, symbols) for c, value in zip(self.checks, flat, strict=True)}
        _refuse_two_places(feed)
        return feed, next((value for value in flat if is_tensor(value)), None)

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) == 1 and not kwargs and isinstance(args[0], (Mapping, tuple)) and len(self._by_name) > 1:
            stars = "**inputs" if isinstance(args[0], Mapping) else "*inputs"
            raise InputError(
                f"The model takes {len(self._by_name)} inputs, got one {type(args[0]).__name__}.",
                remedy=f"Pass them one by one: predict({stars}). It expects: {self._expected()}.",
            )
        if len(args) > len(self._positional):
            takes = len(self._positional)
            raise InputError(
                f"The model takes {takes} positional input{'s' if takes != 1 else ''}, got {len(args)}.",
                remedy=f"It expects: {self._expected()}.",
            )
        values = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            if name not in self._by_name:
                raise InputError(
                    f"The model has no input {name!r}.", remedy=f"It expects: {self._expected()}."
                )
            if name in values:
                raise InputError(f"Input {name!r} is given twice.", remedy="Give it by position or by name.")
            values[name] = value
        missing = [a for a in self._arguments if a.name not in values]
        if missing:
            names = ", ".join(repr(a.name) for a in missing)
            raise InputError(f"Missing input {names}.", remedy=f"The model expects: {self._expected()}.")
        return values

    def _expected(self) -> str:
        return ", ".join(self._describe(name) for name in self._by_name) or "no inputs"

    def _describe(self, name: str) -> str:
        structure = self._by_name[name].structure
        if isinstance(structure, TensorLeaf):
            return f"{name}: {self.checks[structure.index].spec}"
        if isinstance(structure, ConstantLeaf):
            return f"{name}: the constant {structure.value!r}"
        return f"{name} (a {structure.kind})"


def python_signature(arguments: Sequence[Argument]) -> inspect.Signature:
    """How the model is called, as `inspect.signature` tells it; Spark counts a predict function's inputs so.

    Where an ONNX file names an input otherwise than Python can, all inputs are positional and numbered.
    """
    names = [argument.name for argument in arguments]
    if not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        numbered = (f"input_{i}" for i in range(len(names)))
        return inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in numbered])
    plain, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    ordered = sorted(arguments, key=lambda argument: argument.keyword_only)
    return inspect.Signature([inspect.Parameter(a.name, named if a.keyword_only else plain) for a in ordered])


def _refuse_two_places(feed: Mapping[str, Any]) -> None:
    """What is on the host would have to be copied to the GPU unasked, or the other way round."""
    if len(feed) < 2:
        return
    libraries = {name: device_arrays.library_of(value) for name, value in feed.items()}
    first, its = next(iter(libraries.items()))
    other = next((name for name, library in libraries.items() if library is not its), None)
    if other is None:
        return
    others = libraries[other]
    if its is None or others is None:
        here, gone = (first, other) if its is None else (other, first)
        raise InputError(
            f"Input {here!r} is on the host, and {gone!r} on the GPU.",
            remedy="Give all inputs on the GPU, or all on the host.",
        )
    raise InputError(
        f"Input {first!r} is {its.described(feed[first])}, and {other!r} {others.described(feed[other])}: "
        "each library computes on streams of its own.",
        remedy="Give all of one: torch.from_dlpack(x) and cupy.from_dlpack(x) convert without a copy.",
    )
