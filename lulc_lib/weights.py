"""Weights in files: safetensors with a header that is checked first, and others' read as data."""

import math
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lulc_lib.files import one_line, open_regular, read_json

PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")  # how files with pickles end
_MOST_HEADER = 2**24  # bytes; a tensor takes about a hundred
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16}
_BITS |= {"BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64}
# Where training scripts keep the weights inside what they save: averaged ones first, as timm does.
_INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")  # of torch.compile and DataParallel


class WeightsError(ValueError):
    """A file does not hold weights that can be read; one line that says why."""


def write_weights(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a safetensors file holds by name, from its header alone.

    Raises:
        WeightsError: if it is no whole safetensors file.
        OSError: if it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        size = file.seek(0, 2)
        if start[8:] != b"{" or length > min(size - 8, _MOST_HEADER):
            raise WeightsError("it has no header, or is cut short")
        file.seek(8)
        header = file.read(length)
    try:
        entries = read_json(header, "its header", _MOST_HEADER, most_depth=4)
        entries.pop("__metadata__", None)
        shapes = {name: _shape(entry) for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"its header is damaged: {one_line(error)}") from error
    ends = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + ends != size:
        raise WeightsError(f"it has {size:,} bytes, its header speaks of {8 + length + ends:,}")
    return shapes


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, begin, end)):
        raise ValueError(f"{entry!r} holds no whole numbers")
    if math.prod(shape) * _BITS[entry["dtype"]] != 8 * (end - begin):
        raise ValueError(f"{entry!r} contradicts itself")
    return shape


def parse_weights(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file's bytes.

    Raises:
        WeightsError: if they are not safetensors.
    """
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise WeightsError(one_line(error)) from error


def is_pickle(path: str | Path) -> bool:
    """Return whether a file begins like a pickle, or like the zip in which torch keeps one."""
    with open_regular(path) as file:
        start = file.read(9)
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[8:] != b"{"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return weights that others wrote: safetensors, or a state dictionary saved by torch.

    No code in the file is run, whatever its name ends with.

    Raises:
        WeightsError: if it holds neither, or something besides tensors.
        OSError: if it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        pickled = is_pickle(path)
        if not pickled:
            read_shapes(path)
            found: Any = parse_weights(file.read())
        else:
            try:
                found = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # a file from elsewhere may fail in any way
                raise WeightsError(_first_words(error)) from error
    inside = next((k for k in _INSIDE if isinstance(found, dict) and found.get(k)), None)
    weights = found if inside is None or isinstance(found[inside], Tensor) else found[inside]
    if not isinstance(weights, dict) or not weights:
        raise WeightsError("it holds no state dictionary")
    odd = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if odd or not all(isinstance(name, str) for name in weights):
        raise WeightsError(f"it holds more than tensors, such as {one_line(repr(odd[:1]), 80)}")
    return {_plain(name): value for name, value in weights.items()}


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _first_words(error: Exception) -> str:
    if "weights_only" in str(error) or "Unsupported" in str(error):
        return "it holds code besides tensors, which is never run"
    return one_line(error, 120)
