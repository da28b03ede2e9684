"""Files of weights: headers are checked before anything else, and no code in a file runs."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lulc_lib.weights import (
    WeightsError,
    is_pickle,
    parse_weights,
    read_shapes,
    read_state_dict,
    write_weights,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7), "empty": torch.zeros(0, 4)}


@pytest.fixture
def file(tmp_path):
    write_weights(tmp_path / "w.safetensors", TENSORS)
    return tmp_path / "w.safetensors"


def test_header_tells_the_shapes(file):
    """Names and shapes come from the header alone, and the tensors come back as they were."""
    assert read_shapes(file) == {"a": (2, 3), "b": (), "empty": (0, 4)}
    assert torch.equal(parse_weights(file.read_bytes())["a"], TENSORS["a"])
    assert read_state_dict(file).keys() == TENSORS.keys()
    assert not is_pickle(file)


def with_header(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header, or is cut short"),
        (b"<html>not found</html>", "no header"),
        (b"\xff" * 8 + b"{", "no header"),
        (with_header(b"{" * 100), "header is damaged"),
        (with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}), "contradicts"),
        (with_header({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}), "damaged"),
        (with_header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}), "whole"),
        (with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "whole"),
        (with_header({"a": []}), "header is damaged"),
        (with_header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
         "speaks of 4,000,000,000"),
    ],
)  # fmt: skip
def test_damaged_headers_are_named(tmp_path, content, message):
    """A header that cannot be true is refused, in one line, before memory is taken."""
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_shapes(tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_foreign_weights_are_known_by_their_bytes(tmp_path):
    """The ending of a name says nothing: safetensors named .bin, and the other way round."""
    save_file(TENSORS, tmp_path / "w.bin")
    torch.save(TENSORS, tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name)["a"], TENSORS["a"])
    assert is_pickle(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state dictionary"),
        ({}, "no state dictionary"),
        ({"a": TENSORS["a"], "epoch": 3}, "more than tensors, such as .'epoch'"),
        ({3: TENSORS["a"]}, "more than tensors"),
    ],
)
def test_what_is_no_state_dictionary_is_named(tmp_path, content, message):
    """Lists, nothing at all, and numbers among the tensors are told apart."""
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "w.pt")


def test_pipes_are_refused(tmp_path):
    """What might never end is not opened."""
    with pytest.raises(OSError, match="is a folder, not a regular file"):
        read_state_dict(tmp_path)
