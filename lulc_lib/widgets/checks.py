"""What the explorer is given, checked before anything is drawn."""

from collections.abc import Mapping
from typing import Any

from lulc_lib.models import TileClassifier
from lulc_lib.predictions import Predictions, aligned
from lulc_lib.tiles import TileSet
from lulc_lib.widgets.state import ALL


def checked_models(models: Any) -> dict[str, TileClassifier]:
    """Return the models as a dict.

    Raises:
        TypeError: if they are no dict of models of ours.
        ValueError: if there is none, or one has a name that means something else.
    """
    if not isinstance(models, Mapping):
        raise TypeError(
            "models must be a dict of name -> model, such as {'resnet50': model}, "
            f"got {type(models).__name__}"
        )
    if not models:
        raise ValueError("there are no models to look at: pass {'resnet50': model}")
    for name, model in models.items():
        if not isinstance(model, TileClassifier):
            raise TypeError(
                f"model {name!r} must come from create_model or load_checkpoint, "
                f"got {type(model).__name__}; wrap a module with create_model(module, ...)"
            )
    if ALL in models:
        raise ValueError(f"a model cannot be called {ALL!r}, which means all of them; rename it")
    return dict(models)


def checked_tiles(tiles: Any) -> TileSet:
    """Return the tiles.

    Raises:
        TypeError: if they are no TileSet.
        ValueError: if there is none, or two have one name.
    """
    if not isinstance(tiles, TileSet):
        raise TypeError(
            f"tiles must be a TileSet, such as split(data, 'seed42').test, "
            f"got {type(tiles).__name__}"
        )
    if len(tiles) == 0:
        raise ValueError("there are no tiles to explore: the TileSet is empty")
    if len(set(tiles.names)) < len(tiles):
        raise ValueError("two tiles have one name: the explorer knows tiles by their names")
    return tiles


def matched(
    predictions: Any, models: Mapping[str, TileClassifier], tiles: TileSet
) -> dict[str, Predictions]:
    """Return the predictions of these very tiles, in their order.

    Raises:
        TypeError: if predictions are no dict of Predictions.
        ValueError: if they belong to no model or to other tiles.
    """
    if not isinstance(predictions, Mapping | None):
        raise TypeError(
            "predictions must be a dict of model name -> Predictions, "
            f"got {type(predictions).__name__}"
        )
    found = {}
    for name, given in (predictions or {}).items():
        if name not in models:
            raise ValueError(
                f"predictions of {name!r} belong to no model; those are {', '.join(models)}"
            )
        if not isinstance(given, Predictions):
            raise TypeError(
                f"predictions of {name!r} must be made by predict, got {type(given).__name__}"
            )
        found[name] = aligned(given, tiles, name)
    return found
