"""Tiles: what travels together stays together, and what is no image is refused."""

import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lulc_lib.drawn_tiles import plant, synthetic
from lulc_lib.explanations import explain
from lulc_lib.export import gallery_html
from lulc_lib.factors import concepts
from lulc_lib.faithfulness import (
    deletion,
    insertion,
    patch_falls,
    random_order,
    removal,
    remove,
    swap,
)
from lulc_lib.models import create_model
from lulc_lib.plots import figure_png, plot_gallery, plot_maps, plot_mask
from lulc_lib.predictions import predict
from lulc_lib.tiles import (
    CLASS_COLORS,
    CLASSES,
    TileSet,
    TrainedOn,
    as_images,
    class_index,
    class_indices,
    undivided,
)

N = 20


@pytest.fixture
def some() -> TileSet:
    """Twenty tiles, two of each class; the first pixel holds the position."""
    images = torch.zeros((N, 3, 64, 64), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(N)
    labels = torch.arange(N) // 2
    names = tuple(f"{CLASSES[i // 2]}/{CLASSES[i // 2]}_{i}.jpg" for i in range(N))
    masks = torch.zeros((N, 64, 64), dtype=torch.bool)
    masks[:, 0, 0] = torch.arange(N) % 2 == 0
    return TileSet(images, labels, names, "drawn tiles", "d1", masks=masks)


def test_classes_and_colours():
    """Ten classes in folder order, each with a colour of its own."""
    assert list(CLASSES) == sorted(CLASSES)
    assert list(CLASS_COLORS) == list(CLASSES)
    assert len(set(CLASS_COLORS.values())) == 10


@pytest.mark.parametrize(
    "which",
    [
        [3, 17, 3],
        (3, 17, 3),
        np.array([3, 17, 3]),
        torch.tensor([3, 17, 3]),
        [-17, -3, 3],
    ],
)
def test_selection_keeps_all_fields_together(some, which):
    """Images, labels, names and masks are taken by the same positions, in the order asked."""
    got = some[which]
    assert got.images[:, 0, 0, 0].tolist() == [3, 17, 3]
    assert got.labels.tolist() == [1, 8, 1]
    assert got.names == (some.names[3], some.names[17], some.names[3])
    assert got.masks[:, 0, 0].tolist() == [False, False, False]
    assert (got.source, got.digest, got.part) == ("drawn tiles", "d1", "all (subset)")


def test_slices_masks_and_single_tiles(some):
    """A slice, a mask (array, tensor or list) and one index all give a TileSet."""
    assert some[2:6].images[:, 0, 0, 0].tolist() == [2, 3, 4, 5]
    assert some[::-1].labels.tolist() == some.labels.flip(0).tolist()
    for mask in (some.labels == 4, (some.labels == 4).numpy(), (some.labels == 4).tolist()):
        assert some[mask].images[:, 0, 0, 0].tolist() == [8, 9]
    for index in (7, np.int64(7), torch.tensor(7)):
        assert len(some[index]) == 1
        assert some[index].names == (some.names[7],)
    assert len(some[[]]) == 0
    assert some[2:6][1:3].part == "all (subset)"
    with pytest.raises(IndexError):
        some[99]


def test_selection_copies(some):
    """Writing into a selection leaves the whole unchanged."""
    part = some[0:5]
    part.images[:] = 200
    assert int(some.images.max()) == N - 1


def test_select_names_the_part(some):
    """A split names its parts; a subset of a part says that it is one."""
    part = some.select([1, 2], part="seed42/val")
    assert part.part == "seed42/val"
    assert part[0].part == "seed42/val (subset)"
    assert repr(part) == "TileSet(2 tiles, drawn tiles, seed42/val)"


def test_classes_are_counted_and_taken_by_name(some):
    """Counts follow the labels; of_class takes exactly the tiles of one class."""
    assert some.class_counts() == dict.fromkeys(CLASSES, 2)
    assert some.of_class("River").labels.tolist() == [8, 8]
    with pytest.raises(ValueError, match="unknown class 'Lake'; the classes are AnnualCrop"):
        some.of_class("Lake")
    assert class_index("SeaLake") == class_index(9) == 9
    with pytest.raises(ValueError, match=r"0\.\.9, got 10"):
        class_index(10)
    assert class_index(np.int64(3)) == class_index(torch.tensor(3)) == 3
    for value in (True, np.True_, 2.7, None):
        with pytest.raises(TypeError, match="by its name or index, got"):
            class_index(value)


def test_classes_of_several_tiles_by_name_and_index():
    """One for all or one for each, of any kind that holds names or whole numbers."""
    for one in (8, "River", np.int64(8), np.array(8), torch.tensor(8)):
        assert class_indices(one, 2).tolist() == [8, 8]
    for each in ([8, "Forest"], ("River", 1), np.array(["River", "Forest"]), torch.tensor([8, 1])):
        assert class_indices(each, 2).tolist() == [8, 1]
    for wrong in (None, 2.0, True, np.array([1.0, 2.0]), [1, None]):
        with pytest.raises(TypeError, match="target must be None, a class index, a class name"):
            class_indices(wrong, 2)
    with pytest.raises(ValueError, match=r"one for each of the 2 tiles, got shape \(3,\)"):
        class_indices([1, 2, 3], 2)


def test_balanced_takes_the_first_of_each_class(tiles):
    """A balanced part holds equally many tiles of each class; a small set is kept whole."""
    few = tiles.balanced(20)
    assert set(few.class_counts().values()) == {2}
    assert few.of_class("River").names == tiles.of_class("River").names[:2]
    assert tiles.balanced(60) is tiles
    assert len(tiles.balanced(3)) == 10
    two = tiles[np.flatnonzero(tiles.labels.numpy() < 2)]
    assert np.bincount(two.balanced(9).labels).tolist() == [4, 4], "of the classes that there are"


def test_float_is_a_255th(some):
    """Floats lie in [0, 1] and are the bytes over 255, exactly."""
    some.images[0] = 255
    images = some.float([0, 5])
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 64, 64)
    assert float(images[0].min()) == 1
    assert float(images[1, 0, 0, 0]) == pytest.approx(5 / 255, abs=1e-8)
    assert int(some.images[5, 0, 0, 0]) == 5
    assert some.float().shape == (N, 3, 64, 64)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"images": torch.zeros((N, 3, 64, 64))}, "uint8 .* got torch.float32"),
        ({"images": torch.zeros((N, 3, 32, 32), dtype=torch.uint8)}, "64, 64.* got .*32, 32"),
        ({"names": ("a",)}, "to go with 1 names"),
        ({"labels": torch.zeros(N)}, "labels must be int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"got torch\.int64 \(3,\)"),
        ({"labels": torch.full((N,), 10)}, r"0\.\.9, got 10\.\.10"),
        ({"labels": torch.full((N,), -1)}, r"0\.\.9, got -1\.\.-1"),
        ({"masks": torch.zeros((N, 64, 64))}, "masks must be bool"),
        ({"masks": torch.zeros((1, 64, 64), dtype=torch.bool)}, "masks must be bool"),
    ],
)
def test_fields_that_do_not_fit_are_refused(some, change, finding):
    """Shapes, dtypes and lengths are checked when tiles are made."""
    fields = {
        "images": some.images,
        "labels": some.labels,
        "names": some.names,
        "source": "s",
        "digest": "d",
    }
    with pytest.raises(ValueError, match=finding):
        TileSet(**fields | change)


@pytest.mark.parametrize(
    ("change", "error", "finding"),
    [
        (
            {"images": np.zeros((1, 3, 64, 64), np.uint8)},
            TypeError,
            "images must be a tensor, got nd",
        ),
        ({"labels": [3]}, TypeError, "labels must be a tensor, got list"),
        ({"labels": torch.tensor([3], device="meta")}, TypeError, "labels lie on meta"),
        ({"names": (7,)}, TypeError, "names must be text, number 0 is 7"),
        ({"names": ("a\nb.jpg",)}, ValueError, r"name of tile 0, 'a\\nb\.jpg', cannot"),
        ({"names": ("a\udcff.jpg",)}, ValueError, r"name of tile 0, 'a\\udcff\.jpg'"),
        ({"names": ("a\x1b[2J.jpg",)}, ValueError, r"name of tile 0, 'a\\x1b\[2J\.jpg'"),
    ],
)
def test_what_no_card_could_hold_is_refused_when_tiles_are_made(change, error, finding):
    """Arrays in place of tensors, and names that are no line of UTF-8, are named at once."""
    fields = {
        "images": torch.zeros((1, 3, 64, 64), dtype=torch.uint8),
        "labels": torch.tensor([3]),
        "names": ("a.jpg",),
        "source": "s",
        "digest": "d",
    }
    with pytest.raises(error, match=finding):
        TileSet(**fields | change)
    names = ("Zürich/$1 & <2>\N{NO-BREAK SPACE}.jpg",)
    assert TileSet(**fields | {"names": names}).names == names


def test_training_tiles_are_recognised(some):
    """Tiles a model was trained on are known by name; drawn ones by their digest too."""
    trained = some[0:5].provenance()
    assert trained.contains(some).tolist() == [True] * 5 + [False] * 15
    other = TileSet(some.images, some.labels, some.names, "drawn tiles", "another seed")
    assert not trained.contains(other).any()
    real = TileSet(some.images, some.labels, some.names, "eurosat", "e1")
    assert not trained.contains(real).any()
    copy = TrainedOn("eurosat (modified)", "e2", "all", some.names[:5])
    assert copy.contains(real).sum() == 5


def test_drawn_tiles_of_one_seed_are_the_same_however_many():
    """A model that learnt from more of them, or with a cue, has learnt from fewer as well."""
    few, many = synthetic(2, seed=0), synthetic(4, seed=0)
    known = many.provenance()
    assert known.contains(few).all()
    assert known.contains(plant(few, seed=3)).all()
    assert plant(many, seed=3).provenance().contains(few).all()
    assert few.provenance().contains(many).sum() == len(few)
    assert not known.contains(synthetic(2, seed=1)).any()
    assert not known.contains(plant(synthetic(2, seed=1), seed=3)).any()
    assert set(few.provenance().after(known).names) == {*many.names}
    cued = plant(few, seed=3)
    older = replace(cued.provenance(), digest=cued.digest[cued.digest.find("planted-") :])
    assert older.contains(cued).all(), "as cards of earlier versions say it"
    assert synthetic(2, seed=1).provenance().after(known).names == few.names


@pytest.mark.parametrize(
    ("part", "whole", "split_name", "role"),
    [
        ("seed42/train", "seed42/train", "seed42", "train"),
        ("seed42/val (subset)", "seed42/val", "seed42", "val"),
        ("seed42/train and spatial/train", "seed42/train and spatial/train", "seed42", "train"),
        ("all (subset)", "all", "", ""),
        ("train", "train", "", ""),
        ("", "", "", ""),
    ],
)
def test_parts_say_their_split_and_their_role(part, whole, split_name, role):
    """What a part is of and for is read in one place, for tiles and for what a card says."""
    known = TrainedOn("eurosat", "e1", part, ("a",))
    assert (known.whole_part, known.split_name, known.role) == (whole, split_name, role)


def test_sources_are_told_by_the_whole_word(some):
    """A source that only holds the word "drawn" or begins with "eurosat" is another source."""
    kinds = ("drawn", "original", "from_eurosat")
    for source, expected in (
        ("drawn tiles", (True, False, False)),
        ("eurosat", (False, True, True)),
        ("eurosat (modified)", (False, False, True)),
        ("withdrawn plots", (False, False, False)),
        ("eurosat of my own", (False, False, False)),
    ):
        tiles = TileSet(some.images, some.labels, some.names, source, "d")
        for given in (tiles, tiles.provenance()):
            assert tuple(getattr(given, kind) for kind in kinds) == expected
    learnt = TrainedOn("withdrawn plots", "another", "all", some.names[:5])
    assert learnt.contains(replace(tiles, source="withdrawn plots")).sum() == 5


def test_no_other_module_takes_the_words_apart():
    """Sources and parts are told by these properties, and by no search in their words."""
    package = Path(__file__).parents[1] / "lulc_lib"
    search = r'"drawn" in |source\.startswith|[!=]= "eurosat"|endswith\("/t|" \(subset\)"'
    found = [p.name for p in package.rglob("*.py") if re.search(search, p.read_text())]
    assert found == ["tiles.py"]


def test_trained_on_remembers_what_came_before():
    """EuroSAT's tiles are never forgotten; of drawn tiles the later seed's are kept."""
    first = TrainedOn("eurosat", "e1", "seed42/train", ("a", "b"))
    other = TrainedOn("eurosat", "e1", "spatial/train", ("b", "c"))
    assert other.after(None) == other
    both = other.after(first)
    assert both.names == ("a", "b", "c")
    assert both.part == "seed42/train and spatial/train"
    some = replace(first, part="seed42/train (subset)", names=("a",))
    assert some.after(first).part == "seed42/train"
    assert some.after(first).names == ("a", "b")
    assert first.after(some) == first
    drawn = TrainedOn("drawn tiles", "d1", "all", ("x",))
    assert drawn.after(replace(drawn, digest="d2", names=("y",))) == drawn
    assert first.after(drawn) == first
    assert drawn.after(first) == first


def test_as_images_takes_three_kinds(some):
    """A TileSet, bytes and floats, tensors or arrays, one or many, give the same images."""
    expected = some.float()
    for given in (some, some.images, some.images.numpy(), expected, expected.numpy()):
        images = as_images(given)
        assert images.dtype == torch.float32
        assert torch.equal(images, expected)
    assert torch.equal(as_images(some.images[4]), expected[4:5])


def _protected(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "given",
    [
        lambda a: a.astype(">f4"),
        lambda a: np.ascontiguousarray(a[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
        lambda a: np.asfortranarray(a),
        _protected,
        lambda a: torch.from_numpy(a).requires_grad_(),
        lambda a: torch.from_numpy(a).to(memory_format=torch.channels_last),
        list,
        lambda a: tuple(torch.from_numpy(a)),
        lambda a: [np.asarray(image, dtype=">f4") for image in a],
    ],
    ids=[
        "big-endian",
        "negative",
        "fortran",
        "read-only",
        "grad",
        "last",
        "list",
        "tuple",
        "mixed",
    ],
)
def test_representation_is_no_part_of_the_value(some, given):
    """Byte order, strides, protection, gradients and lists: the same images, and no warning."""
    expected = some.float()
    images = as_images(given(expected.numpy()))
    assert torch.equal(images, expected)
    assert not images.requires_grad


@pytest.fixture(scope="module")
def model():
    """A network of two layers, which every function can run in a moment."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 10, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(10, 10),
    )  # fmt: skip
    return create_model(network, image_size=64, mean=(0, 0, 0), std=(1, 1, 1))


MASK = np.zeros((64, 64), dtype=bool)
FUNCTIONS = {
    "predict": lambda model, image: predict(model, image).logits,
    "explain": lambda model, image: explain(model, image, "gradcam").grid,
    "remove": lambda model, image: remove(image, ~MASK & (np.arange(64) < 9)),
    "swap": lambda model, image: swap(image, image, MASK),
    "deletion": lambda model, image: (
        deletion(model, image, random_order(1), 0, fill="mean", steps=1).probability
    ),
    "insertion": lambda model, image: (
        insertion(model, image, random_order(1), 0, fill="mean", steps=1).probability
    ),
    "removal": lambda model, image: removal(model, image, np.arange(4096).reshape(1, 64, 64), 0),
    "patch_falls": lambda model, image: patch_falls(model, image, 0, side=2),
    "concepts": lambda model, image: concepts(model, image, 1).grids,
    "plot_gallery": lambda model, image: figure_png(
        plot_gallery(image, {"m": explain(model, np.zeros((1, 3, 64, 64), np.uint8))}), dpi=30
    ),
    "plot_maps": lambda model, image: figure_png(
        plot_maps(image, {"m": np.ones((1, 2, 2))}), dpi=30
    ),
    "plot_mask": lambda model, image: figure_png(plot_mask(image, MASK).figure, dpi=30),
    "gallery_html": lambda model, image: gallery_html(
        image, {"m": explain(model, np.zeros((1, 3, 64, 64), np.uint8))}, "page.html"
    ).read_bytes(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_the_same_images(some, model, name, tmp_path, monkeypatch):
    """What one function takes, all take, with the same result; what one refuses, all refuse."""
    monkeypatch.chdir(tmp_path)
    run, one = FUNCTIONS[name], some.images[4].numpy()
    picture = Image.fromarray(one.transpose(1, 2, 0))
    expected = np.asarray(run(model, one))
    odd = np.ascontiguousarray((one / np.float32(255))[:, ::-1]).astype(">f4")[:, ::-1]
    for given in (one[None], picture, [picture], odd, torch.from_numpy(one / np.float32(255))):
        assert np.array_equal(np.asarray(run(model, given)), expected)
    with pytest.raises(TypeError, match=r"got float64; .*\.astype\(np\.float32\)"):
        run(model, one / 255)
    with pytest.raises(TypeError, match="got int16"):
        run(model, one.astype(np.int16))
    with pytest.raises(ValueError, match="moveaxis"):
        run(model, one.transpose(1, 2, 0))
    with pytest.raises(TypeError, match="got str"):
        run(model, "a.png")
    plt.close("all")


def test_pillow_images_are_taken_alone_and_in_lists(some):
    """A Pillow image in RGB of the tile's size is an image; uint8 stays undivided."""
    pictures = [Image.fromarray(tile.permute(1, 2, 0).numpy()) for tile in some.images]
    assert torch.equal(undivided(pictures), some.images)
    assert torch.equal(undivided(pictures[4]), some.images[4:5])
    with pytest.raises(TypeError, match=r"mode RGB, got L; .*convert\('RGB'\)"):
        undivided(pictures[0].convert("L"))
    with pytest.raises(ValueError, match=r"64, 64\), got \(1, 3, 32, 32\)"):
        undivided(pictures[0].resize((32, 32)))


@pytest.mark.parametrize(
    ("given", "error", "finding"),
    [
        (torch.zeros((1, 3, 64, 64), dtype=torch.bfloat16), TypeError, r"bfloat16.*\.float\(\)"),
        (np.zeros((1, 3, 64, 64)), TypeError, r"float64; .*\.astype\(np\.float32\)"),
        (
            np.zeros((1, 3, 64, 64), np.uint16),
            TypeError,
            "uint16; divide by the number that is white",
        ),
        (np.zeros((1, 3, 64, 64), object), TypeError, "got object"),
        (torch.zeros((1, 3, 64, 64), device="meta"), TypeError, "meta"),
        (torch.zeros((1, 3, 64, 64)).to_sparse(), TypeError, "sparse"),
        (np.ma.masked_less(np.zeros((1, 3, 64, 64), np.float32), 1), TypeError, "masked"),
        (None, TypeError, "got NoneType"),
        ("a.png", TypeError, r"got str; a file is read by .*open_picture"),
        ([], ValueError, "the list is empty"),
        ([["a"]], TypeError, "got list"),
        ([torch.zeros((1, 3, 64, 64))], ValueError, r"number 0 has shape \(1, 3, 64, 64\)"),
        (
            [torch.zeros((3, 64, 64)), torch.zeros((3, 64, 64), dtype=torch.uint8)],
            ValueError,
            "number 0 is torch.float32 .* number 1 torch.uint8",
        ),
        (np.zeros((64, 64, 3), np.uint8), ValueError, r"np\.moveaxis\(images, -1, -3\)"),
        (torch.zeros((1, 3, 64, 64), dtype=torch.float64), TypeError, "float64"),
        (np.zeros((1, 3, 64, 64), np.int64), TypeError, "int64"),
        (torch.zeros((1, 3, 64, 64), dtype=torch.float16), TypeError, "float16"),
        (torch.zeros((1, 64, 64, 3)), ValueError, r"got \(1, 64, 64, 3\)"),
        (torch.zeros((64, 64)), ValueError, r"got \(64, 64\)"),
        (torch.zeros((0, 3, 64, 64)), ValueError, "empty"),
        (torch.full((1, 3, 64, 64), torch.nan), ValueError, "NaN"),
        (torch.full((1, 3, 64, 64), torch.inf), ValueError, "NaN or infinite"),
        (torch.full((1, 3, 64, 64), 255.0), ValueError, r"\[255, 255\].*divide 0\.\.255 by 255"),
        (torch.full((1, 3, 64, 64), -0.5), ValueError, r"\[-0\.5, -0\.5\].*do not normalise"),
    ],
)
def test_as_images_names_what_is_wrong(given, error, finding):
    """Any other dtype, shape or range is an error that gives the value met."""
    with pytest.raises(error, match=finding):
        as_images(given)
