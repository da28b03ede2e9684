"""Damage to files, drawn at random: what disks, crashes and broken copies do."""

import numpy as np


def damaged(content: bytes, seed: int) -> bytes:
    """Return content with a bit flipped, cut, extended, or with bytes taken out or put in."""
    rng = np.random.default_rng(seed)
    place = int(rng.integers(len(content)))
    some = rng.bytes(int(rng.integers(1, 20)))
    match int(rng.integers(5)):
        case 0 | 1:
            flipped = bytes([content[place] ^ (1 << int(rng.integers(8)))])
            return content[:place] + flipped + content[place + 1 :]
        case 2:
            return content[:place]
        case 3:
            return content + some
    return content[:place] + some + content[place + int(rng.integers(2)) * len(some) :]
