"""Write figures to bytes and files."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from lulc_lib.files import atomic_write, home_expanded


def figure_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_jpeg(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as JPEG bytes: where it holds many tiles, a third of the size of PNG.

    Colours keep their full resolution and the quality is high enough for small print.
    """
    buffer = io.BytesIO()
    options = {"quality": 80, "subsampling": 0, "optimize": True}
    figure.savefig(buffer, format="jpeg", dpi=dpi, pil_kwargs=options)
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> Path:
    """Write a figure as PNG, whole or not at all; missing folders are made.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    return write_whole(path, figure_png(figure, dpi))


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write bytes to a file, whole or not at all, and return its absolute path.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    path = home_expanded(path).absolute()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file inside it")
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path} cannot be written ({reason}); choose another place") from error
    return path
