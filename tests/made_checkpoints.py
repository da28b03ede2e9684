"""A small trained network and its checkpoint, for the tests of files and of cards."""

import json
from pathlib import Path

import torch
from torch import nn

from lulc_lib.cards import card_text
from lulc_lib.config import History, RunConfig
from lulc_lib.models import TileClassifier, create_model
from lulc_lib.tiles import TrainedOn

CONFIG = RunConfig(model="test_resnet", epochs=2, sizes=((0, 32),), mixup=0.2)
HISTORY = History(
    epochs=({"epoch": 0, "val_loss": 1.5}, {"epoch": 1, "val_loss": float("nan")}),
    best_epoch=0,
    seconds=90.0,
    hardware="2 CPU cores",
)


def small_network() -> TileClassifier:
    """Return a network with lived-in BatchNorm statistics and known training tiles."""
    torch.manual_seed(0)
    model = create_model("test_resnet", image_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(1e-9, 2)  # 1e-9 is 0 in float16
            module.num_batches_tracked.fill_(70_000)  # more than float16 can hold
    names = ("River/River_2.jpg", "River/River_1.jpg", "Forest/Forest_3.jpg")
    model.trained_on = TrainedOn("eurosat", "d" * 64, "seed42/train", names)
    return model.eval()


def change_card(path: Path, **changes) -> None:
    """Change a card and its digest: a whole card of other content."""
    card = Path(f"{path}.json")
    card.write_text(card_text(json.loads(card.read_text()) | changes))
