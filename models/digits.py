"""scikit-learn's handwritten digits, as inputs for the digit classifiers of seeds 000, 001, 003 and 004.

The 1,797 images come with the scikit-learn package, 8x8 with grey levels 0 to 16, so nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

MEAN = 0.3053
"""Mean of every pixel of `load_digits_uint8()` divided by 255, to four digits."""
STD = 0.3759
"""Standard deviation of the same numbers, to four digits."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The digits in two disjoint parts.

    Attributes:
        train_images: Training images, shape (N, 8, 8).
        train_labels: Their labels, shape (N,).
        held_out_images: Images that no training sees, shape (M, 8, 8).
        held_out_labels: Their labels, shape (M,).
        train_indices: Positions of the training images in `load_digits_uint8()`, shape (N,).
        held_out_indices: Positions of the held-out images, shape (M,).
    """

    train_images: Images
    train_labels: Labels
    held_out_images: Images
    held_out_labels: Labels
    train_indices: NDArray[np.int64]
    held_out_indices: NDArray[np.int64]


def load_digits_uint8() -> tuple[Images, Labels]:
    """Load all digits, grey levels 0 to 16 stretched to 0 to 255 and rounded.

    Returns:
        Images, shape (1797, 8, 8), and labels 0 to 9, shape (1797,).
    """
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images, digits.target.astype(np.int64)


def split(seed: int = 0, held_out: float = 0.2) -> Split:
    """Hold out a share of the digits, each class in the same proportion.

    Args:
        seed: The same seed gives the same split.
        held_out: Share of the images to hold out, above 0 and below 1.
    """
    images, labels = load_digits_uint8()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=held_out, random_state=seed, stratify=labels
    )
    return Split(images[train], labels[train], images[test], labels[test], train, test)


def resize(images: Images, size: int) -> Images:
    """Resize square images with Pillow's bilinear filter.

    The result is rounded to uint8, so that a PNG written from it holds the same numbers.

    Args:
        images: Grey images, shape (N, H, W).
        size: Height and width of the result, in pixels.

    Returns:
        Grey images, shape (N, size, size).
    """
    resized = np.empty((len(images), size, size), np.uint8)
    for index, image in enumerate(images):
        resized[index] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return resized


def to_input(images: Images, channels: int = 1) -> NDArray[np.float32]:
    """Turn grey images into network inputs, `(x / 255 - MEAN) / STD`.

    Args:
        images: Grey images, shape (N, H, W).
        channels: How often the grey channel is repeated; 3 for a network on colour images.

    Returns:
        Inputs, shape (N, channels, H, W).
    """
    normalised = (images.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
    return np.repeat(normalised[:, np.newaxis], channels, axis=1)


def write_pngs(images: Images, labels: Labels, folder: str | Path) -> list[Path]:
    """Write grey images as PNG files named by position and label, such as `0007_label3.png`.

    Args:
        images: Grey images, shape (N, H, W).
        labels: Their labels, shape (N,).
        folder: Where to write; created if missing.

    Returns:
        The files, in the order of the images.

    Raises:
        ValueError: There are not as many labels as images.
        OSError: The folder or a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / f"{index:04d}_label{label}.png"
        Image.fromarray(image).save(path)
        paths.append(path)
    return paths
