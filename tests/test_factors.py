"""Concepts: known parts are found again, nothing is hidden, the model is left as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lulc_lib.anatomies import anatomy
from lulc_lib.factors import concepts
from lulc_lib.models import create_model

# Three concepts in five channels: red, green and blue light.
DIRECTIONS = np.array([[3, 1, 0, 0, 0], [0, 0, 2, 0, 1], [0, 0, 0, 2, 0]], dtype=np.float32)


class Mixed(nn.Module):
    """Red, green and blue of 8x8 blocks, mixed into five channels; the head averages."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.maps = nn.Conv2d(3, 5, 8, stride=8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 10)
        with torch.no_grad():
            light = torch.from_numpy(DIRECTIONS.T.copy())
            self.maps.weight.copy_((light / 64)[:, :, None, None].expand(5, 3, 8, 8))
            self.maps.bias.fill_(offset)

    def forward(self, images):
        return self.head(self.pool(self.maps(images)).flatten(1))


def mixed(offset=0.0):
    return create_model(Mixed(offset), image_size=64, mean=(0, 0, 0), std=(1, 1, 1)).eval()


@pytest.fixture
def blocks():
    """Four tiles of 8x8 blocks of random light; each colour stands alone somewhere."""
    light = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    for colour in range(3):
        light[:, [c for c in range(3) if c != colour], :, colour] = 0
    return light


def painted(blocks):
    return blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)


def small(name):
    """Return a small network with random weights."""
    torch.manual_seed(0)
    if name == "vit":
        return create_model("vit", depth=2, embed_dim=48, num_heads=3).eval()
    return create_model("resnet18", image_size=64).eval()


def test_known_parts_are_found_again(blocks):
    """Activations made of three known parts give these three, and where each of them lies."""
    found = concepts(mixed(), painted(blocks), n=3)
    lengths = np.linalg.norm(DIRECTIONS, axis=1)
    cosines = found.directions @ (DIRECTIONS / lengths[:, None]).T
    match = cosines.argmax(axis=1)
    assert sorted(match) == [0, 1, 2]
    assert cosines.max(axis=1).min() > 0.999
    expected = blocks.numpy()[:, match] * lengths[match][:, None, None]
    np.testing.assert_allclose(found.grids, expected, atol=0.06 * expected.max())
    assert found.explained == pytest.approx(1, abs=1e-3)
    assert found.kept == 1
    assert found.layer == "network.maps"


def test_too_few_concepts_explain_less(blocks):
    """Of three parts two concepts leave something over, and one leaves more."""
    shares = [concepts(mixed(), painted(blocks), n=n).explained for n in (1, 2, np.int64(3))]
    assert shares[0] < shares[1] < 0.98 < shares[2]


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_network_gives_maps_that_are_not_negative(name, tiles):
    """Shapes, units and order: directions of length 1, the strongest first, resized bilinearly."""
    model, some = small(name), tiles[:6]
    found = concepts(model, some, n=3)
    h, w = anatomy(model).grid
    width = {"resnet18": 512, "vit": 48}[name]
    assert (found.grids.shape, found.heatmaps.shape) == ((6, 3, h, w), (6, 3, 64, 64))
    assert (found.directions.shape, len(found)) == ((3, width), 3)
    assert {a.dtype for a in (found.grids, found.heatmaps, found.directions)} == {np.dtype("f4")}
    assert min(a.min() for a in (found.grids, found.heatmaps, found.directions)) >= 0
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, atol=1e-5)
    strength = np.square(found.grids).sum(axis=(0, 2, 3))
    assert (np.diff(strength) <= 0).all()
    resized = F.interpolate(torch.from_numpy(found.grids), (64, 64), mode="bilinear")
    np.testing.assert_array_equal(found.heatmaps, resized.numpy())
    assert found.layer == anatomy(model).layer
    assert f"3 at {found.layer}, grid {h}x{w}, 6 tiles" in repr(found)


def test_explained_is_the_share_of_the_variance(tiles):
    """The share is worked out again from what the layer gives, met by a hook of our own."""
    model, some = small("resnet18"), tiles[:6]
    found = concepts(model, some, n=3)
    kept = []
    handle = model.get_submodule(found.layer).register_forward_hook(lambda *c: kept.append(c[2]))
    with torch.no_grad():
        model(some.float())
    handle.remove()
    maps = kept[0].numpy()  # behind a ReLU
    again = np.einsum("nkhw,kc->nchw", found.grids, found.directions)
    share = (
        1
        - np.square(maps - again).sum()
        / np.square(maps - maps.mean(axis=(0, 2, 3), keepdims=True)).sum()
    )
    assert found.explained == pytest.approx(share, abs=1e-3)
    assert 0 < found.explained < 1


def test_negative_activations_are_left_out_and_counted(blocks):
    """The positive part is factorised; how much of the activations that is, is said."""
    found = concepts(mixed(offset=-0.5), painted(blocks), n=3)
    channels = np.einsum("nkhw,kc->nchw", blocks.numpy(), DIRECTIONS) - 0.5
    share = np.square(channels.clip(min=0)).sum() / np.square(channels).sum()
    assert found.kept == pytest.approx(share, abs=1e-4)
    assert found.kept < 1
    assert found.grids.min() >= 0
    assert concepts(small("vit"), painted(blocks), n=2).kept < 1


def test_same_seed_same_concepts(tiles):
    """The same seed gives the same concepts; another one finds the same ones, but for digits."""
    model, some = small("resnet18"), tiles[:6]
    first, again, other = (concepts(model, some, n=2, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.grids, again.grids)
    np.testing.assert_array_equal(first.directions, again.directions)
    assert (first.directions * other.directions).sum(axis=1).min() > 0.99


def test_a_layer_can_be_chosen(tiles):
    """A row of `layers` or a name, as for `explain`; many tiles go through in parts."""
    model = small("resnet18")
    found = concepts(model, tiles, n=2, layer=-2)
    assert found.grids.shape == (len(tiles), 2, 4, 4)
    by_name = concepts(model, tiles, n=2, layer=found.layer)
    np.testing.assert_array_equal(found.grids, by_name.grids)


def test_the_model_comes_back_as_it_was(tiles):
    """No hook, mode or gradient setting is left changed, also after an error."""
    model = small("resnet18").train()
    model.network.layer1.eval()
    modes = [module.training for module in model.modules()]
    concepts(model, tiles[:2], n=2)
    with pytest.raises(ValueError, match="no grid"):
        concepts(model, tiles[:2], n=2, layer="network.fc")
    assert [module.training for module in model.modules()] == modes
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, r"n must lie in 1\.\.5 for 256 cells of 5 channels, got 0"),
        ({"n": 6}, ValueError, r"n must lie in 1\.\.5 .* got 6"),
        ({"n": 2.0}, TypeError, r"whole number of concepts, got 2\.0"),
        ({"n": True}, TypeError, "got True"),
        ({"n": 2, "layer": "network.map"}, ValueError, "did you mean 'network.maps'"),
        ({"n": 2, "layer": "network.head"}, ValueError, "no grid"),
        ({"n": 2, "layer": None}, TypeError, "layer must be"),
    ],
)
def test_errors_name_the_value_and_the_remedy(blocks, arguments, error, message):
    """What a user can get wrong is said in words."""
    with pytest.raises(error, match=message):
        concepts(mixed(), painted(blocks), **arguments)


def test_errors_of_model_images_and_activations(blocks):
    """A bare module, pictures of another kind, and activations without anything to factorise."""
    with pytest.raises(TypeError, match="create_model"):
        concepts(Mixed(), painted(blocks))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        concepts(mixed(), painted(blocks) + 1)
    with pytest.raises(ValueError, match="nowhere positive"):
        concepts(mixed(offset=-9.0), painted(blocks), n=2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        concepts(mixed(offset=float("nan")), painted(blocks), n=2)
