"""Pictures in and out: decode tiles strictly, open a user's picture, encode for pages."""

import base64
import io
import math
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lulc_lib.files import home_expanded

SIDE = 64  # pixels along each side of a EuroSAT tile
SENTINEL_METRES = 10  # ground size of one pixel in Sentinel-2's visible bands
MAX_PIXELS = 50_000_000  # a phone's photograph has less; decoded, so many take 200 MB
MAX_CONVERTED = 12_500_000  # where opacity or numbers beyond 8 bits take several copies
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP")  # no format that starts another program

_HTML_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml")


# Line ends and other control characters, what turns the direction of writing round, and the halves
# of characters by which Python spells file names that are not UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text as one line that every terminal, figure and page can show.

    What cannot be shown is written as Python writes it: a line end becomes a backslash and an n.
    """
    return _ODD.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class PictureWarning(UserWarning):
    """A picture was read, but what its values mean had to be decided; the message says how."""


class ImageError(ValueError):
    """A file does not hold the picture it should; the message names file and finding."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A user's picture brought to the shape of a tile.

    Attributes:
        image: uint8 (3, 64, 64), RGB.
        path: where it came from.
        size: width and height of the original in pixels, upright (after EXIF orientation).
        fitted: how it became 64 x 64 pixels, as text.
        scale: original pixels along one side of a tile pixel; 1 keeps the picture's resolution.
        changes: what was decided about the meaning of its values, also part of `fitted`.
    """

    image: np.ndarray
    path: Path
    size: tuple[int, int]
    fitted: str
    scale: float
    changes: tuple[str, ...] = ()

    @property
    def ground(self) -> str:
        """Say how much ground the tile shows, and under which assumption."""
        metres = SENTINEL_METRES * self.scale
        side = f"{metres * SIDE:,.0f}"
        text = (
            f"{side} x {side} m on the ground, {metres:.3g} m per pixel, assuming that the "
            f"original has Sentinel-2's {SENTINEL_METRES} m per pixel"
        )
        if self.scale != 1:
            text += f"; the models learned from {SENTINEL_METRES} m per pixel"
        return text


def decode_tile(data: bytes, name: str) -> np.ndarray:
    """Decode one EuroSAT tile, refusing anything that is not one.

    An EXIF orientation is honoured, as `open_picture` does.

    Args:
        data: the bytes of a JPEG file.
        name: names the file in error messages.

    Returns:
        uint8 (3, 64, 64), RGB.

    Raises:
        ImageError: if the file is empty, a web page, not a JPEG, truncated, not 64x64 or not RGB.
    """
    _refuse_non_picture(data, name)
    if not data.startswith(b"\xff\xd8"):
        raise ImageError(f"{name} is not a JPEG: it starts with {data[:8]!r}")
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        if image.size != (SIDE, SIDE):
            width, height = image.size
            raise ImageError(f"{name} is {width}x{height} pixels; a tile has {SIDE}x{SIDE}")
        if image.mode != "RGB":
            raise ImageError(f"{name} has colour mode {image.mode!r}; a tile is RGB")
        if image.info.keys() & {"exif", "xmp"}:  # no tile of EuroSAT's own has them
            image = ImageOps.exif_transpose(image)
        pixels = np.asarray(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is far too large for a {SIDE}x{SIDE} tile: {error}") from error
    except Exception as error:  # damaged bytes make Pillow's readers raise errors of any type
        text = _short(error)
        raise ImageError(f"{name} is a broken JPEG of {len(data)} bytes: {text}") from error
    if b"\xff\xd9" not in data[-64:]:
        raise ImageError(f"{name} is truncated: its {len(data)} bytes have no end-of-image mark")
    return pixels.transpose(2, 0, 1)


def open_picture(
    path: str | Path, fit: Literal["crop", "resize"] = "crop", scale: float | None = None
) -> Picture:
    """Open any picture and bring it to 64x64 pixels.

    It is turned upright (EXIF orientation). Values of 8 bits are taken as they are. Numbers beyond
    8 bits need a scale, except in a PNG, whose definition says that 65535 is white. Of several
    frames the first is taken. Transparent parts become white; a further band of a TIFF that the
    file does not call opacity, such as near infrared, is left out.

    Args:
        path: a file in one of `FORMATS`.
        fit: "crop" takes the centre 64x64 pixels and keeps the picture's own resolution; "resize"
            takes the largest centred square and shrinks it, which changes the ground size of a
            pixel. A picture smaller than 64 pixels is enlarged first in either case.
        scale: the number that is white, for values beyond 8 bits: 10000 for Sentinel-2's
            reflectances, 1 for shares, less for a brighter picture.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `fit` is neither "crop" nor "resize", or `scale` is not above 0.
        ImageError: if the file is no readable picture, or has more than `MAX_PIXELS`, or its values
            have no agreed scale and none is given, or one is given for values of 8 bits.

    Warns:
        PictureWarning: for each decision about the meaning of the values (`Picture.changes`).
    """
    if fit not in ("crop", "resize"):
        raise ValueError(f"fit must be 'crop' or 'resize', got {fit!r}")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a number above 0, such as 10000, got {scale!r}")
    path = home_expanded(path)
    name = printable(str(path))
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {name}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise ImageError(f"{name} is {kind}; name one picture")
    with path.open("rb") as file:
        start = file.read(512)
    _refuse_non_picture(start, name)
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        picture = _read(path, name, start, fit, scale)
    said = dict.fromkeys(f"Pillow warns: {_short(warning.message)}" for warning in met)
    for change in (*picture.changes, *said):
        warnings.warn(f"{name}: {change}", PictureWarning, stacklevel=2)
    return picture


def pillow_pixels(image: Any) -> np.ndarray | None:
    """Return the pixels of a Pillow image as uint8 (3, H, W), None of anything else.

    Raises:
        TypeError: if it is not in RGB.
    """
    if not isinstance(image, Image.Image):
        return None
    if image.mode != "RGB":
        raise TypeError(
            f"a Pillow image must have the mode RGB, got {image.mode}; convert it with "
            ".convert('RGB') if its values lie in 0..255"
        )
    return np.array(image).transpose(2, 0, 1)


def png_bytes(array: Any) -> bytes:
    """Encode an image as PNG (lossless); see `_as_pil` for the shapes taken."""
    return _encode(array, format="PNG")


def jpeg_bytes(array: Any, quality: int = 90) -> bytes:
    """Encode an RGB or grey image as JPEG (lossy, small); see `_as_pil` for the shapes taken."""
    if np.ndim(array) == 3 and np.shape(array)[2] == 4:
        raise ValueError("JPEG has no transparency; use png_bytes for an RGBA image")
    return _encode(array, format="JPEG", quality=quality)


def data_uri(data: bytes, mime: str = "image/png") -> str:
    """Return bytes as a `data:` address, to be put into a page that stands alone."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def _refuse_non_picture(data: bytes, name: str) -> None:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    if looks_like_web_page(data):
        raise ImageError(
            f"{name} is a web page, not a picture: it starts with {data[:40]!r}; download it again"
        )


def looks_like_web_page(data: bytes) -> bool:
    """Tell whether bytes begin like HTML, which is what many failed downloads leave behind."""
    return data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_STARTS)


def _short(message: object) -> str:
    """Return a message of another library as one line of bounded length."""
    text = printable(" ".join(str(message).split())) or type(message).__name__
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _read(path: Path, name: str, start: bytes, fit: str, scale: float | None) -> Picture:
    """Read a picture; whatever goes wrong is an ImageError that names the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return _Reading(image, path, name, scale).picture(fit)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is far too large: {_short(error)}") from error
    except UnidentifiedImageError as error:
        known = f"is not in a picture format that is read here ({', '.join(FORMATS)})"
        if start[:2] in (b"II", b"MM"):
            known = "is a TIFF whose bands or bits cannot be read here"
        raise ImageError(f"{name} {known}; save its red, green and blue as an 8-bit PNG") from error
    except Exception as error:  # damaged bytes make Pillow's readers raise errors of any type
        raise ImageError(f"{name} is a broken picture: {_short(error)}") from error


class _Reading:
    """One picture on its way to RGB, and what is to be said of it.

    Attributes:
        notes: what was done, in words.
        changes: those of the notes that decide what the values mean.
        raw: how the values lie in the file, as `_raw_mode` says.
        drops_fourth: whether the band that Pillow takes for opacity is none.
    """

    def __init__(self, image: Image.Image, path: Path, name: str, scale: float | None) -> None:
        self.image, self.path, self.name, self.scale = image, path, name, scale
        self.notes: list[str] = []
        self.changes: list[str] = []
        self._check_size()
        self.raw = _raw_mode(image)  # before decoding, which forgets it
        self.drops_fourth = self._surplus_bands() if image.format == "TIFF" else False

    def picture(self, fit: str) -> Picture:
        """Decode, turn upright, cut out, bring to RGB of 8 bits, resize."""
        if getattr(self.image, "is_animated", False):
            self._change("first of several frames")
        turned = self.image.getexif().get(0x0112, 1)
        cut, size, square = _cut(self.image, fit)
        if turned in range(2, 9):
            self.notes.append(f"turned upright (EXIF orientation {turned})")
        if self._beyond_8_bits():
            rgb = self._from_numbers(cut, fit)
        elif self.scale is not None:
            raise ImageError(f"{self.name} has values of 8 bits, 255 being white: leave scale out")
        else:
            rgb = self._to_rgb(cut)
        if square != SIDE:
            rgb = rgb.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))
        fitted = "; ".join([_describe_cut(size, square), *self.notes])
        return Picture(pixels, self.path, size, fitted, square / SIDE, tuple(self.changes))

    def _beyond_8_bits(self) -> bool:
        bits = self.image.tag_v2.get(258, ()) if self.image.format == "TIFF" else ()
        numbers = self.image.mode.startswith(("I", "F"))
        numbers |= ";16" in self.raw and self.image.format != "BMP"  # there, 16 bits for all bands
        return numbers or max(bits, default=1) > 8

    def _check_converted(self, cut: Image.Image) -> None:
        if cut.width * cut.height > MAX_CONVERTED:
            raise ImageError(
                f"{self.name} has {cut.width:,} x {cut.height:,} pixels to be converted, more than "
                f"the {MAX_CONVERTED:,} for opacity or values beyond 8 bits; crop it first"
            )

    def _change(self, text: str) -> None:
        self.notes.append(text)
        self.changes.append(text)

    def _check_size(self) -> None:
        width, height = self.image.size
        if width * height == 0:
            raise ImageError(f"{self.name} has no pixels: it is {width} x {height}")
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"{self.name} claims {width:,} x {height:,} pixels, more than the "
                f"{MAX_PIXELS:,} this opens; crop it first"
            )

    def _surplus_bands(self) -> bool:
        """Say which bands of a TIFF are left out; return whether a fourth one hides nothing."""
        tags = self.image.tag_v2
        bands = int(tags.get(277, 1))  # SamplesPerPixel
        colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(tags.get(262), 1)  # by PhotometricInterpretation
        extra = tags.get(338, ())  # ExtraSamples: 1 and 2 mean opacity
        opacity = bool(extra) and extra[0] in (1, 2)
        used = colours + opacity
        if bands > used:
            self._change(
                f"{bands - used} of {bands} bands left out, which the file does not call opacity "
                "(near infrared?)"
            )
        return bands > colours and not opacity

    def _from_numbers(self, cut: Image.Image, fit: str) -> Image.Image:
        """Bring values beyond 8 bits to RGB by the scale, or by PNG's definition."""
        if self.scale is None and self.image.format == "PNG":
            return self._by_definition(cut)
        self._check_converted(cut)
        numbers = self._numbers(cut, fit)
        colours = numbers[..., :3] if numbers.ndim == 3 else numbers  # opacity has its own white
        finite = np.isfinite(colours)
        if not finite.any():
            raise ImageError(f"{self.name} holds no finite numbers")
        low = colours.min(where=finite, initial=np.inf)
        high = colours.max(where=finite, initial=-np.inf)
        if self.scale is None:
            raise ImageError(
                f"{self.name} holds numbers from {low:g} to {high:g} (mode {self.raw}), for which "
                "there is no agreed scale; name the number that is white, such as scale=10000 for "
                "reflectances (--scale 10000), or save it as 8-bit RGB"
            )
        self.notes.append(f"numbers from {low:g} to {high:g} divided by {self.scale:g}")
        if not finite.all():
            self._change(f"{(~finite).sum():,} values that are no finite numbers set to black")
            colours[~finite] = 0
        outside = int(((colours < 0) | (colours > self.scale)).sum())
        if outside:
            self._change(f"{outside:,} of {colours.size:,} values cut to 0..{self.scale:g}")
        np.clip(numbers, 0, self.scale, out=numbers)
        numbers /= self.scale  # in place: three bands of 12 million pixels are 300 MB
        numbers *= 255
        values = np.rint(numbers, out=numbers).astype(np.uint8)
        if values.ndim == 2:
            return self._to_rgb(Image.fromarray(values))
        if self.image.mode == "RGBA":
            values[..., 3] = np.asarray(cut)[..., 3]
        return self._to_rgb(Image.fromarray(values))

    def _by_definition(self, cut: Image.Image) -> Image.Image:
        if cut.mode.startswith("I"):
            cut = Image.fromarray((np.asarray(cut) >> 8).astype(np.uint8))
        cut.info.pop("transparency", None)  # a colour of 16 bits, which is nowhere met in 8
        rgb = self._to_rgb(cut)
        self._change(
            f"16-bit values reduced to 8 bits, 65535 being white: the brightest here is now "
            f"{max(high for _, high in rgb.getextrema())} of 255; scale= names another white"
        )
        return rgb

    def _numbers(self, cut: Image.Image, fit: str) -> np.ndarray:
        """Return values beyond 8 bits in full, (H, W) or (H, W, 3 or 4).

        Pillow keeps the upper byte of 16-bit colours alone. Read in the other byte order, the same
        file gives the lower byte.
        """
        if cut.mode.startswith(("I", "F")):
            return np.asarray(cut).astype(np.float64)
        native = "L" if sys.byteorder == "little" else "B"
        other = "B" if self.raw[-1].replace("N", native) == "L" else "L"
        separate = self.image.format == "TIFF" and self.image.tag_v2.get(284, 1) != 1
        if separate or self.raw[:-1] not in ("RGB;16", "RGBX;16", "RGBA;16"):
            raise ImageError(
                f"{self.name} holds 16-bit values in a form that cannot be read in full here "
                f"({self.raw}); save its red, green and blue as 8-bit RGB"
            )
        with Image.open(self.path, formats=FORMATS) as again:
            again.tile = [_with_raw_mode(tile, self.raw[:-1] + other) for tile in again.tile]
            low, _, _ = _cut(again, fit)
        full = np.asarray(cut).astype(np.uint16)
        full <<= 8
        full |= np.asarray(low)
        return full.astype(np.float64)

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        """Return a picture of 8 bits in RGB."""
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        if image.mode in ("RGBA", "RGBX", "LA") and self.drops_fourth:
            return image.convert("RGB")
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            return self._on_white(image)
        if image.mode in ("LAB", "HSV"):
            raise ImageError(
                f"{self.name} holds {image.mode} colours, which are not converted here; save it as "
                "8-bit RGB"
            )
        if image.mode in ("1", "L"):
            self.notes.append("grey, same value in R, G and B")
        elif image.mode == "P":
            self.notes.append("converted from P")
        else:
            self._change(f"converted from {image.mode}")
        return image.convert("RGB")

    def _on_white(self, image: Image.Image) -> Image.Image:
        self._check_converted(image)
        if image.mode == "La":
            image = image.convert("LA")
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        if rgba.getextrema()[3][0] < 255:
            doubt = " (if its last band is not opacity, save red, green and blue alone)"
            said = doubt if self.image.format == "TIFF" else ""
            self._change(f"transparent parts laid on white{said}")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """Return how the values lie in the file, such as "RGB;16B", else Pillow's mode."""
    args = image.tile[0][3] if image.tile else None
    raw = args[0] if isinstance(args, tuple) and args else args
    return raw if isinstance(raw, str) else image.mode


def _with_raw_mode(tile: Any, raw: str) -> Any:
    codec, extents, offset, args = tile
    changed = (codec, extents, offset, (raw, *args[1:]) if isinstance(args, tuple) else raw)
    return type(tile)(*changed) if hasattr(tile, "_fields") else changed


def _cut(image: Image.Image, fit: str) -> tuple[Image.Image, tuple[int, int], int]:
    """Return the part of an upright picture to be shown, the whole size, and the part's side."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    width, height = image.size
    short = min(width, height)
    square = SIDE if fit == "crop" and short >= SIDE else short
    left, top = (width - square) // 2, (height - square) // 2
    return image.crop((left, top, left + square, top + square)), (width, height), square


def _describe_cut(size: tuple[int, int], square: int) -> str:
    width, height = size
    if size == (SIDE, SIDE):
        return "taken as it is"
    if square == SIDE:
        return f"centre {SIDE}x{SIDE} pixels of {width}x{height} cut out"
    verb = "enlarged" if square < SIDE else "shrunk"
    part = "whole picture" if width == height else f"centre {square}x{square} pixels"
    return f"{part} of {width}x{height} {verb} to {SIDE}x{SIDE}"


def _encode(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _as_pil(array).save(buffer, **options)
    return buffer.getvalue()


def _as_pil(array: Any) -> Image.Image:
    """Return a Pillow image of an array or tensor: (H, W), (H, W, 3 or 4) or (3, H, W).

    The values are uint8, or floats in [0, 1].
    """
    pixels = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] not in (3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.size == 0 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    ):
        raise ValueError(
            f"an image has shape (H, W), (H, W, 3), (H, W, 4) or (3, H, W), got {pixels.shape}"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"a floating-point image lies in [0, 1], got {pixels.min():g}..{pixels.max():g}"
            )
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise TypeError(f"an image is uint8, or floating-point in [0, 1], got {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))
