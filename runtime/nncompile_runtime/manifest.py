"""What an artifact says about itself: signature, verification, preprocessing, plans.

A manifest comes from a file and is untrusted: unknown keys are refused and every number is bounded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from nncompile_runtime.errors import ModelLoadError
from nncompile_runtime.structure import Name, Structure, leaves

MAX_MANIFEST_BYTES = 16 * 2**20
MAX_MACHINES = 256

DType = Literal[
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
]  # fmt: skip
Target = Literal["portable", "cpu", "cuda"]
Precision = Literal["float32", "float16", "bfloat16", "tf32"]
Dimension = Union[Annotated[int, Field(ge=0, le=2**40)], Name]
Count = Annotated[int, Field(ge=0, le=10**12)]
Error = Annotated[float, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=4096)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class TensorSpec(_Part):
    """One graph input or output: name, dtype, and a size or a symbol for every dimension.

    A bfloat16 value is float32 in the graph and in numpy, which has no bfloat16.
    """

    name: Name
    dtype: DType
    shape: Annotated[tuple[Dimension, ...], Field(max_length=32)]

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """The dtype of the numpy array that holds it."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    def __str__(self) -> str:
        """For example `float32[batch, 1, 32, 32]`."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


class FreeSize(_Part):
    """Which sizes a free dimension other than the batch takes: `least`, `least + step` and so on.

    Attributes:
        least: The smallest.
        step: From one to the next; 1 where each size from the smallest on is right.
        most: The largest; None where no bound is known.
        typical: That of the example.
    """

    least: Annotated[int, Field(ge=1, le=2**40)]
    step: Annotated[int, Field(ge=1, le=2**40)] = 1
    most: Annotated[int, Field(ge=1, le=2**40)] | None = None
    typical: Annotated[int, Field(ge=1, le=2**40)]

    @model_validator(mode="after")
    def _holds_the_typical_size(self) -> FreeSize:
        if self.typical not in self:
            raise ValueError(f"the typical size {self.typical} is not {self}")
        return self

    def __contains__(self, size: int) -> bool:
        """Whether a dimension may have this size."""
        above = size - self.least
        return above >= 0 and above % self.step == 0 and (self.most is None or size <= self.most)

    def __str__(self) -> str:
        """For example `8, 16, 24 and so on, at most 512`, or `at least 2`."""
        least, step = self.least, self.step
        if step == 1:
            return f"at least {least}" if self.most is None else f"{least} to {self.most}"
        row = f"{least}, {least + step}, {least + 2 * step} and so on"
        return row if self.most is None else f"{row}, at most {self.most}"


class Argument(_Part):
    """One argument of `forward`."""

    name: Name
    structure: Structure
    keyword_only: bool = False


class Signature(_Part):
    """How `forward` is called and what it returns.

    Attributes:
        arguments: In the order of `forward`.
        inputs: The graph's inputs, flat; the leaves of `arguments` point into it.
        outputs: The graph's outputs, flat; the leaves of `result` point into it.
        result: The nesting of what `forward` returns.
        batch: The symbol that stands for the batch in the shapes; None where the batch is fixed.
        sizes: The sizes that other symbols may take; those that are not named take any.
    """

    arguments: Annotated[tuple[Argument, ...], Field(max_length=1024)]
    inputs: Annotated[tuple[TensorSpec, ...], Field(max_length=4096)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=4096)]
    result: Structure
    batch: Name | None
    sizes: Annotated[dict[Name, FreeSize], Field(max_length=64)] = {}

    @model_validator(mode="after")
    def _leaves_cover_the_tensors(self) -> Signature:
        given = [leaf.index for argument in self.arguments for _, leaf in leaves(argument.structure)]
        returned = [leaf.index for _, leaf in leaves(self.result)]
        if sorted(given) != list(range(len(self.inputs))):
            raise ValueError("the arguments do not cover the graph inputs one to one")
        if len({argument.name for argument in self.arguments}) != len(self.arguments):
            raise ValueError("two arguments have the same name")
        if sorted(returned) != list(range(len(self.outputs))):
            raise ValueError("the result does not cover the graph outputs one to one")
        return self


class PassRecord(_Part):
    """How often a pass changed the graph."""

    name: Name
    changes: Count


class OutputRecord(_Part):
    """The largest differences of one output over all verification inputs.

    Attributes:
        name: The graph output.
        max_abs: Largest absolute difference to the reference.
        max_rel: Largest difference relative to the largest reference value of its test case.
        eager_max_abs: The same difference for eager PyTorch in the module's own dtype.
        top1_agreement: Share of rows whose largest entry is eager's too, or the reference's where the module
            was cast to a narrower precision; None where meaningless.
    """

    name: Name
    max_abs: Error
    max_rel: Error
    eager_max_abs: Error
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None


class Verification(_Part):
    """What the artifact was compared with, how, and how close it came.

    Attributes:
        status: `skipped` where the user asked for no verification.
        reference: Dtype of the eager reference.
        batches: Batch sizes that were compared; empty where the batch is fixed.
        sizes: Sizes of other free dimensions that were compared, by name.
        cases: How many inputs were compared.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        eager_multiple: How many times eager's own error was allowed instead.
        rows_independent: Whether a row's answer was found not to depend on the other rows.
        dropped_passes: Passes left out because they changed the answers.
        outputs: One record for each graph output.
    """

    status: Literal["verified", "skipped"]
    reference: Literal["float64", "float32", "float16", "none"] = "none"
    batches: Annotated[tuple[Count, ...], Field(max_length=64)] = ()
    sizes: Annotated[dict[Name, tuple[Count, ...]], Field(max_length=64)] = {}
    cases: Count = 0
    rtol: Error = 0.0
    atol: Error = 0.0
    eager_multiple: Error = 0.0
    rows_independent: bool = False
    dropped_passes: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    outputs: Annotated[tuple[OutputRecord, ...], Field(max_length=4096)] = ()


class ImagePreprocessing(_Part):
    """How an image file becomes a model input of shape (batch, channels, height, width).

    The image is converted to `mode`, resized to `size`, scaled to 0..1 and normalised:
    `(pixel / 255 - mean) / std`, channel by channel.

    Attributes:
        size: (height, width) in pixels.
        mode: Pillow's image mode: `L` for one channel, `RGB` for three.
        mean: One value per channel, on the 0..1 scale.
        std: One value per channel, on the 0..1 scale.
    """

    size: tuple[Annotated[int, Field(ge=1, le=65536)], Annotated[int, Field(ge=1, le=65536)]]
    mode: Literal["L", "RGB"] = "RGB"
    mean: Annotated[tuple[Finite, ...], Field(min_length=1, max_length=3)] = (0.0,)
    std: Annotated[tuple[Annotated[Finite, Field(gt=0)], ...], Field(min_length=1, max_length=3)] = (1.0,)

    @model_validator(mode="after")
    def _one_value_per_channel(self) -> ImagePreprocessing:
        channels = 1 if self.mode == "L" else 3
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise ValueError(f"mean and std need one value, or {channels} for mode {self.mode}")
        return self


class Manifest(_Part):
    """Everything the runtime knows about a model beyond the graph itself.

    Attributes:
        schema_version: Version of this schema.
        producer: Package name -> version that made the file.
        model_name: The module's class name.
        signature: Inputs and outputs.
        target: What the graph may contain: standard operators only, or one provider's.
        precision: How it computes: float32 as the module does, or what was asked for instead.
        exact: Whether the native kernels are to do without Winograd's algorithm.
        passes: What each pass did.
        verification: What was verified.
        preprocessing: For image files; None where not given.
        labels: Class names by index; None where not given.
        plans: Machine fingerprint -> smallest batch -> execution plan, checked when it is used.
    """

    schema_version: Literal[1] = 1
    producer: Annotated[dict[Name, Text], Field(max_length=64)]
    model_name: Name
    signature: Signature
    target: Target = "portable"
    precision: Precision = "float32"
    exact: bool = False
    passes: Annotated[tuple[PassRecord, ...], Field(max_length=256)] = ()
    verification: Verification
    preprocessing: ImagePreprocessing | None = None
    labels: Annotated[tuple[Text, ...], Field(max_length=10**6)] | None = None
    plans: Annotated[dict[Name, dict[str, Any]], Field(max_length=MAX_MACHINES)] = {}


def parse(text: bytes, where: str) -> Manifest:
    """Read a manifest from JSON.

    Args:
        text: UTF-8 JSON.
        where: The file, for the error message.

    Raises:
        ModelLoadError: Too large, not JSON, unknown keys, values out of bounds, or a newer schema.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        raise ModelLoadError(
            f"The manifest of {where} is {len(text)} bytes; at most {MAX_MANIFEST_BYTES} are read.",
            remedy="Export the model again.",
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise ModelLoadError(
            f"The manifest of {where} is not valid at {place}: {first['msg']}.",
            remedy="Load it with the nncompile version that wrote it, or export the model again.",
        ) from None
