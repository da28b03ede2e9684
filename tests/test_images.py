"""Pictures: what is refused, what is converted, and what is said about it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lulc_lib import images, tiles
from lulc_lib.images import ImageError, decode_tile, open_picture

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def jpeg(array=NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def huge_jpeg(width, height) -> bytes:
    """Return a small JPEG whose header claims another size."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def test_constants_agree_with_tiles():
    """This module stands above tiles.py and repeats two of its facts: they must be the same."""
    assert images.SIDE == tiles.TILE_SIZE
    assert images.SENTINEL_METRES == tiles.METRES_PER_PIXEL


def test_decode_tile_equals_pillow():
    """A tile comes back as Pillow decodes it, channels first."""
    data = jpeg()
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    tile = decode_tile(data, "a.jpg")
    assert tile.dtype == np.uint8
    assert np.array_equal(tile, expected)


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is empty"),
        (b"  <!DOCTYPE html><html>", "is a web page"),
        (b"\xef\xbb\xbf<html lang=en>", "is a web page"),
        (b"\x89PNG\r\n\x1a\n0000", "is not a JPEG"),
        (b"\xff\xd8\xff\xe0 and then nothing", "is a broken JPEG"),
        (jpeg()[:1000], "is a broken JPEG"),
        (jpeg(NOISE[:32]), "is 64x32 pixels"),
        (jpeg(NOISE[:, :, 0]), "has colour mode 'L'"),
        (huge_jpeg(65000, 65000), "far too large|65000x65000"),
        (huge_jpeg(10000, 10000), "far too large|10000x10000"),
    ],
)
def test_decode_tile_names_file_and_finding(data, finding):
    """Whatever is not a tile is refused, by the name of the file and what it is instead."""
    with pytest.raises(ImageError, match=f"^River/River_9.jpg .*({finding})"):
        decode_tile(data, "River/River_9.jpg")


def test_decode_tile_refuses_every_truncation():
    """A tile cut anywhere must not pass, not even when only the end mark is lost."""
    data = jpeg(quality=30)
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_tile(data[:length], "a.jpg")


def test_damaged_bytes_never_escape_as_another_error():
    """Flipped bytes give a tile or an ImageError, nothing else."""
    data, outcomes = jpeg(quality=30), set()
    for place in RANDOM.integers(0, 700, 300):
        damaged = bytearray(data)
        damaged[place] = RANDOM.integers(256)
        try:
            outcomes.add(decode_tile(bytes(damaged), "a.jpg").shape)
        except ImageError:
            outcomes.add("refused")
    assert outcomes == {(3, 64, 64), "refused"}


def test_open_picture_takes_a_tile_as_it_is(tmp_path):
    """A 64x64 picture is not touched, and a pixel is 10 m."""
    picture = open_picture(save(tmp_path / "a.png", NOISE))
    assert np.array_equal(picture.image, NOISE.transpose(2, 0, 1))
    assert picture.image.flags.c_contiguous
    assert (picture.size, picture.scale, picture.fitted) == ((64, 64), 1, "taken as it is")
    assert picture.ground.startswith("640 x 640 m on the ground, 10 m per pixel, assuming")


def test_crop_keeps_the_centre_and_the_resolution(tmp_path):
    """The default cuts the centre out, pixel by pixel."""
    big = RANDOM.integers(0, 256, (100, 164, 3), dtype=np.uint8)
    picture = open_picture(save(tmp_path / "a.png", big))
    assert np.array_equal(picture.image, big[18:82, 50:114].transpose(2, 0, 1))
    assert picture.scale == 1
    assert picture.fitted == "centre 64x64 pixels of 164x100 cut out"


def test_resize_takes_the_largest_square_and_says_so(tmp_path):
    """Shrinking changes the ground size of a pixel: the text must say to what."""
    big = np.full((128, 200, 3), 77, dtype=np.uint8)
    big[:, :36] = 0
    big[:, 164:] = 255
    picture = open_picture(save(tmp_path / "a.png", big), fit="resize")
    assert np.unique(picture.image).tolist() == [77]
    assert picture.scale == 2
    assert picture.fitted == "centre 128x128 pixels of 200x128 shrunk to 64x64"
    assert picture.ground.startswith("1,280 x 1,280 m on the ground, 20 m per pixel, assuming")
    assert picture.ground.endswith("the models learned from 10 m per pixel")


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_small_pictures_are_enlarged_and_that_is_said(tmp_path, fit):
    """A picture smaller than a tile is enlarged in both ways of fitting."""
    picture = open_picture(save(tmp_path / "a.png", NOISE[:32, :32]), fit=fit)
    assert picture.image.shape == (3, 64, 64)
    assert picture.fitted == "whole picture of 32x32 enlarged to 64x64"
    assert picture.ground.startswith("320 x 320 m on the ground, 5 m per pixel")


def test_exif_orientation_is_honoured(tmp_path):
    """A photograph stored lying down is set upright before it is cropped."""
    lying = np.zeros((64, 96, 3), dtype=np.uint8)
    lying[:, :48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = open_picture(save(tmp_path / "a.png", lying, exif=exif))
    assert picture.size == (64, 96)
    assert picture.image[:, :30].min() == 255
    assert picture.image[:, 34:].max() == 0


@pytest.mark.parametrize(
    ("mode", "note"),
    [("L", "grey"), ("1", "grey"), ("P", "converted from P"), ("CMYK", "converted from CMYK")],
)
def test_other_modes_become_rgb(tmp_path, mode, note):
    """Grey, palette and print colours are converted, and the text says so."""
    path = tmp_path / "a.tif"
    original = Image.fromarray(NOISE).convert(mode)
    original.save(path)
    picture = open_picture(path)
    expected = np.asarray(original.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(picture.image, expected)
    assert note in picture.fitted


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparency_is_laid_on_white(tmp_path, kind):
    """Transparent parts hold no colour of their own: they become white, which is said."""
    path = tmp_path / "a.png"
    if kind == "palette":
        Image.new("P", (64, 64), 0).save(path, transparency=0)
    else:
        Image.new(kind, (64, 64), 0).save(path)
    picture = open_picture(path)
    assert picture.image.min() == 255
    assert "transparent parts laid on white" in picture.fitted


def test_opaque_alpha_changes_nothing(tmp_path):
    """An alpha channel that hides nothing is dropped without a word."""
    opaque = np.dstack([NOISE, np.full((64, 64), 255, dtype=np.uint8)])
    picture = open_picture(save(tmp_path / "a.png", opaque))
    assert np.array_equal(picture.image, NOISE.transpose(2, 0, 1))
    assert picture.fitted == "taken as it is"


def test_sixteen_bit_png_is_reduced(tmp_path):
    """A 16-bit PNG uses its whole range by definition: 65535 is white."""
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    picture = open_picture(save(tmp_path / "a.png", grey))
    assert np.array_equal(picture.image[0], (grey >> 8).astype(np.uint8))
    assert "16-bit" in picture.fitted


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_numbers_without_a_scale_are_refused(tmp_path, dtype):
    """Reflectances in a TIFF mean anything: the error gives their range and the remedy."""
    path = save(tmp_path / "a.tif", np.linspace(0, 9000, 4096).astype(dtype).reshape(64, 64))
    with pytest.raises(ImageError, match=r"a\.tif holds numbers from 0 to 9000 .*8-bit RGB"):
        open_picture(path)


def test_first_frame_of_several(tmp_path):
    """Of a moving picture the first frame is taken, which is said."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    picture = open_picture(tmp_path / "a.tif")
    assert picture.image[:, 0, 0].tolist() == [255, 0, 0]
    assert "first of 2 frames" in picture.fitted


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is empty"),
        (b"<!doctype html><title>404</title>", "is a web page"),
        (b"no picture at all", "is not in a picture format"),
        (jpeg()[:1500], "is a broken picture"),
        (huge_jpeg(65000, 65000), "far too large"),
        (huge_jpeg(12000, 12000), "claims 12,000 x 12,000 pixels"),
    ],
)
def test_open_picture_names_file_and_finding(tmp_path, data, finding):
    """A user's file that cannot be used is named with the reason; bombs are not decoded."""
    (tmp_path / "mine.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=rf"mine\.jpg .*{finding}"):
        open_picture(tmp_path / "mine.jpg")


def test_open_picture_names_wrong_arguments(tmp_path):
    """No file, a folder and an unknown way of fitting each get their own error."""
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*nothing\.png"):
        open_picture(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="is a folder"):
        open_picture(tmp_path)
    with pytest.raises(ValueError, match="'crop' or 'resize', got 'squeeze'"):
        open_picture(tmp_path, fit="squeeze")


def test_png_is_lossless_in_every_shape():
    """Rows-first, channels-first, grey, RGBA, float and tensor all come back unchanged."""
    rgba = np.dstack([NOISE, NOISE[:, :, 0]])
    cases = [
        (NOISE, NOISE),
        (NOISE.transpose(2, 0, 1), NOISE),
        (torch.from_numpy(NOISE.transpose(2, 0, 1).copy()), NOISE),
        (NOISE.astype(np.float32) / 255, NOISE),
        (NOISE[:, :, 0], NOISE[:, :, 0]),
        (rgba, rgba),
    ]
    for given, expected in cases:
        png = images.png_bytes(given)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), expected)


def test_jpeg_is_close_and_data_uri_stands_alone():
    """A smooth image survives JPEG, and the address holds the whole of it."""
    smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 64, 3))
    data = images.jpeg_bytes(smooth, quality=95)
    back = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    assert abs(back - smooth).max() <= 4
    assert images.data_uri(data, "image/jpeg").startswith("data:image/jpeg;base64,/9j/")
    assert images.data_uri(b"abc") == "data:image/png;base64,YWJj"


@pytest.mark.parametrize(
    ("array", "error", "finding"),
    [
        (np.zeros((2, 3, 64, 64), np.uint8), ValueError, "got \\(2, 3, 64, 64\\)"),
        (np.zeros((0, 64, 3), np.uint8), ValueError, "got \\(0, 64, 3\\)"),
        (np.zeros((64, 64, 5), np.uint8), ValueError, "got \\(64, 64, 5\\)"),
        (np.full((4, 4), 1.5), ValueError, "1.5..1.5"),
        (np.full((4, 4), np.nan), ValueError, "nan"),
        (np.zeros((4, 4), np.int64), TypeError, "int64"),
    ],
)
def test_encoding_names_wrong_arrays(array, error, finding):
    """Shapes, ranges and dtypes that are no image are named."""
    with pytest.raises(error, match=finding):
        images.png_bytes(array)


def test_jpeg_refuses_transparency():
    """JPEG has no alpha channel: the error says which encoder has."""
    with pytest.raises(ValueError, match="png_bytes"):
        images.jpeg_bytes(np.zeros((4, 4, 4), np.uint8))
