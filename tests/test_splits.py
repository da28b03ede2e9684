"""Splits: the earlier project's order, fixed digests, no overlap and no loss."""

import numpy as np
import pytest
import torch

from lulc_lib import eurosat as eurosat_room
from lulc_lib import splits
from lulc_lib.splits import SPLITS, SplitError, split
from lulc_lib.tiles import CLASSES, TileSet


def made(counts=(10,) * 10, source="drawn tiles", part="all") -> TileSet:
    """Return small tiles whose first pixel holds their position in the whole."""
    labels = np.repeat(np.arange(10), counts)
    names = tuple(
        f"{name}/{name}_{i}.jpg" for name, n in zip(CLASSES, counts, strict=True) for i in range(n)
    )
    images = torch.zeros((len(names), 3, 64, 64), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(names)) % 256
    return TileSet(images, torch.from_numpy(labels), names, source, "made", part)


def parts_of(result) -> dict[str, TileSet]:
    parts = {"train": result.train, "val": result.val, "test": result.test}
    return {name: part for name, part in parts.items() if part is not None}


def test_seed42_is_numpys_own_shuffle():
    """The order is that of np.random.seed(42); np.random.shuffle, cut at 60 % and 80 %."""
    data = made()
    np.random.seed(42)
    order = list(range(len(data)))
    np.random.shuffle(order)
    result = split(data, "seed42")
    assert result.train.names == tuple(data.names[i] for i in order[:60])
    assert result.val.names == tuple(data.names[i] for i in order[60:80])
    assert result.test.names == tuple(data.names[i] for i in order[80:])
    assert result.test.images[:, 0, 0, 0].tolist() == order[80:]
    assert result.test.labels.tolist() == [i // 10 for i in order[80:]]


def test_the_global_generator_is_left_alone():
    """Splitting does not move NumPy's or torch's global random state."""
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    torch_before = torch.get_rng_state()
    for name in ("seed42", "paper80"):
        split(made(), name)
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.mark.parametrize("name", ["seed42", "paper80"])
def test_any_tiles_are_split_without_overlap_or_loss(name):
    """The parts hold each tile exactly once, and the same ones each time."""
    data = made(counts=(3, 7, 10, 2, 30, 11, 5, 4, 9, 19))
    result = split(data, name)
    names = [tile for part in parts_of(result).values() for tile in part.names]
    assert sorted(names) == sorted(data.names)
    assert split(data, name).digest == result.digest
    assert split(data, name).train.names == result.train.names


def test_paper80_keeps_the_classes_in_proportion():
    """A fifth of each class, and no other validation part, is held for test."""
    counts = (10, 20, 30, 10, 15, 5, 2, 3, 100, 40)
    result = split(made(counts), "paper80")
    assert result.val is None
    assert list(result.test.class_counts().values()) == [2, 4, 6, 2, 3, 1, 1, 1, 20, 8]
    assert len(result.train) + len(result.test) == sum(counts)


def test_parts_say_what_they_are():
    """Part names and provenance travel with the parts."""
    data = made()
    result = split(data, "seed42")
    assert [part.part for part in parts_of(result).values()] == [
        "seed42/train",
        "seed42/val",
        "seed42/test",
    ]
    assert {part.digest for part in parts_of(result).values()} == {"made"}
    assert result.name == "seed42"
    assert repr(result) == "Split(seed42: train 60, val 20, test 20)"
    assert split(data[:50], "seed42").train.part == "all (subset): seed42/train"


def test_parts_do_not_share_memory():
    """Writing into a part leaves the whole and the other parts unchanged."""
    data = made()
    result = split(data, "seed42")
    result.train.images[:] = 9
    assert int(data.images[:, 1].max()) == 0
    assert int(result.test.images[:, 1].max()) == 0


def test_unknown_names_and_too_few_tiles():
    """The error lists the splits there are, or says what is too little."""
    with pytest.raises(SplitError, match="'random'; the splits are seed42, paper80, spatial"):
        split(made(), "random")
    with pytest.raises(SplitError, match="leaves train empty: 1 tiles are too few"):
        split(made((1,) + (0,) * 9), "seed42")
    with pytest.raises(SplitError, match="at least 2 tiles of each class, River has 1"):
        split(made((2,) * 8 + (1, 2)), "paper80")
    with pytest.raises(SplitError, match="are too few"):
        split(made((0,) * 10), "paper80")


@pytest.mark.parametrize("name", ["spatial", "aitlas"])
def test_public_lists_need_eurosat(name):
    """The two lists name EuroSAT's tiles: drawn ones are refused, with a word on what works."""
    with pytest.raises(SplitError, match=f"{name!r}.* needs load_eurosat.*drawn tiles.*'seed42'"):
        split(made(), name)


def fake_lists(monkeypatch, lists: dict[str, str]) -> None:
    monkeypatch.setattr(splits, "read_public_list", lambda name, digest: lists[name])


def spatial_lists(train, val, test) -> dict[str, str]:
    texts = {"train": train, "val": val, "test": test}
    return {
        f"eurosat-spatial-{part}.txt": "".join(f"River_{i}.jpg\n" for i in numbers)
        for part, numbers in texts.items()
    }


def test_lists_are_read_in_their_order(monkeypatch):
    """The parts hold the listed tiles in the order of the list, whatever the line ends."""
    data = made((0,) * 8 + (6, 0), source="eurosat (modified)")
    fake_lists(monkeypatch, spatial_lists([5, 0, 2], [1], [4, 3]))
    result = split(data, "spatial")
    assert result.train.names == ("River/River_5.jpg", "River/River_0.jpg", "River/River_2.jpg")
    assert result.test.names == ("River/River_4.jpg", "River/River_3.jpg")
    lines = {"train": [0, 1, 2], "val": [3], "test": [4, 5]}
    texts = {
        f"aitlas-{part}.csv": "".join(f"River/River_{i}.jpg,River\r\n" for i in numbers)
        for part, numbers in lines.items()
    }
    fake_lists(monkeypatch, texts)
    assert split(data, "aitlas").val.names == ("River/River_3.jpg",)


@pytest.mark.parametrize(
    ("lists", "finding"),
    [
        (([0, 1, 2], [2], [3, 4, 5]), r"1 tiles more than once, such as .*_2\.jpg \(train and val"),
        (([0, 1, 1], [2], [3, 4, 5]), r"1 tiles more than once, such as .*_1\.jpg \(train\)"),
        (([0, 1, 2], [3], [5]), r"1 tiles in no part, such as River/River_4\.jpg"),
        (([0, 1, 2], [], [3, 4, 5]), "leaves val empty"),
        (([0, 1, 2], [3], [4, 5, 6]), r"lists 1 test tiles that .* do not hold, .*River_6\.jpg"),
    ],
)
def test_overlap_and_loss_are_errors(monkeypatch, lists, finding):
    """A tile in two parts, twice in one, in none, or unknown: each is named."""
    fake_lists(monkeypatch, spatial_lists(*lists))
    with pytest.raises(SplitError, match=finding):
        split(made((0,) * 8 + (6, 0), source="eurosat"), "spatial")


def test_another_digest_on_the_original_is_an_error(monkeypatch):
    """Tiles that claim to be the original but give another split are refused."""
    data = made(source="eurosat")
    monkeypatch.setattr(splits, "MANIFEST_DIGEST", data.digest)
    with pytest.raises(SplitError, match="must have digest dee29e89"):
        split(data, "seed42")


@pytest.mark.eurosat
@pytest.mark.parametrize(("name", "sizes"), [
    ("seed42", (16_200, 5_400, 5_400)),
    ("paper80", (21_600, 5_400)),
    ("spatial", (16_200, 5_400, 5_400)),
    ("aitlas", (16_200, 5_400, 5_400)),
])  # fmt: skip
def test_splits_of_the_original(eurosat, name, sizes):
    """On the real data each split has its sizes and digest, without overlap or loss."""
    lists = name in ("spatial", "aitlas")
    if lists and not (eurosat_room.data_root().parent / "splits").is_dir():
        pytest.skip("the public lists are not beside the data: put them into splits/")
    positions = SPLITS[name].positions(eurosat)
    assert tuple(len(index) for index in positions.values()) == sizes
    splits._check_partition(positions, eurosat.names, name)
    assert splits._digest(positions, eurosat.names) == SPLITS[name].digest


@pytest.mark.eurosat
def test_seed42_of_the_original(eurosat):
    """The earlier project's lines, run as they were written, give the same tiles."""
    np.random.seed(42)
    indices = list(range(27000))
    np.random.shuffle(indices)
    result = split(eurosat, "seed42")
    assert result.digest == SPLITS["seed42"].digest
    for part, index in zip(
        parts_of(result).values(), np.split(np.array(indices), [16200, 21600]), strict=True
    ):
        assert part.names == tuple(eurosat.names[i] for i in index)
    assert torch.equal(result.test.images[0], eurosat.images[indices[21600]])
    assert torch.equal(result.test.labels, eurosat.labels[torch.tensor(indices[21600:])])
