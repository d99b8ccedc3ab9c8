"""Image files as model inputs, through Pillow (the extra `images`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from nncompile_runtime.errors import InputError, NncompileError
from nncompile_runtime.inputs import Array
from nncompile_runtime.manifest import ImagePreprocessing, TensorSpec

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})


def preprocessing_for(spec: TensorSpec) -> ImagePreprocessing:
    """What an input of shape (batch, channels, height, width) implies: 1 channel is grey, 3 are RGB.

    Raises:
        InputError: The input is no float image batch of static size.
    """
    shape = spec.shape
    if (
        spec.dtype.startswith("float")
        and len(shape) == 4
        and isinstance(shape[2], int)
        and isinstance(shape[3], int)
        and shape[1] in (1, 3)
    ):
        return ImagePreprocessing(size=(shape[2], shape[3]), mode="L" if shape[1] == 1 else "RGB")
    raise InputError(
        f"Input {spec.name!r} is {spec}: it is not clear how an image becomes that.",
        remedy="Give .npy files, or export with --image-size, --mean and --std.",
    )


def load_images(paths: Sequence[str | os.PathLike[str]], how: ImagePreprocessing) -> Array:
    """Read images into one float32 array of shape (images, channels, height, width).

    Raises:
        InputError: A file is missing or no image that Pillow can read.
        NncompileError: Pillow is not installed.
    """
    channels = 1 if how.mode == "L" else 3
    batch = np.empty((len(paths), channels, *how.size), np.float32)
    for i, path in enumerate(paths):
        pixels = _read(path, how).reshape(*how.size, channels)
        batch[i] = pixels.transpose(2, 0, 1)
    batch /= 255.0
    batch -= np.asarray(how.mean, np.float32).reshape(-1, 1, 1)
    batch /= np.asarray(how.std, np.float32).reshape(-1, 1, 1)
    return batch


def _read(path: str | os.PathLike[str], how: ImagePreprocessing) -> Array:
    try:
        from PIL import Image
    except ImportError:
        raise NncompileError(
            "Reading images needs Pillow, which is not installed.",
            remedy="Run: pip install 'nncompile[images]'.",
        ) from None
    height, width = how.size
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I;16"):  # Pillow's own conversion clips to 8 bits
                scaled = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            else:
                scaled = image
            converted = scaled.convert(how.mode)
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(converted)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        system = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{os.fspath(path)} cannot be read as an image: {system or error}.",
            remedy="Check the path and its permissions." if system else "Check the file.",
        ) from None
