"""Parts of sentences that several modules' messages share."""

import difflib
import re
from collections.abc import Iterable


def did_you_mean(
    name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6, otherwise: str = ""
) -> str:
    """Return a hint at the known names that are nearest to an unknown one.

    Args:
        name: what was asked for.
        known: the names that there are.
        count: how many to name, at most.
        cutoff: how like it they must be, in [0, 1], as in `difflib.get_close_matches`.
        otherwise: what to return where none is near, such as "." before another sentence.

    Returns:
        "; did you mean 'vit' or 'vit_fine'?" with the nearest first, or `otherwise`.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else otherwise


# Of the only list of blocks, such as a ViT's: a number before, or after, tells stages apart.
_BLOCK = re.compile(r"^(?:[^\d.]+\.)*blocks\.(\d+)(?:\.(\D.*))?$")
_STAGE = re.compile(r"(?:^|\.)layer(\d+)(?:\.|$)")  # of torchvision's and timm's ResNets


def layer_in_words(name: str) -> str:
    """Say in words which layer a dotted name is, as far as the name tells.

    Args:
        name: as in `model.named_modules()`, such as "network.blocks.5.norm1".

    Returns:
        "block 6, first norm" for that; "output of block 6", "stage 4" (of a ResNet's `layer4`);
        "layer NAME" for a name that follows no such habit.
    """
    if found := _BLOCK.search(name):
        number, part = int(found[1]) + 1, found[2]
        if not part:
            return f"output of block {number}"
        return f"block {number}, {'first norm' if part == 'norm1' else part}"
    if found := _STAGE.search(name):
        return f"stage {found[1]}"
    return f"layer {name}"
