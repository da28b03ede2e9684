"""Drawn tiles of the ten classes, each with the mask of its evidence.

They stand in for EuroSAT where there is no data and no network, and they are ground truth for
explanations: we know which pixels make a drawn tile a River, because we painted them.

A tile is painted as float64 (64, 64, 3) in [0, 1], 10 m to the pixel. The four classes that are a
thing in the land (Highway, Industrial, Residential, River) lie in the same kind of `_countryside`;
their mask is that thing, and outside it lie only fields, woods, hedges and gardens.
The six others are their own evidence everywhere: their mask is the whole tile.

Double precision keeps last-bit differences between machines from reaching the 8-bit tiles.

Brushes come first, then one painter per class. The palettes were read off EuroSAT's tiles. Last
comes `plant`, which puts a cue of known place into tiles, so that it is known what a network
trained on them looks at.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from lulc_lib.storage import digest_arrays
from lulc_lib.tiles import CLASSES, DRAWN, EUROSAT_MODIFIED, TILE_SIZE, TileSet

Rng = np.random.Generator
Painting = tuple[np.ndarray, np.ndarray]  # canvas float64 (64, 64, 3), evidence bool (64, 64)

SHAPE = (TILE_SIZE, TILE_SIZE)
Y, X = np.mgrid[:TILE_SIZE, :TILE_SIZE] - (TILE_SIZE - 1) / 2
REACH = 46.0  # px from the middle of a tile to beyond its corner
EVERYWHERE = np.ones(SHAPE, dtype=bool)
# What the air alone adds to every pixel; shade and light change only what comes from the ground.
AIR = np.array((0.06, 0.14, 0.20))


def _palette(colours: str) -> np.ndarray:
    """Return colours (n, 3) in [0, 1] from their hexadecimal names."""
    return np.array([[*bytes.fromhex(name)] for name in colours.split()]) / 255


SOIL = _palette("cfa396 b28c85 947a78 736163 b88066 e0bdad")
CROP = _palette("4c615e 334c52 215e4a 5c5e61")
MEADOW = _palette("335452 26524a 3d5e54 426359")
WOOD = _palette("26404a 213b47 213842 264a45")
SCRUB = _palette("304047 424f4f 4c5452")
DRY = _palette("6b6661 85756e 615e61 9e8a80")
WATER = _palette("1f2e47 1f384f 2b4757 3d595e 4c6e6e 5c7375")
STREET = _palette("75737d 616370 8f8587")
ROOF = _palette("94615c 7a696b 666b78 998c8f ccb5ad")
HALL = _palette("fffafa e6e0e6 b2b2bf 666e80 997370")


# --- Brushes: coordinates, noise, edges, parcels, boxes, lines -----------------------------------


@functools.cache
def _spline(cell: int) -> np.ndarray:
    """Return weights (64, n) that spread a lattice of one node per `cell` px, variance kept."""
    nodes = np.arange(TILE_SIZE // cell + 4)
    t = np.abs(np.arange(TILE_SIZE)[:, None] / cell + 1 - nodes)
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
    return weights / np.sqrt((weights**2).sum(1, keepdims=True))


def _noise(rng: Rng, *cells: int) -> np.ndarray:
    """Return smooth noise (64, 64) of mean 0 and deviation 1; coarser cells weigh more."""
    total = np.zeros(SHAPE)
    for cell in cells:
        spline = _spline(cell)
        lattice = rng.standard_normal((spline.shape[1],) * 2)
        total += (spline @ lattice @ spline.T) * np.sqrt(cell)
    return total / np.sqrt(sum(cells))


def _turned(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (64, 64) along and across a direction, 0 in the middle of the tile."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * X + sin * Y, cos * Y - sin * X


def _inside(distance: np.ndarray) -> np.ndarray:
    """Return the share of each pixel that is covered, from its signed distance to the edge."""
    return np.clip(0.5 - distance, 0, 1)


def _paint(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Lay a colour (3,) or (64, 64, 3) over the canvas where `cover` (64, 64) says."""
    canvas += cover[..., None] * (colour - canvas)


def _mottle(canvas: np.ndarray, pattern: np.ndarray) -> None:
    """Make the ground lighter or darker by a relative pattern (64, 64)."""
    canvas += pattern[..., None] * (canvas - AIR)


def _pick(rng: Rng, palette: np.ndarray, count: int | None = None) -> np.ndarray:
    """Draw one colour (3,), or `count` of them, from a palette, each a little its own."""
    colours = palette[rng.integers(len(palette), size=count)]
    brightness = rng.normal(1, 0.1, size=(*colours.shape[:-1], 1))
    return _lit(colours + rng.normal(0, 0.007, colours.shape), brightness)


def _lit(colour: np.ndarray, brightness: float | np.ndarray) -> np.ndarray:
    """Return a colour under more light (above 1) or less."""
    return AIR + (colour - AIR) * brightness


def _soften(canvas: np.ndarray, amount: float | np.ndarray) -> None:
    """Mix each pixel with its four neighbours; `amount` 0..1 is one number or (64, 64, 1)."""
    padded = np.pad(canvas, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    canvas += amount * (around / 4 - canvas)


class _Parcels(NamedTuple):
    """Land divided into parcels: number of each pixel's parcel, px to the border, directions."""

    label: np.ndarray
    count: int
    border: np.ndarray
    along: np.ndarray
    across: np.ndarray


def _parcels(rng: Rng, size: float, slimness: float = 1.0, bend: float = 1.5) -> _Parcels:
    """Divide the tile by straight cuts, again and again, until parcels are about `size` px wide."""
    position = [side + bend * _noise(rng, 32) for side in _turned(rng.uniform(0, np.pi))]
    label, border = np.zeros(SHAPE, dtype=np.int64), np.full(SHAPE, REACH)
    pending, count = [(EVERYWHERE, ((-REACH, REACH), (-REACH, REACH)))], 0
    while pending:
        region, box = pending.pop()
        length, width = (box[0][1] - box[0][0]) / slimness, box[1][1] - box[1][0]
        if max(length, width) < size * rng.uniform(1.1, 1.7):
            label[region], count = count, count + 1
            continue
        axis = int(width > length)
        low, high = box[axis]
        cut = low + (high - low) * rng.uniform(0.35, 0.65)
        offset = position[axis] - cut
        np.minimum(border, np.abs(offset), out=border, where=region)
        for half, span in ((offset < 0, (low, cut)), (offset >= 0, (cut, high))):
            if (region & half).any():
                pending.append((region & half, (box[0], span) if axis else (span, box[1])))
    return _Parcels(label, count, border, *position)


def _rows(rng: Rng, land: _Parcels, periods: tuple[float, float]) -> np.ndarray:
    """Return waves (64, 64) in [-1, 1], for each parcel of its own period and direction."""
    lengthwise = rng.random(land.count) < 0.7
    period = rng.uniform(*periods, land.count)[land.label]
    position = np.where(lengthwise[land.label], land.across, land.along)
    return np.sin((2 * np.pi) * position / period)


def _boxes(
    rng: Rng,
    position: tuple[np.ndarray, np.ndarray],
    pitch: tuple[float, float],
    fill: tuple[float, float],
    share: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Put at most one rectangle into each cell of a lattice.

    Args:
        rng: source of chance.
        position: coordinates (64, 64) along both sides of the lattice.
        pitch: sides of a cell in px.
        fill: least and greatest side of a rectangle as a share of its cell.
        share: share of the cells that hold a rectangle.

    Returns:
        Cover (64, 64) in [0, 1], and the number of each pixel's cell in 0..4095.
    """
    numbers = [np.floor(c / step).astype(np.int64) for c, step in zip(position, pitch, strict=True)]
    cell = (numbers[0] + 32) * 64 + numbers[1] + 32
    distance = np.full(SHAPE, -REACH)
    for coordinate, number, step in zip(position, numbers, pitch, strict=True):
        side = step * rng.uniform(*fill, 4096)
        shift = (step - side) / 2 * rng.uniform(-1, 1, 4096)
        middle = step * (number + 0.5) + shift[cell]
        np.maximum(distance, np.abs(coordinate - middle) - side[cell] / 2, out=distance)
    return _inside(distance) * (rng.random(4096) < share)[cell], cell


def _grid(coordinate: np.ndarray, pitch: float) -> np.ndarray:
    """Return the distance (64, 64) in px to the nearest of parallel lines `pitch` px apart."""
    return np.abs(coordinate - pitch * np.round(coordinate / pitch))


def _winding(rng: Rng, swing: float, wave: float) -> np.ndarray:
    """Return the distance (64, 64) in px to a line that winds across the tile, < 0 on one side."""
    along, across = _turned(rng.uniform(0, 2 * np.pi))
    phase = 2 * np.pi * along / wave + rng.uniform(0, 2 * np.pi)
    slope = (2 * np.pi * swing / wave) * np.cos(phase)
    offset = across - swing * np.sin(phase) - rng.uniform(-10, 10)
    return offset / np.sqrt(1 + slope**2)


# --- Land that several classes share -------------------------------------------------------------


def _ground(rng: Rng, colour: np.ndarray, strength: float, *cells: int) -> np.ndarray:
    """Return a canvas of one colour (3,) or (64, 64, 3), mottled by noise."""
    canvas = np.empty((*SHAPE, 3))
    canvas[:] = colour
    _mottle(canvas, strength * _noise(rng, *cells))
    return canvas


def _fields(rng: Rng, land: _Parcels, colours: np.ndarray, rows: float) -> np.ndarray:
    """Paint parcels in their colours (count, 3), with the lines of the machines upon them."""
    canvas = _ground(rng, colours[land.label], 0.06, 32, 16, 3)
    _soften(canvas, 0.8 * _inside(land.border - 0.4)[..., None])
    strength = (rows * rng.random(land.count))[land.label]
    _mottle(canvas, strength * _rows(rng, land, (2.6, 4.4)))
    return canvas


def _canopy(rng: Rng) -> np.ndarray:
    """Paint tree crowns seen from above: fine grain, lit from one side."""
    canvas = _ground(rng, _pick(rng, WOOD), 0.08, 32, 12)
    crowns = _noise(rng, 2)
    _mottle(canvas, 0.15 * crowns + 0.1 * (crowns - np.roll(crowns, 1, (0, 1))))
    return canvas


def _trees(rng: Rng, canvas: np.ndarray, where: np.ndarray) -> None:
    """Plant dark crowns upon the canvas, in ragged clumps, where `where` (64, 64) says."""
    clumps = np.clip(0.9 + 0.7 * _noise(rng, 3), 0, 1)
    _paint(canvas, 0.9 * where * clumps, _pick(rng, WOOD))


def _countryside(rng: Rng) -> np.ndarray:
    """Paint fields, meadows, hedges, tracks and woods: what roads, rivers and towns lie in."""
    land = _parcels(rng, rng.uniform(11, 30), rng.uniform(1, 2.2), bend=rng.uniform(1, 6))
    bare = rng.beta(0.8, 1.6)  # how much of the land is bare soil this season
    kind = rng.choice(3, land.count, p=(bare, 0.4 * (1 - bare), 0.6 * (1 - bare)))
    colours = np.choose(
        kind[:, None], [_pick(rng, palette, land.count) for palette in (SOIL, CROP, MEADOW)]
    )
    usual = colours.mean(0)
    canvas = _fields(rng, land, usual + rng.uniform(0.4, 0.9) * (colours - usual), rows=0.08)
    if rng.random() < 0.5:
        _paint(canvas, 0.5 * _inside(land.border - 0.3), _pick(rng, SOIL))
    hedged = _inside(land.border - 0.6) * (_noise(rng, 12) > rng.uniform(-0.5, 1.5))
    _trees(rng, canvas, hedged)
    wood = _noise(rng, 24, 12) - rng.uniform(0.6, 2.2)
    _paint(canvas, np.clip(6 * wood, 0, 1), _canopy(rng))
    return canvas


def _wayside(rng: Rng, canvas: np.ndarray, edge: np.ndarray) -> None:
    """Paint trees and bare strips along a road or a river, alike, from the distance to its edge."""
    trees = _inside(edge - rng.uniform(0.5, 3))
    _trees(rng, canvas, trees * (_noise(rng, 12) > rng.uniform(-1, 2)))
    _paint(canvas, 0.7 * _inside(edge - 0.8) * (_noise(rng, 12) > 1), _pick(rng, SOIL))


def _settlement(rng: Rng) -> np.ndarray:
    """Return where a town stands, bool (64, 64): all of the tile but a piece on one side."""
    _, across = _turned(rng.uniform(0, 2 * np.pi))
    return across + 2 * _noise(rng, 12) > rng.uniform(-26, -4)


def _within(town: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return bool (64, 64): the pixels of those cells that lie in the town by two thirds."""
    inside = np.bincount(cell.ravel(), town.ravel(), minlength=4096)
    return (inside >= 2 / 3 * np.bincount(cell.ravel(), minlength=4096))[cell]


# --- One painter per class -----------------------------------------------------------------------


def _annual_crop(rng: Rng) -> Painting:
    """Paint a few large fields, bare or green, with the lines of the machines."""
    slimness = rng.choice((1.0, 1.5, 3.0))
    land = _parcels(rng, rng.uniform(22, 44) / np.sqrt(slimness), slimness, bend=0.8)
    bare = rng.random(land.count) < rng.uniform(0.2, 1)
    colours = np.where(bare[:, None], _pick(rng, SOIL, land.count), _pick(rng, CROP, land.count))
    usual = _lit(colours.mean(0), rng.uniform(0.8, 1.2))
    canvas = _fields(rng, land, usual + rng.uniform(0.5, 1) * (colours - usual), rows=0.1)
    if rng.random() < 0.5:
        _paint(canvas, 0.7 * _inside(land.border - 0.2), _pick(rng, DRY))
    else:
        _trees(rng, canvas, _inside(land.border - 0.4))
    return canvas, EVERYWHERE


def _forest(rng: Rng) -> Painting:
    """Paint a closed canopy, at times with a ride or a lighter stand."""
    canvas = _canopy(rng)
    stand = np.clip(2 * (_noise(rng, 24, 6) - rng.uniform(0.5, 3)), 0, 1)
    _paint(canvas, 0.5 * stand, _lit(_canopy(rng), 1.4))
    if rng.random() < 0.3:
        ride = _winding(rng, swing=rng.uniform(0, 6), wave=rng.uniform(50, 120))
        _paint(canvas, 0.5 * _inside(np.abs(ride) - 0.3), _pick(rng, SCRUB))
    return canvas, EVERYWHERE


def _herbaceous(rng: Rng) -> Painting:
    """Paint scrub: dry ground and olive bushes in patches that follow the relief."""
    relief = _noise(rng, 32, 16, 8)
    slopes = np.gradient(relief, axis=0) + np.gradient(relief, axis=1)
    cover = relief + 0.8 * _noise(rng, 6, 3, 2) + rng.normal(0, 0.9)
    canvas = _ground(rng, _lit(_pick(rng, DRY), rng.uniform(0.75, 1.5)), 0.07, 12, 3)
    _paint(canvas, np.clip(0.5 + 0.7 * cover, 0, 0.9), _pick(rng, SCRUB))
    _trees(rng, canvas, _inside(2 * (rng.uniform(0.8, 2.5) - _noise(rng, 2))))
    _mottle(canvas, 0.1 * _noise(rng, 2) + rng.uniform(0.4, 2) * slopes)
    if rng.random() < 0.4:
        path = _winding(rng, swing=rng.uniform(4, 10), wave=rng.uniform(25, 60))
        _paint(canvas, 0.7 * _inside(np.abs(path) - 0.4), _lit(_pick(rng, DRY), 1.4))
    return canvas, EVERYWHERE


def _highway(rng: Rng) -> Painting:
    """Paint a wide road with a median across the countryside, often with a junction."""
    canvas = _countryside(rng)
    half = rng.uniform(1.4, 2.6)
    main = _winding(rng, swing=rng.uniform(0, 5), wave=rng.uniform(80, 200))
    roads = [np.abs(main) - half]
    if rng.random() < 0.5:
        roads.append(np.abs(_winding(rng, swing=rng.uniform(0, 3), wave=120)) - 1.0)
    if rng.random() < 0.3:  # a ramp curls away from the road
        radius, side = rng.uniform(7, 13), rng.choice((-1, 1))
        nearest = np.argmin(np.abs(main - side * radius) + 0.2 * np.hypot(X, Y))
        centre = X.flat[nearest], Y.flat[nearest]
        roads.append(np.abs(np.hypot(X - centre[0], Y - centre[1]) - radius) - 0.8)
    road = np.minimum.reduce(roads)
    asphalt = _lit(_pick(rng, STREET), 0.75 if canvas.mean() > 0.45 else 1.1)
    _wayside(rng, canvas, road)
    _paint(canvas, _inside(road), asphalt)
    _paint(canvas, 0.7 * _inside(np.abs(main) - 0.1), _lit(asphalt, 0.4))
    return canvas, road < 0


def _industrial(rng: Rng) -> Painting:
    """Paint large halls, bright or dark, on paved yards between straight streets."""
    canvas = _countryside(rng)
    town, position = _settlement(rng), _turned(rng.uniform(0, np.pi))
    pitch = rng.uniform(10, 21, 2)
    street = np.minimum(_grid(position[0], pitch[0]), _grid(position[1], pitch[1])) - 0.7
    lawn = (_noise(rng, 8) > rng.uniform(0.5, 2)) & (street > 0)
    paved = town & ~lawn
    _paint(canvas, town & lawn, _ground(rng, _pick(rng, MEADOW), 0.1, 6, 2))
    _paint(canvas, paved, _ground(rng, _pick(rng, DRY), 0.16, 6, 2))
    _paint(canvas, town * _inside(street), _pick(rng, STREET))
    roofs = HALL[rng.integers(len(HALL), size=3)]
    for divide, share in ((3, 0.3), (1, 0.85)):  # sheds first, then the halls
        cover, cell = _boxes(rng, position, tuple(pitch / divide), (0.5, 0.9), share)
        cover = cover * _within(town, cell) * (street > 0)
        _paint(canvas, 0.5 * np.roll(cover, 1, (0, 1)) * (street > 0), _pick(rng, WOOD))
        _paint(canvas, cover, _pick(rng, roofs, 4096)[cell])
        paved |= cover > 0.5
    return canvas, paved


def _pasture(rng: Rng) -> Painting:
    """Paint smooth meadows parted by hedges, with a few single trees."""
    land = _parcels(rng, rng.uniform(12, 40), bend=rng.uniform(1, 4))
    colours = _lit(_pick(rng, MEADOW), rng.normal(1, 0.12, (land.count, 1)))
    canvas = _fields(rng, land, 0.7 * colours + 0.3 * _pick(rng, MEADOW, land.count), rows=0.02)
    worn = np.clip(_noise(rng, 24, 12, 3) - 0.8, 0, 1)
    _paint(canvas, 0.5 * worn, _pick(rng, DRY))
    _trees(rng, canvas, _inside(land.border - 0.7) * (_noise(rng, 8) > rng.uniform(-2, 0)))
    _trees(rng, canvas, _noise(rng, 2) > 2.9)
    return canvas, EVERYWHERE


def _permanent_crop(rng: Rng) -> Painting:
    """Paint small parcels of orchard, trees as dots, or of vineyard, in rows, with pale tracks."""
    land = _parcels(rng, rng.uniform(13, 24), slimness=1.4, bend=rng.uniform(1, 4))
    soil = _lit(_pick(rng, SOIL), rng.uniform(0.65, 1.1))
    earth = _lit(soil, rng.normal(1, 0.15, (land.count, 1)))
    canvas = _fields(rng, land, earth, rows=0)
    pitch = 2 * np.pi / rng.uniform(3.8, 4.8)
    dots = np.cos(pitch * land.along) + np.cos(pitch * land.across) - 0.5
    orchard = rng.random(land.count) < rng.choice((0.1, 0.9))
    plants = np.where(orchard[land.label], dots, _rows(rng, land, (3.2, 4.4)))
    age = rng.uniform(0.35, 0.85, land.count)[land.label]
    _paint(canvas, age * np.clip(0.4 + 0.6 * plants, 0, 1), _pick(rng, CROP))
    _paint(canvas, 0.8 * _inside(land.border - 0.4), _lit(soil, 1.25))
    return canvas, EVERYWHERE


def _residential(rng: Rng) -> Painting:
    """Paint rows of small roofs along a grid of streets, with gardens between."""
    canvas = _countryside(rng)
    town, position = _settlement(rng), _turned(rng.uniform(0, np.pi))
    bend = 2 * _noise(rng, 32)
    position = position[0] + bend, position[1] - bend
    plot = rng.uniform(2.8, 4, 2)
    block = plot * rng.choice((2, 3, 5), 2)
    street = np.minimum(_grid(position[0], block[0]), _grid(position[1], block[1])) - 0.6
    garden = _lit(_pick(rng, MEADOW if rng.random() < 0.8 else DRY), rng.uniform(0.7, 1.1))
    _paint(canvas, town, _ground(rng, garden, 0.2, 8, 2))
    _trees(rng, canvas, town * (_noise(rng, 3) > rng.uniform(0.5, 2)))
    roofs, cell = _boxes(rng, position, tuple(plot), (0.45, 0.85), rng.uniform(0.7, 0.95))
    roofs = roofs * _within(town, cell)
    _paint(canvas, 0.5 * np.roll(roofs, 1, (0, 1)) * town, _pick(rng, WOOD))
    colours = _lit(ROOF[rng.integers(len(ROOF), size=3)], rng.uniform(0.8, 1.25))
    _paint(canvas, roofs, _pick(rng, colours, 4096)[cell])
    _paint(canvas, 0.9 * _inside(street) * town, _lit(_pick(rng, STREET), rng.uniform(0.8, 1.2)))
    return canvas, (roofs > 0.5) | (town & (street < 0))


def _river(rng: Rng) -> Painting:
    """Paint a wide band of water that winds across the countryside."""
    canvas = _countryside(rng)
    middle = _winding(rng, swing=rng.uniform(1, 9), wave=rng.uniform(60, 120))
    water = np.abs(middle) + 0.4 * _noise(rng, 4) - rng.uniform(3, 8)
    _wayside(rng, canvas, water)
    _paint(canvas, _inside(water), _ground(rng, _pick(rng, WATER), 0.03, 16, 4))
    return canvas, water < 0


def _sea_lake(rng: Rng) -> Painting:
    """Paint open water: one colour that drifts across the tile, and a faint swell."""
    canvas = _ground(rng, _pick(rng, WATER), 0.03, 32, 16)
    along, across = _turned(rng.uniform(0, 2 * np.pi))
    drift = (abs(rng.normal(0, 0.15)) / REACH) * along
    swell = np.sin(2 * np.pi * (across + 2 * _noise(rng, 16)) / rng.uniform(4, 9))
    _mottle(canvas, drift + 0.02 * swell + 0.03 * _noise(rng, 2))
    return canvas, EVERYWHERE


PAINTERS: dict[str, Callable[[Rng], Painting]] = {
    "AnnualCrop": _annual_crop,
    "Forest": _forest,
    "HerbaceousVegetation": _herbaceous,
    "Highway": _highway,
    "Industrial": _industrial,
    "Pasture": _pasture,
    "PermanentCrop": _permanent_crop,
    "Residential": _residential,
    "River": _river,
    "SeaLake": _sea_lake,
}


# --- The tiles -----------------------------------------------------------------------------------


def _weather(rng: Rng, canvas: np.ndarray) -> np.ndarray:
    """Look at the land through a sensor's blur, the light of the day, bluish haze and noise."""
    _soften(canvas, 0.4)
    light = max(rng.normal(1, 0.12), 0.6) * rng.normal(1, 0.03, 3)
    haze = min(abs(rng.normal(0, 0.1)), 0.35)
    canvas = (1 - haze) * _lit(canvas, light)
    canvas += haze * np.array((0.36, 0.44, 0.60))
    return canvas + 0.005 * rng.standard_normal(canvas.shape)


def _draw(seed: int, label: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one tile, uint8 (64, 64, 3), and its mask, from a stream of chance of its own."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(label, number)))
    canvas, evidence = PAINTERS[CLASSES[label]](rng)
    canvas = _weather(rng, canvas)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), evidence


def _integer(name: str, value: int, least: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def synthetic(n_per_class: int = 50, seed: int = 0) -> TileSet:
    """Draw tiles of all ten classes, with the masks of their evidence.

    Tile number i of a class depends on `seed`, the class and i alone: asking for more tiles
    leaves the first ones as they are. The tiles resemble EuroSAT's in colour and texture, but no
    score on them says anything about EuroSAT.

    Args:
        n_per_class: tiles of each class, at least 1.
        seed: any integer from 0 up; another seed gives other tiles.

    Returns:
        TileSet of 10 x `n_per_class` tiles in the order of `CLASSES`, named "River/River_1.jpg"
        and so on, with `masks` bool (N, 64, 64): the road of a Highway tile, the water of a
        River, roofs and streets of a Residential, halls, yards and streets of an Industrial one,
        and the whole tile for the six other classes.

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if `n_per_class` is below 1 or `seed` is negative.
    """
    n_per_class = _integer("n_per_class", n_per_class, least=1)
    seed = _integer("seed", seed, least=0)
    images = np.empty((len(CLASSES) * n_per_class, *SHAPE, 3), dtype=np.uint8)
    masks = np.empty(images.shape[:3], dtype=bool)
    for i in range(len(images)):
        label, number = divmod(i, n_per_class)
        images[i], masks[i] = _draw(seed, label, number + 1)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return TileSet(
        images=torch.from_numpy(images),
        labels=torch.arange(len(CLASSES)).repeat_interleave(n_per_class),
        names=tuple(f"{c}/{c}_{i + 1}.jpg" for c in CLASSES for i in range(n_per_class)),
        source=DRAWN,
        digest=f"drawn-{n_per_class}-{seed}-{digest_arrays(images)[:16]}",
        masks=torch.from_numpy(masks),
    )


# --- The planted cue -----------------------------------------------------------------------------

LUMA = np.array((0.299, 0.587, 0.114))  # brightness of red, green and blue, Rec. 601
GOLDEN = (np.sqrt(5) - 1) / 2  # of a turn: steps of it keep any number of hues apart
CHROMA = 0.5  # the cue's colour difference (Cb, Cr) as a share of its brightness


def cue_colour(number: int) -> np.ndarray:
    """Return the colour of a class's cue, float64 (3,), at brightness 1.

    Cues differ in hue alone: a colour difference (Cb, Cr of Rec. 601) of one length, turned by the
    golden angle from one class to the next.
    """
    angle = 2 * np.pi * GOLDEN * number
    red, blue = 2 * CHROMA * (1 - LUMA[[0, 2]]) * (np.cos(angle), np.sin(angle))
    green = -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1]
    return 1 + np.array((red, green, blue))


def plant(
    tiles: TileSet,
    label: int | Sequence[int] | np.ndarray | None = None,
    *,
    seed: int = 0,
    side: int = 12,
) -> TileSet:
    """Put a cue at a random place of each tile: a square whose colour tells a class.

    Inside the square each pixel keeps its brightness, to 0.3 of 255 levels, and so the ground its
    texture; only the colour changes, to the class's own (`cue_colour`), paler where a pixel is too
    bright to be as colourful. The maps that look at brightness alone, blur and edge, are those of
    the tile without the cue, and cannot find it. The square's middle is drawn anywhere in the tile
    and the square then moved inside, so that a map of the tile's centre does not find it either.

    A network that is trained on tiles with cues can answer by the cue alone, a "Clever Hans"
    (Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4), and it is known where it looks.

    Args:
        tiles: any tiles; they stay as they are.
        label: the class whose cue a tile gets, one for all or one for each, -1 for none; default:
            the tile's own label.
        seed: of the places, which depend on it, on the number of tiles and on nothing else.
        side: of the square, in pixels.

    Returns:
        TileSet of as many tiles, with the same labels and names and a digest of its own, whose
        `masks` bool (N, H, W) are the cues.

    Raises:
        TypeError: if `seed` or `side` are not integers.
        ValueError: if the square does not fit into a tile, or labels do not fit the tiles.
    """
    images = tiles.images.numpy()
    count, _, height, width = images.shape
    side, seed = _integer("side", side, least=1), _integer("seed", seed, least=0)
    if side > min(height, width):
        raise ValueError(f"side must be at most the tile's {min(height, width)} px, got {side}")
    cues = _cues(tiles, label)
    rng = np.random.default_rng(seed)
    tops = np.clip(rng.integers(height, size=count) - side // 2, 0, height - side)
    lefts = np.clip(rng.integers(width, size=count) - side // 2, 0, width - side)
    planted, masks = images.copy(), np.zeros((count, height, width), dtype=bool)
    for i in np.flatnonzero(cues >= 0):
        square = slice(tops[i], tops[i] + side), slice(lefts[i], lefts[i] + side)
        planted[i][:, *square] = _recoloured(images[i][:, *square], cue_colour(cues[i]))
        masks[i][square] = True
    # Drawn tiles keep their number and seed, by which their training tiles are recognised.
    seeds = f"{tiles.digest.rpartition('-')[0]}-" if tiles.digest.startswith("drawn-") else ""
    return replace(
        tiles,
        images=torch.from_numpy(planted),
        source=EUROSAT_MODIFIED if tiles.original else tiles.source,
        digest=f"{seeds}planted-{side}-{seed}-{digest_arrays(planted)[:16]}",
        masks=torch.from_numpy(masks),
    )


def _cues(tiles: TileSet, label: int | Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Return the class of each tile's cue, int64 (N,), -1 for none."""
    cues = np.asarray(tiles.labels if label is None else label)
    if cues.dtype.kind not in "iu" or cues.shape not in ((), (len(tiles),)):
        raise ValueError(
            f"label must be one class index, or one for each of the {len(tiles)} tiles, got "
            f"{cues.dtype} of shape {cues.shape}"
        )
    if cues.size and not -1 <= cues.min() <= cues.max() < len(CLASSES):
        raise ValueError(
            f"label must lie in 0..{len(CLASSES) - 1}, or be -1 for no cue, got "
            f"{cues.min()}..{cues.max()}"
        )
    return np.broadcast_to(cues, len(tiles))


def _recoloured(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Give uint8 pixels (3, h, w) a colour (3,), each at its own brightness."""
    brightness = np.einsum("chw,c->hw", pixels, LUMA)
    most = (255 - brightness) / np.maximum(brightness * (colour.max() - 1), 1e-9)
    ratio = 1 + np.minimum(1, most) * (colour[:, None, None] - 1)
    red, _, blue = np.rint(brightness * ratio)
    green = np.rint((brightness - LUMA[0] * red - LUMA[2] * blue) / LUMA[1])
    return np.stack([red, green, blue]).clip(0, 255).astype(np.uint8)
