"""Parts of sentences that several modules' messages share."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6) -> str:
    """Return a hint at the known names that are nearest to an unknown one.

    Args:
        name: what was asked for.
        known: the names that there are.
        count: how many to name, at most.
        cutoff: how like it they must be, in [0, 1], as in `difflib.get_close_matches`.

    Returns:
        "; did you mean 'vit' or 'vit_fine'?" with the nearest first, "" where none is near.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
