"""scikit-learn's digits: known values, the split, resizing, inputs and PNG files."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from models import digits

FIRST_IMAGE = [
    [0, 0, 80, 207, 143, 16, 0, 0],
    [0, 0, 207, 239, 159, 239, 80, 0],
    [0, 48, 239, 32, 0, 175, 128, 0],
    [0, 64, 191, 0, 0, 128, 128, 0],
    [0, 80, 128, 0, 0, 143, 128, 0],
    [0, 64, 175, 0, 16, 191, 112, 0],
    [0, 32, 223, 80, 159, 191, 0, 0],
    [0, 0, 96, 207, 159, 0, 0, 0],
]
PER_CLASS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_known_values():
    images, labels = digits.load_digits_uint8()
    assert (images.shape, images.dtype) == ((1797, 8, 8), np.uint8)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)
    assert images[0].tolist() == FIRST_IMAGE
    assert labels[:10].tolist() == list(range(10))
    assert np.bincount(labels).tolist() == PER_CLASS


def test_grey_levels_can_be_told_apart():
    images, _ = digits.load_digits_uint8()
    assert len(np.unique(images)) == 17
    np.testing.assert_array_equal(np.rint(images / 255 * 16), load_digits().images)


def test_mean_and_standard_deviation():
    images, _ = digits.load_digits_uint8()
    assert round(float(images.mean() / 255), 4) == digits.MEAN
    assert round(float(images.std() / 255), 4) == digits.STD


def test_split_is_disjoint_and_covers_all_digits():
    images, labels = digits.load_digits_uint8()
    data = digits.split()
    assert len(data.train_labels) == len(data.train_images) == 1437
    assert len(data.held_out_labels) == len(data.held_out_images) == 360
    assert sorted([*data.train_indices, *data.held_out_indices]) == list(range(1797))
    np.testing.assert_array_equal(data.train_images, images[data.train_indices])
    np.testing.assert_array_equal(data.train_labels, labels[data.train_indices])
    np.testing.assert_array_equal(data.held_out_images, images[data.held_out_indices])
    np.testing.assert_array_equal(data.held_out_labels, labels[data.held_out_indices])


@pytest.mark.parametrize("held_out", [0.2, 0.5])
def test_split_is_stratified(held_out):
    counts = np.bincount(digits.split(held_out=held_out).held_out_labels)
    assert (abs(counts - np.array(PER_CLASS) * held_out) < 1).all()


def test_split_depends_on_the_seed_alone():
    first, again, other = digits.split(3), digits.split(3), digits.split(4)
    np.testing.assert_array_equal(first.held_out_indices, again.held_out_indices)
    np.testing.assert_array_equal(first.train_indices, again.train_indices)
    assert set(first.held_out_indices) != set(other.held_out_indices)


def test_resize_is_bilinear_and_rounded():
    ramp = np.array([[[0, 255], [0, 255]]], np.uint8)
    resized = digits.resize(ramp, 4)
    assert resized.dtype == np.uint8
    assert resized.tolist() == [[[0, 64, 191, 255]] * 4]


def test_resize_to_the_same_size_changes_nothing():
    images, _ = digits.load_digits_uint8()
    np.testing.assert_array_equal(digits.resize(images[:20], 8), images[:20])


@pytest.mark.parametrize("channels", [1, 3])
def test_to_input(channels):
    image = np.array([[[0, 255], [51, 204]]], np.uint8)
    x = digits.to_input(image, channels)
    assert (x.shape, x.dtype) == ((1, channels, 2, 2), np.float32)
    expected = [[(value - 0.3053) / 0.3759 for value in row] for row in ([0, 1], [0.2, 0.8])]
    np.testing.assert_allclose(x, [[expected] * channels], rtol=1e-6)


def test_inputs_are_standardised():
    x = digits.to_input(digits.load_digits_uint8()[0])
    assert x.mean() == pytest.approx(0, abs=1e-3)
    assert x.std() == pytest.approx(1, abs=1e-3)


def test_png_files_read_back_byte_for_byte(tmp_path):
    data = digits.split()
    images, labels = digits.resize(data.held_out_images[:12], 32), data.held_out_labels[:12]
    paths = digits.write_pngs(images, labels, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [f"{i:04d}_label{label}.png" for i, label in enumerate(labels)]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == paths
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as png:
            assert (png.format, png.mode) == ("PNG", "L")
            np.testing.assert_array_equal(np.asarray(png), image)


def test_png_names(tmp_path):
    paths = digits.write_pngs(np.zeros((8, 2, 2), np.uint8), np.array([0, 1, 2, 4, 5, 6, 7, 3]), tmp_path)
    assert paths[7] == tmp_path / "0007_label3.png"


def test_png_labels_must_match_the_images(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        digits.write_pngs(np.zeros((2, 2, 2), np.uint8), np.array([0]), tmp_path)
