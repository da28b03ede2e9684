"""Tiles and models to begin with."""

from dataclasses import replace

import pytest
import torch
from damage import damaged

from lulc_lib import quickstart
from lulc_lib.checkpoints import save_checkpoint
from lulc_lib.metrics import evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import predict
from lulc_lib.quickstart import fitting_checkpoint, load_tiles, ready_model
from lulc_lib.splits import split
from lulc_lib.storage import CacheWarning, cache_dir


@pytest.fixture
def parts(tiles):
    """Sixty drawn tiles, split."""
    return split(tiles, "seed42")


def test_smoke_means_drawn_tiles(monkeypatch):
    """LULC_SMOKE=1 gives drawn tiles, also where EuroSAT is."""
    monkeypatch.setenv("LULC_SMOKE", "1")
    monkeypatch.setenv("LULC_EUROSAT", "does-not-matter")
    assert load_tiles().source == "drawn tiles"
    for off in ("", "0"):
        monkeypatch.setenv("LULC_SMOKE", off)
        assert not quickstart.is_smoke()


def test_without_smoke_a_wrong_path_is_an_error(monkeypatch):
    """A path that does not exist is never replaced by something else."""
    monkeypatch.delenv("LULC_SMOKE", raising=False)
    monkeypatch.setenv("LULC_EUROSAT", "does-not-exist")
    with pytest.raises((OSError, ValueError), match="does-not-exist"):
        load_tiles(download=False)


@pytest.mark.training
@pytest.mark.parametrize("name", ["resnet50", "vit"])
def test_a_small_model_is_trained_once_and_kept(name, parts):
    """Without a fitting checkpoint a small model is trained; the second time it is loaded."""
    model = ready_model(name, parts, epochs=1)
    assert set(model.trained_on.names) == set(parts.train.names)
    again = ready_model(name, parts, epochs=1)
    assert again.card == model.card
    assert len(model.card.history["epochs"]) == 1
    a, b = predict(model, parts.test), predict(again, parts.test)
    assert (a.logits == b.logits).all()
    with pytest.raises(ValueError, match="train"):
        evaluate(predict(again, parts.train))


def test_a_checkpoint_is_taken_where_its_card_fits(parts, tmp_path, monkeypatch):
    """A shipped model is used for the data set on its card, and for no other."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    model.trained_on = parts.train.provenance()
    save_checkpoint(model, None, tmp_path / "vit")
    monkeypatch.setenv("LULC_CHECKPOINTS", str(tmp_path))
    assert fitting_checkpoint("vit", parts) is not None
    assert ready_model("vit", parts).name == "vit"
    other = replace(parts, train=replace(parts.train, digest="another"))
    assert fitting_checkpoint("vit", other) is None
    assert fitting_checkpoint("resnet50", parts) is None


def test_a_split_never_gets_the_model_of_another(parts, tiles, tmp_path, monkeypatch):
    """A model that learnt test tiles of a split is not that split's; NAME_SPLIT comes first."""
    torch.manual_seed(0)
    model = create_model("vit", depth=1, embed_dim=24, num_heads=2)
    model.trained_on = parts.train.provenance()
    save_checkpoint(model, None, tmp_path / "vit")
    monkeypatch.setenv("LULC_CHECKPOINTS", str(tmp_path))
    other = split(tiles, "paper80")
    assert fitting_checkpoint("vit", other) is None
    model.trained_on = other.train.provenance()
    save_checkpoint(model, None, tmp_path / "vit_paper80")
    assert fitting_checkpoint("vit", other).card.name == "vit_paper80"
    assert fitting_checkpoint("vit", parts).card.name == "vit"


@pytest.mark.training
def test_without_a_cache_the_small_model_is_made_each_time(parts, tmp_path, monkeypatch):
    """Where it cannot be kept it is returned all the same; a damaged one is trained again."""
    ready_model("vit", parts, epochs=1)
    (weights,) = (cache_dir() / "quickstart").glob("*.safetensors")
    weights.write_bytes(damaged(weights.read_bytes(), seed=0))
    with pytest.warns(CacheWarning, match="made anew"):
        ready_model("vit", parts, epochs=1)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("LULC_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match="the small model vit could not be kept"):
        model = ready_model("vit", parts, epochs=1)
    assert set(model.trained_on.names) == set(parts.train.names)
    assert len(predict(model, parts.test)) == len(parts.test)


@pytest.mark.training
def test_small_models_are_kept_by_split(parts, tiles):
    """The small model of one split is not taken for another split of the same tiles."""
    one, other = (
        ready_model("vit", parts, epochs=1),
        ready_model("vit", split(tiles, "paper80"), epochs=1),
    )
    assert set(one.trained_on.names) != set(other.trained_on.names)


def test_unknown_names_are_named(parts):
    """There are ready models for two names."""
    with pytest.raises(ValueError, match="resnet50 and vit, not for 'alexnet'"):
        ready_model("alexnet", parts)
