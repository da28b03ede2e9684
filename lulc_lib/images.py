"""Pictures in and out: decode tiles strictly, open a user's picture, encode for pages."""

import base64
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SIDE = 64  # pixels along each side of a EuroSAT tile
SENTINEL_METRES = 10  # ground size of one pixel in Sentinel-2's visible bands
MAX_PIXELS = 100_000_000  # a whole Sentinel-2 granule has 120 million; a bomb has more

_HTML_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml")


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
    """

    image: np.ndarray
    path: Path
    size: tuple[int, int]
    fitted: str
    scale: float

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
        pixels = np.asarray(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is far too large for a {SIDE}x{SIDE} tile: {error}") from error
    except (OSError, SyntaxError) as error:
        raise ImageError(f"{name} is a broken JPEG of {len(data)} bytes: {error}") from error
    if b"\xff\xd9" not in data[-64:]:
        raise ImageError(f"{name} is truncated: its {len(data)} bytes have no end-of-image mark")
    return pixels.transpose(2, 0, 1)


def open_picture(path: str | Path, fit: Literal["crop", "resize"] = "crop") -> Picture:
    """Open any picture and bring it to 64x64 pixels.

    Args:
        path: a file in a format that Pillow reads (JPEG, PNG, TIFF, WebP ...).
        fit: "crop" takes the centre 64x64 pixels and keeps the picture's own resolution; "resize"
            takes the largest centred square and shrinks it, which changes the ground size of a
            pixel. A picture smaller than 64 pixels is enlarged first in either case.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `fit` is neither "crop" nor "resize".
        ImageError: if the file is no readable picture, or is far too large, or its values have no
            agreed scale (16-bit and floating-point TIFF).
    """
    if fit not in ("crop", "resize"):
        raise ValueError(f"fit must be 'crop' or 'resize', got {fit!r}")
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {path}")
    if not path.is_file():
        raise ImageError(f"{path} is a folder; name one picture")
    with path.open("rb") as file:
        _refuse_non_picture(file.read(512), str(path))
    image, notes = _read_rgb(path)
    return _fit(image, path, fit, notes)


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


def _read_rgb(path: Path) -> tuple[Image.Image, list[str]]:
    """Return the picture upright in RGB, with notes on what was changed on the way."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{path} claims {image.width:,} x {image.height:,} pixels, more than the "
                    f"{MAX_PIXELS:,} this opens; crop it first"
                )
            notes = []
            if getattr(image, "n_frames", 1) > 1:
                notes.append(f"first of {image.n_frames} frames")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), path, notes), notes
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is far too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is not in a picture format that Pillow reads") from error
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is a broken picture: {error}") from error


def _to_rgb(image: Image.Image, path: Path, notes: list[str]) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        # A 16-bit PNG uses its whole range by definition; numbers in a TIFF mean anything.
        if not (image.mode.startswith("I;16") and path.suffix.lower() == ".png"):
            low, high = image.getextrema()
            raise ImageError(
                f"{path} holds numbers from {low:g} to {high:g} (mode {image.mode}), for which "
                "there is no agreed scale; save it as 8-bit RGB first"
            )
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        notes.append("16-bit grey reduced to 8-bit, same value in R, G and B")
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3][0] < 255:
            notes.append("transparent parts laid on white")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode in ("1", "L"):
        notes.append("grey, same value in R, G and B")
    else:
        notes.append(f"converted from {image.mode}")
    return image.convert("RGB")


def _fit(image: Image.Image, path: Path, fit: str, notes: list[str]) -> Picture:
    width, height = image.size
    short = min(width, height)
    square = SIDE if fit == "crop" and short >= SIDE else short
    left, top = (width - square) // 2, (height - square) // 2
    cut = image.crop((left, top, left + square, top + square))
    if square != SIDE:
        cut = cut.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    if (width, height) == (SIDE, SIDE):
        how = "taken as it is"
    elif square == SIDE:
        how = f"centre {SIDE}x{SIDE} pixels of {width}x{height} cut out"
    else:
        verb = "enlarged" if square < SIDE else "shrunk"
        part = "whole picture" if width == height else f"centre {square}x{square} pixels"
        how = f"{part} of {width}x{height} {verb} to {SIDE}x{SIDE}"
    pixels = np.ascontiguousarray(np.asarray(cut).transpose(2, 0, 1))
    return Picture(pixels, path, (width, height), "; ".join([how, *notes]), square / SIDE)


def _encode(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    _as_pil(array).save(buffer, **options)
    return buffer.getvalue()


def _as_pil(array: Any) -> Image.Image:
    """Return a Pillow image of an array or tensor: (H, W), (H, W, 3 or 4) or (3, H, W).

    The values are uint8, or floats in [0, 1].
    """
    pixels = np.asarray(array)
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
