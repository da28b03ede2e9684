"""What can be said of a tile without looking at its shapes: a colour-only baseline."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lulc_lib.predictions import Predictions
from lulc_lib.tiles import TileSet


def colour_features(tiles: TileSet) -> np.ndarray:
    """Return mean and standard deviation of each channel of each tile, float32 (N, 6), in [0, 1].

    The order is mean R, G, B, then deviation R, G, B. Where a pixel lies does not matter: a tile
    whose pixels are shuffled has the same features.
    """
    if len(tiles) == 0:
        return np.zeros((0, 6), dtype=np.float32)
    pixels = tiles.images.flatten(2)  # (N, 3, 4096)
    parts = [chunk.float().div_(255) for chunk in pixels.split(2048)]
    means = [part.mean(2) for part in parts]
    deviations = [part.std(2, correction=0) for part in parts]
    rows = [np.concatenate([m, d], axis=1) for m, d in zip(means, deviations, strict=True)]
    return np.concatenate(rows)


def colour_baseline(train: TileSet, test: TileSet) -> Predictions:
    """Classify tiles by their colours alone, with multinomial logistic regression.

    A network that reaches no more need not have learnt any texture or shape. What it reaches above
    may be those, or a better use of colour (benchmarks/colour_floors.py).

    Args:
        train: tiles to learn from; every class must occur.
        test: tiles to predict.

    Returns:
        Predictions whose logits are the logarithms of the probabilities.

    Raises:
        ValueError: if a class is missing among the training tiles, or one set has no tiles.
    """
    missing = [name for name, count in train.class_counts().items() if count == 0]
    if missing:
        raise ValueError(f"train holds no tile of {', '.join(missing)}; every class must occur")
    if len(test) == 0:
        raise ValueError("test holds no tiles")
    seen, asked = (colour_features(tiles).astype(np.float64) for tiles in (train, test))
    # Few features: Newton's steps are fast, and end at the same borders on every processor.
    classifier = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    classifier.fit(seen, train.labels.numpy())
    logits = classifier.predict_log_proba(asked)
    return Predictions(
        logits=np.maximum(logits, -100).astype(np.float32),
        labels=test.labels.numpy(),
        names=test.names,
        source=test.source,
        digest=test.digest,
        part=test.part,
        model="colour baseline",
        seen=train.provenance().contains(test),
    )
