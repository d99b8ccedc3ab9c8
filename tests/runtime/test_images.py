"""Image files as model inputs."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nncompile import ImagePreprocessing, InputError, NncompileError
from nncompile_runtime.images import load_images, preprocessing_for

from .graphs import spec

GREY = ImagePreprocessing(size=(4, 6), mode="L")
RGB = ImagePreprocessing(size=(4, 6))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def save(folder: Path, content: np.ndarray | Image.Image, name: str = "image.png", **options: object) -> Path:
    image = content if isinstance(content, Image.Image) else Image.fromarray(content)
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_a_lossless_image_keeps_every_pixel(suffix: str, tmp_path: Path) -> None:
    content = pixels(4, 6, 3)
    options = {"lossless": True} if suffix == "webp" else {}
    batch = load_images([save(tmp_path, content, f"a.{suffix}", **options)], RGB)
    assert (batch.shape, batch.dtype) == ((1, 3, 4, 6), np.float32)
    np.testing.assert_allclose(batch[0] * 255, content.transpose(2, 0, 1), atol=1e-4)


def test_a_grey_image_as_grey_and_as_rgb(tmp_path: Path) -> None:
    content = pixels(4, 6)
    path = save(tmp_path, content)
    np.testing.assert_allclose(load_images([path], GREY)[0, 0] * 255, content, atol=1e-4)
    np.testing.assert_allclose(load_images([path], RGB)[0] * 255, np.stack([content] * 3), atol=1e-4)


def test_a_colour_image_as_grey_is_its_luma(tmp_path: Path) -> None:
    content = pixels(4, 6, 3)
    luma = content @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(load_images([save(tmp_path, content)], GREY)[0, 0] * 255, luma, atol=1)


def test_mean_and_std_are_per_channel_on_the_unit_scale(tmp_path: Path) -> None:
    how = RGB.model_copy(update={"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0)})
    content = pixels(4, 6, 3)
    expected = (content / 255 - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    batch = load_images([save(tmp_path, content)], how)
    np.testing.assert_allclose(batch[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_one_mean_and_std_for_all_channels(tmp_path: Path) -> None:
    how = RGB.model_copy(update={"mean": (0.5,), "std": (0.25,)})
    content = pixels(4, 6, 3)
    expected = (content / 255 - 0.5) / 0.25
    batch = load_images([save(tmp_path, content)], how)
    np.testing.assert_allclose(batch[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_an_image_of_another_size_is_resized_height_first(tmp_path: Path) -> None:
    content = np.zeros((8, 24), np.uint8)
    content[:, 12:] = 255  # dark on the left, bright on the right
    batch = load_images([save(tmp_path, content)], GREY)
    assert batch.shape == (1, 1, 4, 6)
    assert (batch[0, 0, :, 0] == 0).all()
    assert (batch[0, 0, :, -1] == 1).all()


def test_an_image_that_lies_on_its_side_is_resized_too(tmp_path: Path) -> None:
    content = np.zeros((6, 4), np.uint8)
    content[:, 2:] = 255
    batch = load_images([save(tmp_path, content)], GREY)
    assert batch.shape == (1, 1, 4, 6)
    assert (batch[0, 0, :, 0] == 0).all()
    assert (batch[0, 0, :, -1] == 1).all()


def test_images_keep_their_order(tmp_path: Path) -> None:
    paths = [save(tmp_path, np.full((4, 6), value, np.uint8), f"{value}.png") for value in (30, 10, 20)]
    np.testing.assert_allclose(load_images(paths, GREY)[:, 0, 0, 0] * 255, [30, 10, 20], atol=1e-4)
    assert load_images([], GREY).shape == (0, 1, 4, 6)


def test_palette_and_alpha_images(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 4), np.uint8)
    red[..., 0], red[..., 3] = 200, 128
    palette = Image.fromarray(red[..., :3]).quantize(4)
    for path in (
        save(tmp_path, red, "alpha.png"),
        save(tmp_path, palette, "palette.png"),
        save(tmp_path, palette, "transparent.png", transparency=0),
        save(tmp_path, palette, "palette.gif"),
    ):
        np.testing.assert_allclose(load_images([path], RGB)[0, :, 0, 0] * 255, [200, 0, 0], atol=1e-4)
    grey = np.full((4, 6, 2), 70, np.uint8)
    path = save(tmp_path, Image.fromarray(grey, "LA"), "grey-alpha.png")
    np.testing.assert_allclose(load_images([path], GREY) * 255, 70, atol=1e-4)


def test_a_black_and_white_image(tmp_path: Path) -> None:
    content = pixels(4, 6) > 127
    np.testing.assert_array_equal(load_images([save(tmp_path, content)], GREY)[0, 0], content)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_deep_image_is_scaled_not_clipped(mode: str, tmp_path: Path) -> None:
    """Pillow's own conversion of 16 bits to 8 makes everything above 255 white."""
    content = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    how = GREY if mode == "L" else RGB
    batch = load_images([save(tmp_path, content)], how)
    np.testing.assert_allclose(batch[0, 0], content / 65535, atol=1 / 255)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "ppm"])
def test_a_broken_file_is_an_input_error(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path, pixels(16, 16, 3), f"a.{suffix}")
    data, rng, refusals = path.read_bytes(), random.Random(0), []
    damaged = [data[: len(data) * i // 20] for i in range(20)]
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(3):
            changed[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        try:
            load_images([path], RGB)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) >= 10
    assert all(str(path) in refusal for refusal in refusals)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    for path in (tmp_path / "text.png", tmp_path / "missing.png", tmp_path, "a\0b.png"):
        with pytest.raises(InputError, match="cannot be read as an image") as caught:
            load_images([path], RGB)
        found = path == tmp_path / "text.png" or isinstance(path, str)
        assert caught.value.remedy == ("Check the file." if found else "Check the path and its permissions.")


def test_a_decompression_bomb_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, pixels(40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="decompression bomb"):
        load_images([path], GREY)


def test_a_header_that_claims_a_huge_image(tmp_path: Path) -> None:
    path = save(tmp_path, pixels(4, 6))
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    with pytest.raises(InputError):
        load_images([path], GREY)


def test_missing_pillow_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, pixels(4, 6))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NncompileError, match="Pillow") as caught:
        load_images([path], GREY)
    assert "pip install 'nncompile[images]'" in caught.value.remedy


def test_what_an_input_implies() -> None:
    assert preprocessing_for(spec("x", "batch", 1, 28, 30)) == ImagePreprocessing(size=(28, 30), mode="L")
    assert preprocessing_for(spec("x", "batch", 3, 8, 8)) == ImagePreprocessing(size=(8, 8), mode="RGB")


@pytest.mark.parametrize(
    "port",
    [
        spec("x", "batch", 10),
        spec("x", "batch", 2, 8, 8),
        spec("x", "batch", 3, "h", "w"),
        spec("x", "batch", "c", 8, 8),
        spec("x", "batch", 8, 8, 3),
        spec("x", 3, 8, 8),
        spec("x", "batch", 3, 8, 8, dtype="int64"),
        spec("x", "batch", 3, 8, 8, dtype="uint8"),
    ],
    ids=str,
)
def test_an_input_that_implies_nothing(port: object) -> None:
    with pytest.raises(InputError, match="'x'") as caught:
        preprocessing_for(port)  # type: ignore[arg-type]
    assert "--mean" in caught.value.remedy
