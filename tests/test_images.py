"""Pictures: what is refused, what is converted, and what is said about it."""

import io
import struct
import warnings
import zlib
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from lulc_lib import images, tiles
from lulc_lib.images import (
    ImageError,
    PictureWarning,
    decode_tile,
    open_picture,
    printable,
)

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def jpeg(array=NOISE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def png(values: np.ndarray, size: tuple[int, int] | None = None, extra: bytes = b"") -> bytes:
    """Write 16-bit values (H, W, 3 or 4) as PNG, which Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[bands]
    head = struct.pack(">IIBBBBB", *(size or (width, height)), 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    values: np.ndarray,
    extra: int | None = None,
    order: str = "<",
    packed: bool = False,
    planes: bool = False,
) -> bytes:
    """Write values (H, W, bands) as a TIFF of one strip, with the ExtraSamples tag given."""
    height, width, bands = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if packed else data
    strips = bands if planes else 1
    photometric, sample = (2 if bands > 2 else 1), {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: [width], 257: [height], 258: [8 * values.itemsize] * bands}
    tags |= {259: [8 if packed else 1], 262: [photometric], 277: [bands], 278: [height]}
    tags |= {273: [1000] * strips, 279: [len(data) // strips] * strips, 284: [1 + planes]}
    tags |= {339: [sample] * bands}
    tags |= {} if extra is None else {338: [extra]}
    entries, pool = b"", b""
    for tag, entry in sorted(tags.items()):
        kind, code = (4, "I") if tag in (273, 279) else (3, "H")
        raw = struct.pack(f"{order}{len(entry)}{code}", *entry)
        if len(raw) > 4:
            raw, pool = struct.pack(f"{order}I", 500 + len(pool)), pool + raw
        entries += struct.pack(f"{order}HHI", tag, kind, len(entry)) + raw.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return ((head + entries + bytes(4)).ljust(500, b"\0") + pool).ljust(1000, b"\0") + data


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
    data, outcomes, rng = jpeg(quality=30), set(), np.random.default_rng(1)
    for place in rng.integers(0, 700, 300):
        damaged = bytearray(data)
        damaged[place] = rng.integers(256)
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
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        picture = open_picture(path)
    expected = np.asarray(original.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(picture.image, expected)
    assert note in picture.fitted
    assert len(met) == len(picture.changes) == (mode == "CMYK")  # the others are exact


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_transparency_is_laid_on_white(tmp_path, kind):
    """Transparent parts hold no colour of their own: they become white, which is said."""
    path = tmp_path / "a.png"
    if kind == "palette":
        Image.new("P", (64, 64), 0).save(path, transparency=0)
    else:
        Image.new(kind, (64, 64), 0).save(path)
    with pytest.warns(PictureWarning, match=r"a\.png: transparent parts laid on white"):
        picture = open_picture(path)
    assert picture.image.min() == 255
    assert "transparent parts laid on white" in picture.fitted


def test_opaque_alpha_changes_nothing(tmp_path):
    """An alpha channel that hides nothing is dropped without a word."""
    opaque = np.dstack([NOISE, np.full((64, 64), 255, dtype=np.uint8)])
    picture = open_picture(save(tmp_path / "a.png", opaque))
    assert np.array_equal(picture.image, NOISE.transpose(2, 0, 1))
    assert picture.fitted == "taken as it is"


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_sixteen_bit_png_is_reduced(tmp_path, bands):
    """A 16-bit PNG uses its whole range by definition: 65535 is white, and that is said."""
    values = np.linspace(0, 9000, 64 * 64 * bands).astype(np.uint16).reshape(64, 64, bands)
    if bands in (2, 4):
        values[..., -1] = 65535  # opacity
    path = tmp_path / "a.png"
    path.write_bytes(png(values))
    with pytest.warns(PictureWarning, match="65535 being white: the brightest here is now 35 of"):
        picture = open_picture(path)
    colours = values[..., :3] if bands > 2 else values[..., [0, 0, 0]]
    assert np.array_equal(picture.image.transpose(1, 2, 0), colours >> 8)


SIXTEEN = RANDOM.integers(0, 10001, (64, 64, 4)).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "bands", "finding"),
    [
        (png(SIXTEEN[..., :1]), 1, ""),
        (png(SIXTEEN[..., :3]), 3, ""),
        (tiff(SIXTEEN[..., :3]), 3, ""),
        (tiff(SIXTEEN[..., :3], order=">"), 3, ""),
        (tiff(SIXTEEN[..., :3], packed=True), 3, ""),
        (tiff(SIXTEEN, extra=0), 3, "1 of 4 bands left out"),
        (tiff(SIXTEEN, order=">", packed=True), 3, "1 of 4 bands left out"),
        (tiff(SIXTEEN[..., :1].astype(np.float32)), 1, ""),
        (tiff(SIXTEEN[..., :1].astype(np.int32), order=">"), 1, ""),
    ],
    ids=count(),
)
def test_a_scale_brings_numbers_to_eight_bits(tmp_path, data, bands, finding):
    """Both bytes of a value count, in either byte order, and the scale is white."""
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        picture = open_picture(path, scale=10000)
    expected = np.broadcast_to(np.rint(SIXTEEN[..., :bands] / 10000 * 255), (64, 64, 3))
    assert np.array_equal(picture.image.transpose(1, 2, 0), expected)
    assert "divided by 10000" in picture.fitted
    assert [str(w.message) for w in met] == [f"{path}: {c}" for c in picture.changes]
    assert finding in " ".join(picture.changes)


def test_what_a_scale_cannot_hold_is_said(tmp_path):
    """Numbers beyond the scale are cut, those that are none become black; both are counted."""
    values = np.full((64, 64), 0.5, dtype=np.float32)
    values[0, :3] = np.nan
    values[1, :2] = 7, -1
    path = save(tmp_path / "a.tif", values)
    with pytest.warns(PictureWarning) as met:
        picture = open_picture(path, scale=1)
    said = " ".join(str(warning.message) for warning in met)
    assert "3 values that are no finite numbers set to black" in said
    assert "2 of 4,096 values cut to 0..1" in said
    assert picture.image[0, :2, :4].tolist() == [[0, 0, 0, 128], [255, 0, 128, 128]]
    with pytest.raises(ImageError, match="no finite numbers"):
        open_picture(save(tmp_path / "b.tif", np.full((64, 64), np.nan, np.float32)))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_is_above_zero(tmp_path, scale):
    """What is no scale is named before the file is read; 8 bits need none."""
    with pytest.raises(ValueError, match="scale must be a number above 0"):
        open_picture(tmp_path / "none.png", scale=scale)
    with pytest.raises(ImageError, match=r"a\.png has values of 8 bits.*leave scale out"):
        open_picture(save(tmp_path / "a.png", NOISE), scale=255)


@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_a_fourth_band_is_opacity_only_where_the_file_says_so(tmp_path, extra):
    """Near infrared is left out, not taken for opacity; what is called opacity is laid on white."""
    four = np.dstack([NOISE, np.full((64, 64), 100, dtype=np.uint8)])
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(four, extra))
    opacity = extra in (1, 2)
    said = "laid on white .*not opacity" if opacity else "1 of 4 bands left out"
    with pytest.warns(PictureWarning, match=said):
        picture = open_picture(path)
    assert np.array_equal(picture.image, NOISE.transpose(2, 0, 1)) != opacity


def test_opacity_is_no_number_to_be_scaled(tmp_path):
    """What is cut, and the range that is said, are of the colours alone."""
    values = np.full((64, 64, 4), 3000, dtype=np.uint16)
    values[..., 3] = 65535
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, 2))
    picture = open_picture(path, scale=10000)
    assert not picture.changes
    assert "numbers from 3000 to 3000 divided by 10000" in picture.fitted
    assert (picture.image == round(255 * 0.3)).all()


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (tiff(SIXTEEN[..., :3]), r"numbers from \d+ to \d+ .*scale=10000"),
        (tiff(SIXTEEN, 0), r"numbers from \d+ to \d+ .*scale=10000"),
        (tiff(SIXTEEN, 1), "cannot be read in full"),
        (tiff(SIXTEEN[..., :3], planes=True), "cannot be read in full"),
        (tiff(SIXTEEN[..., :2]), "TIFF whose bands or bits cannot be read"),
        (tiff(SIXTEEN.astype(np.float32)), "TIFF whose bands or bits cannot be read"),
        (png(SIXTEEN, size=(30000, 30000)), "claims 30,000 x 30,000 pixels|far too large"),
        (png(SIXTEEN, size=(8000, 8000)), "claims 8,000 x 8,000 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in a picture format .*JPEG"),
    ],
    ids=count(),
)
def test_what_has_no_agreed_meaning_is_refused(tmp_path, data, finding):
    """Deep values without a scale, unreadable bands, large or foreign files: one named line."""
    path = tmp_path / "a.dat"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=finding) as met:
        open_picture(path)
    assert str(met.value).startswith(str(path))
    assert "\n" not in str(met.value)


def test_the_bound_on_what_is_converted(tmp_path, monkeypatch):
    """Opacity takes copies of the whole square, so that it is bounded; a cut-out is small."""
    monkeypatch.setattr(images, "MAX_CONVERTED", 5000)
    path = tmp_path / "a.png"
    Image.new("RGBA", (80, 80)).save(path)
    with pytest.raises(ImageError, match=r"a\.png has 80 x 80 pixels to be converted"):
        open_picture(path, fit="resize")
    with pytest.warns(PictureWarning, match="laid on white"):
        assert open_picture(path).image.min() == 255


def test_a_text_chunk_is_not_unpacked_without_limit(tmp_path):
    """A PNG whose text swells to 5 MB is refused by its name."""
    text = b"Comment\0\0" + zlib.compress(bytes(5_000_000))
    extra = struct.pack(">I", len(text)) + b"zTXt" + text
    extra += struct.pack(">I", zlib.crc32(b"zTXt" + text))
    (tmp_path / "a.png").write_bytes(png(SIXTEEN, extra=extra))
    with pytest.raises(ImageError, match=r"a\.png is a broken picture: .*too large"):
        open_picture(tmp_path / "a.png")


def test_names_are_shown_on_one_line(tmp_path):
    """Line ends, directions of writing and bytes that are not UTF-8 are spelt out, others kept."""
    assert printable("Zürich $1_a.png") == "Zürich $1_a.png"
    assert printable("a\nb\x1b[31m\u202ec\udcff") == r"a\nb\x1b[31m\u202ec\udcff"
    with pytest.raises(FileNotFoundError, match=r"there is no picture .*a\\nb\.png"):
        open_picture(tmp_path / "a\nb.png")


def test_a_tile_is_turned_upright_as_any_picture_is(tmp_path):
    """A tile with an EXIF orientation is the same whichever function reads it."""
    exif = Image.Exif()
    exif[0x0112] = 3
    data = jpeg(exif=exif)
    (tmp_path / "a.jpg").write_bytes(data)
    tile = decode_tile(data, "a.jpg")
    assert np.array_equal(tile, open_picture(tmp_path / "a.jpg").image)
    assert np.array_equal(tile, decode_tile(jpeg(), "a.jpg")[:, ::-1, ::-1])


def test_damaged_pictures_end_in_a_picture_or_one_line(tmp_path):
    """Flipped bytes in any format give a picture or an ImageError of one line, nothing else."""
    picture, outcomes = Image.fromarray(NOISE[:16, :16]), set()
    rng = np.random.default_rng(1)
    for format in images.FORMATS:
        buffer = io.BytesIO()
        picture.save(buffer, format)
        for place in rng.integers(4, min(300, len(buffer.getvalue())), 25):
            damaged = bytearray(buffer.getvalue())
            damaged[place] = rng.integers(256)
            (tmp_path / "a.dat").write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PictureWarning)
                try:
                    outcomes.add(open_picture(tmp_path / "a.dat").image.shape)
                except ImageError as error:
                    outcomes.add(f"{str(error).count(chr(10))} line ends")
    assert outcomes == {(3, 64, 64), "0 line ends"}


def test_first_frame_of_several(tmp_path):
    """Of a moving picture the first frame is taken, which is said."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.warns(PictureWarning, match="first of several frames"):
        picture = open_picture(tmp_path / "a.tif")
    assert picture.image[:, 0, 0].tolist() == [255, 0, 0]
    assert "first of several frames" in picture.fitted


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is empty"),
        (b"<!doctype html><title>404</title>", "is a web page"),
        (b"no picture at all", "is not in a picture format .*JPEG, PNG"),
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
