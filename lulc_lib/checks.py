"""Checks of the notebooks' exercises: they call the reader's own function and answer at once.

`check(function)` finds the exercise by the name of the function. It compares an example worked by
hand and tests a property that every right answer has. `reveal` answers a guess that the reader
made before a cell was run.
"""

import dataclasses
import dis
import linecache
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lulc_lib.drawn_tiles import synthetic
from lulc_lib.explanations import Explanation
from lulc_lib.factors import concepts
from lulc_lib.faithfulness.ranks import rank_correlation
from lulc_lib.metrics import tempered
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions

_CHECKS: dict[str, Callable[[Callable], None]] = {}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a check says of a function.

    Attributes:
        exercise: name of the function.
        passed: whether the function is right, as far as the check can tell.
        text: the answer in words.
    """

    exercise: str
    passed: bool
    text: str

    def __repr__(self) -> str:
        return self.text

    def confirm(self) -> None:
        """Print the answer.

        Raises:
            AssertionError: with the answer's text, if the function did not pass.
        """
        if not self.passed:
            raise AssertionError(self.text)
        print(self.text)


class _NotDoneError(Exception):
    """The function is still the stub."""


class _WrongError(Exception):
    """The function's answer is wrong; the message says why."""


def check(function: Callable) -> Answer:
    """Check the solution of an exercise.

    Args:
        function: the reader's function, under the name that the exercise gave it.

    Raises:
        TypeError: if it is no function.
        ValueError: if no exercise has its name.
    """
    name = getattr(function, "__name__", None)
    if not callable(function) or name is None:
        raise TypeError(f"expected the function of an exercise, got {function!r}")
    if name not in _CHECKS:
        raise ValueError(f"no exercise asks for a function {name!r}; there are {sorted(_CHECKS)}")
    try:
        _CHECKS[name](_asking(function))
    except _NotDoneError:
        return Answer(name, False, f"{name}: not done yet.")
    except _WrongError as error:
        return Answer(name, False, f"{name}: not right yet. {error}")
    except Exception as error:  # such as a list where the check takes a part of a tensor
        read = f"The check cannot use what your function returned. {_told(error, None)}"
        return Answer(name, False, f"{name}: not right yet. {read}")
    return Answer(name, True, f"{name}: correct. It gives the expected values on every example.")


def reveal(
    guess: Any,
    measured: float,
    what: str,
    between: tuple[float, float] = (0, 1),
    digits: int = 2,
    close: float | None = None,
) -> None:
    """Print what was measured, and how a guess that was made before compares with it.

    Args:
        guess: the reader's number; None where no guess was made. Anything else is told in a line.
        measured: what came out.
        what: what was measured, in words that can follow "Measured:".
        between: the smallest and the largest value that it can take.
        digits: decimal places to print.
        close: how far off a guess may be that is called close; None is a twentieth of `between`.
    """
    print(f"Measured: {what}: {measured:.{digits}f}.")
    if guess is None:
        print("You made no guess. Set `guess` above to a number, then run both cells again.")
        return
    number = _guessed(guess)
    low, high = between
    if number is None:
        print(f"A guess is one number, such as {(low + high) / 2:g}; yours was {guess!r}.")
    elif not low <= number <= high:
        print(f"A guess lies between {low:g} and {high:g} here; yours was {number:g}.")
    else:
        close = (high - low) / 20 if close is None else close
        print(_compared(number, measured, close, digits))


def _guessed(guess: Any) -> float | None:
    """Return a guess as a finite number, or None where it is none."""
    if isinstance(guess, bool):
        return None
    try:
        number = float(guess)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _compared(guess: float, measured: float, close: float, digits: int) -> str:
    """Say how far a guess is from what was measured, and whether that is close."""
    apart = abs(guess - measured)
    if apart < 0.5 * 10**-digits:
        return f"Your guess, {guess:.{digits}f}, is right to the last digit shown."
    word = "high" if guess > measured else "low"
    far = f"Your guess, {guess:.{digits}f}, was {apart:.{digits}f} too {word}"
    if apart <= close:
        return f"{far}: that is close."
    return f"{far}. What did you expect that did not come true?"


def _asking(function: Callable) -> Callable:
    """Return the function with its failures told as those of the reader's code."""

    def ask(*arguments: Any) -> Any:
        try:
            value = function(*arguments)
        except Exception as error:
            place = _place(error, function)
            if isinstance(error, NotImplementedError) and place and _raised_at(place):
                raise _NotDoneError from None
            raise _WrongError(_told(error, place)) from None
        if value is None or value is Ellipsis:
            raise _NotDoneError
        return value

    return ask


def _place(error: Exception, function: Callable) -> Any:
    """Return the innermost traceback entry in the file of the function, or None."""
    found, step = None, error.__traceback__
    home = getattr(getattr(function, "__code__", None), "co_filename", None)
    while step is not None:
        if step.tb_frame.f_code.co_filename == home:
            found = step
        step = step.tb_next
    return found


def _raised_at(place: Any) -> bool:
    """Tell whether a `raise` stands there; torch raises NotImplementedError from within, too."""
    code = place.tb_frame.f_code.co_code
    return code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _told(error: Exception, place: Any) -> str:
    """Return an exception in one line."""
    message = " ".join(str(error).split())
    if place is None:
        return f"It raised {type(error).__name__}: {message}"
    line = linecache.getline(place.tb_frame.f_code.co_filename, place.tb_lineno).strip()
    shown = f" ({line})" if line else ""
    return f"It raised {type(error).__name__} in line {place.tb_lineno}{shown}: {message}"


def _exercise(body: Callable[[Callable], None]) -> Callable[[Callable], None]:
    """Register a check under its name, without the leading underscore."""
    _CHECKS[body.__name__.removeprefix("_")] = body
    return body


def _numbers(value: Any) -> np.ndarray:
    """Return what a function gave as float64, or say that it holds no numbers."""
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise _WrongError(
            f"Your function returned a {type(value).__name__}; expected numbers."
        ) from None


_SHORT = 12  # values that are printed in full


def _short(value: np.ndarray) -> str:
    """Return an array in few words."""
    if value.size > _SHORT:
        return f"an array of shape {value.shape} with mean {value.mean():.4g}"
    return str(np.round(value, 4).tolist())


def _expect(given: str, got: Any, expected: Any, because: str, atol: float = 1e-6) -> None:
    """Compare what a function returned with what is right."""
    got, expected = _numbers(got), _numbers(expected)
    if got.shape != expected.shape:
        raise _WrongError(
            f"For {given} your function returned an array of shape {got.shape}; "
            f"expected shape {expected.shape}."
        )
    if not np.allclose(got, expected, atol=atol, rtol=1e-5):
        if got.size > _SHORT:  # means of two long arrays may be equal: name a place
            off = np.nan_to_num(np.abs(got - expected), nan=np.inf)
            place = tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
            raise _WrongError(
                f"For {given} your function returned an array of shape {got.shape} that holds "
                f"{got[place]:.4g} at {list(place)}; expected {expected[place]:.4g} there, because "
                f"{because}."
            )
        raise _WrongError(
            f"For {given} your function returned {_short(got)}; "
            f"expected {_short(expected)}, because {because}."
        )


def _hold(right: Any, message: str) -> None:
    """Demand a property."""
    if not right:
        raise _WrongError(message)


def _kind(value: Any, kind: type) -> None:
    """Demand a kind of value."""
    _hold(
        isinstance(value, kind),
        f"Your function returned a {type(value).__name__}; expected {kind.__name__}.",
    )


def _made_explanation(grid: np.ndarray, heatmap: np.ndarray | None = None) -> Explanation:
    """Return an explanation with a given grid (N, h, w), enlarged by repetition."""
    count, h, w = grid.shape
    if heatmap is None:
        heatmap = grid.repeat(64 // h, axis=1).repeat(64 // w, axis=2)
    logits = np.zeros((count, 10), np.float32)
    target = np.zeros(count, np.int64)
    return Explanation(
        heatmap.astype(np.float32), grid.astype(np.float32), target, logits, "gradcam", None, {}
    )


def _made_predictions() -> Predictions:
    """Return five predictions: two right, three wrong, the surest of all right."""
    logits = np.zeros((5, 10), np.float32)
    logits[np.arange(5), [0, 1, 2, 3, 4]] = [9, 2, 5, 3, 1]
    return Predictions(logits, np.array([0, 0, 0, 0, 4]), tuple("abcde"))


@_exercise
def _second_guess(ask: Callable) -> None:
    logits = np.array([[0.0, 5.0, 3.0, 4.0], [-1.0, -2.0, -4.0, -3.0]])
    because = "the second largest logits, 4 and -2, stand in these columns"
    _expect(f"logits {logits.tolist()}", ask(logits.copy()), [3, 1], because)
    logits = np.random.default_rng(0).normal(size=(20, 10))
    got = _numbers(ask(logits.copy()))
    _hold(got.shape == (20,), f"For 20 tiles expected 20 classes, got shape {got.shape}.")
    larger = (logits > logits[np.arange(20), got.astype(int)][:, None]).sum(axis=1)
    _hold((larger == 1).all(), "Exactly one logit of a tile must be larger than its second guess.")


@_exercise
def _cell_size(ask: Callable) -> None:
    because = "64 pixels of 10 m are 640 m, shared by the cells of a side"
    for cells in (8, 4, 16):
        explanation = _made_explanation(np.ones((1, cells, cells)))
        expected = [640 / cells, 4096 / cells**2]
        _expect(f"a grid of {cells} x {cells} cells", ask(explanation), expected, because)


@_exercise
def _greyed(ask: Callable) -> None:
    tiles = synthetic(1, seed=0)
    images = tiles.images.clone()
    images[0, :, 0, 0] = torch.tensor([200, 210, 220], dtype=torch.uint8)
    tiles = dataclasses.replace(tiles, images=images.clone())
    grey = ask(tiles)
    unchanged = torch.equal(tiles.images, images)
    _hold(unchanged, "Your function changed the tiles that it was given; make new ones.")
    _kind(grey, type(tiles))
    _hold(grey.images.shape == images.shape, "All three channels must remain.")
    because = "their mean stands in every channel (a sum of uint8 values wraps round at 256)"
    _expect("a pixel (200, 210, 220)", grey.images[0, :, 0, 0], [210, 210, 210], because)
    mean = images.double().mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    off = (grey.images.double() - mean).abs().max()
    _hold(off <= 1, f"A pixel departs from the mean of its channels by {off:.0f}.")
    _hold(torch.equal(grey.labels, tiles.labels), "The labels must stay as they are.")


@_exercise
def _overlap(ask: Callable) -> None:
    tiles = synthetic(1, seed=0)
    because = "2 of the 4 tiles of a, tiles 2 and 3, are also in b"
    _expect("a = tiles 0 to 3 and b = tiles 2 to 9", ask(tiles[:4], tiles[2:]), 0.5, because)
    because = "no tile is in both"
    _expect("two parts without a common tile", ask(tiles[:5], tiles[5:]), 0, because)
    _expect("a part and itself", ask(tiles, tiles), 1, "every tile is in both")
    tiles = synthetic(2, seed=0)
    because = "a tile is known by its name, not by its class"
    given = "two parts of the same classes without a common tile"
    _expect(given, ask(tiles[::2], tiles[1::2]), 0, because)


@_exercise
def _log_likelihood(ask: Callable) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 40)
    scale = 1 + np.arange(10)[labels, None]
    mixing = np.eye(6) + 0.5 * np.eye(6, k=1)
    train = (rng.normal(size=(400, 6)) * scale + labels[:, None]) @ mixing
    test = rng.normal(size=(5, 6)) * 5
    got = _numbers(ask(train.copy(), labels.copy(), test.copy()))
    _hold(got.shape == (5, 10), f"For 5 tiles expected shape (5, 10), got {got.shape}.")
    expected = np.empty((5, 10))
    for k in range(10):
        own = train[labels == k]
        normal = torch.distributions.MultivariateNormal(
            torch.from_numpy(own.mean(axis=0)), torch.from_numpy(np.cov(own.T))
        )
        expected[:, k] = normal.log_prob(torch.from_numpy(test))
    because = (
        "a class's own mean, covariance and log-determinant enter its column (a forgotten "
        "log-determinant moves the whole column)"
    )
    given = "made features, compared between classes,"
    got, expected = (x - x.mean(axis=1, keepdims=True) for x in (got, expected))
    tolerance = 0.03 * np.abs(expected).max()  # np.cov divides by n - 1, others by n
    _expect(given, got, expected, because, atol=tolerance)


@_exercise
def _smoothed_loss(ask: Callable) -> None:
    logits = torch.zeros(2, 10)
    labels = torch.tensor([1, 4])
    because = "equal logits give each class the probability 1/10, so any target costs log 10"
    _expect("logits that are all 0", ask(logits, labels, 0.1), np.log(10), because, 1e-5)
    logits = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(6)
    for share in (0.0, 0.05, 0.3):
        expected = F.cross_entropy(logits, labels, label_smoothing=share)
        because = "the target is (1 - share) for the label plus share / 10 for every class"
        got = ask(logits.clone(), labels, share)
        _expect(f"random logits and share {share}", got, expected, because, 1e-5)


@_exercise
def _gradient_in_parts(ask: Callable) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes: list[int] = []

    class Counted(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x)

    model = Counted(3, 10)
    with torch.no_grad():
        model.weight.copy_(torch.randn(10, 3, generator=generator))
        model.bias.zero_()
    x, labels = torch.randn(5, 3, generator=generator), torch.arange(5)
    whole = torch.autograd.grad(F.cross_entropy(model(x), labels), list(model.parameters()))
    expected = torch.cat([part.flatten() for part in whole])
    because = "a part counts by its share of the tiles, and the parts are 3 and 2 tiles"
    for count in (1, 2):
        given = f"a linear layer and 5 tiles in {count} part(s)"
        model.zero_grad()  # that gradients are cleared is asked last
        sizes.clear()
        got = ask(model, x, labels, count)
        parts = f"{sizes or 'no'} tiles at a time; expected {count} part(s)"
        _hold(len(sizes) == count, f"With {given} the model was given {parts}.")
        _expect(given, got, expected, because, 1e-5)
    got = ask(model, x, labels, 2)
    _expect("a second call", got, expected, "gradients left by the first must be cleared", 1e-5)


@_exercise
def _shuffled(ask: Callable) -> None:
    images = torch.arange(2 * 3 * 64 * 64, dtype=torch.float32).view(2, 3, 64, 64)
    order = torch.arange(64)
    because = "the order 0, 1, 2, ... leaves every patch in its place"
    _expect("the order 0, 1, 2, ...", ask(images.clone(), order), images, because)
    order = order.roll(-1)
    got = ask(images.clone(), order)
    because = "patch 1, from columns 8 to 15, comes first"
    first = images[:, :, :8, 8:16]
    _expect("the order 1, 2, ..., 63, 0 at the first patch", got[:, :, :8, :8], first, because)
    because = "patch 0 comes last, as it was: copy the picture before you write into it"
    last = images[:, :, :8, :8]
    _expect("the order 1, 2, ..., 63, 0 at the last patch", got[:, :, 56:, 56:], last, because)
    order = torch.from_numpy(np.random.default_rng(0).permutation(64))
    patches = images.unflatten(2, (8, 8)).unflatten(4, (8, 8)).permute(2, 4, 0, 1, 3, 5)
    patches = patches.flatten(0, 1)[order].unflatten(0, (8, 8))  # (8, 8, N, 3, 8, 8)
    expected = patches.permute(2, 3, 0, 4, 1, 5).flatten(4).flatten(2, 3)
    because = "place k, counted row by row, gets patch order[k] of the same image"
    _expect("two images and a drawn order", ask(images.clone(), order), expected, because)


@_exercise
def _weights_of_block(ask: Callable) -> None:
    because = "norms have 4 D, attention 4 D² + 4 D, the MLP 8 D² + 5 D weights"
    _expect("width 1", ask(1), 25, because)
    _expect("width 192", ask(192), 12 * 192**2 + 13 * 192, because)


@_exercise
def _balanced_accuracy(ask: Callable) -> None:
    confusion = np.array([[8, 2], [3, 1]])
    because = "8 of 10 and 1 of 4 tiles of the two labels are found: (0.8 + 0.25) / 2"
    _expect(f"confusion {confusion.tolist()}", ask(confusion.copy()), 0.525, because)
    confusion = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 4]])
    because = "a class without tiles is left out: (0.5 + 1) / 2"
    with np.errstate(all="ignore"):
        _expect(f"confusion {confusion.tolist()}", ask(confusion.copy()), 0.75, because)


@_exercise
def _mcnemar(ask: Callable) -> None:
    because = "only 0 to 10 and 10 to 0 are as uneven: 2 of 1024 ways"
    _expect("b = 0 and c = 10", ask(0, 10), 2 / 1024, because, 1e-9)
    because = "0, 1, 3 and 4 of 4 are as uneven: (1 + 4 + 4 + 1) / 16"
    _expect("b = 1 and c = 3", ask(1, 3), 10 / 16, because)
    _expect("b = 3 and c = 1", ask(3, 1), 10 / 16, "the sides can be exchanged")
    _expect("b = 5 and c = 5", ask(5, 5), 1, "no split is less uneven, and no p exceeds 1")


@_exercise
def _cooled(ask: Callable) -> None:
    pred, before = _made_predictions(), _made_predictions()
    got = ask(pred, 2.0)
    _kind(got, Predictions)
    unchanged = np.array_equal(pred.logits, before.logits)
    _hold(unchanged, "Your function changed the logits that it was given; make new ones.")
    because = "every logit is divided by T"
    _expect("T = 2, in the logits,", got.logits, tempered(before, 2.0).logits, because)
    _hold(got.names == pred.names, "The tiles' names must stay as they are.")
    _hold(np.array_equal(got.labels, pred.labels), "The labels must stay as they are.")


@_exercise
def _map_of_nothing(ask: Callable) -> None:
    tiles = synthetic(1, seed=0)[:2]
    got = ask(tiles)
    _kind(got, Explanation)
    _hold(len(got) == 2, f"For 2 tiles your function returned {len(got)} maps; expected 2.")
    _hold(got.method == "gradcam", f"The maps are of {got.method!r}; expected 'gradcam'.")
    layer = str(got.layer)
    _hold(
        layer.startswith("network.blocks"),
        f"The maps are of the layer {layer}; expected a block of a ViT, such as network.blocks.5.",
    )
    because = "the network is to be explained for its own answers"
    _expect("the explained classes", got.target, got.logits.argmax(axis=1), because)
    widest = float(np.ptp(got.logits, axis=1).max())  # 30 networks with random weights: 0.01 to 1.3
    _hold(
        widest < 3,  # the shipped models on these tiles: 5.0 and 7.4
        f"The logits of a tile span {widest:.1f}, as those of a trained network do; "
        "expected a network with random weights.",
    )


@_exercise
def _covered(ask: Callable) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = torch.zeros(2, 8, 8, dtype=torch.bool)
    because = "no cell is covered"
    _expect("no cells", ask(images.clone(), cells.clone()), images, because)
    cells[0, 1, 2] = True
    expected = images.clone()
    expected[0, :, 8:16, 16:24] = images[0].mean(dim=(1, 2))[:, None, None]
    because = "rows 8 to 15 and columns 16 to 23 take the tile's own mean in each channel"
    got = ask(images.clone(), cells.clone())
    _expect("the cell in row 1, column 2 of the first tile", got, expected, because, 1e-5)
    cells = torch.zeros(2, 4, 4, dtype=torch.bool)
    cells[1, 0, 3] = True
    expected = images.clone()
    expected[1, :, :16, 48:] = images[1].mean(dim=(1, 2))[:, None, None]
    because = "cells are 16 pixels wide here: rows 0 to 15 and columns 48 to 63"
    got = ask(images.clone(), cells.clone())
    _expect("one of 4 x 4 cells of the second tile", got, expected, because, 1e-5)


@_exercise
def _surest_error(ask: Callable) -> None:
    because = "tile 2 is wrong with the highest confidence; tile 0 is surer, but right"
    _expect("five made predictions", ask(_made_predictions()), 2, because)
    logits = np.full((2, 10), -20, dtype=np.float32)  # both labels are class 1
    logits[0, :2] = np.log([0.7, 0.3])
    logits[1, [0, 1, 2]] = np.log([0.55, 0.01, 0.44])
    because = "both are wrong, tile 0 with 0.7; tile 1, with 0.55, has the larger loss"
    _expect("two more", ask(Predictions(logits, np.array([1, 1]), ("a", "b"))), 0, because)
    logits[1, :6] = np.log([0.6, 0.01, 0.0975, 0.0975, 0.0975, 0.0975]) + 3
    because = (
        "tile 0 claims 0.7, tile 1 claims 0.6: confidence is a probability, and neither the "
        "largest logit nor the lead over the second class"
    )
    _expect("another two", ask(Predictions(logits, np.array([1, 1]), ("a", "b"))), 0, because)


@_exercise
def _enlarged(ask: Callable) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    _expect("side 64", ask(images.clone(), 64), images, "nothing is cut off", 1e-5)
    cut = images[:, :, 9:54, 9:54]
    expected = F.interpolate(cut, (64, 64), mode="bilinear")
    because = "rows and columns 9 to 53 are the centre, enlarged bilinearly"
    _expect("side 45", ask(images.clone(), 45), expected, because, 1e-5)
    framed = torch.zeros(1, 3, 64, 64)
    framed[:, :, 16:48, 16:48] = 1
    because = "rows and columns 16 to 47 are the centre, and the frame is cut off"
    got = ask(framed, 32)
    _expect("a tile whose central 32 x 32 pixels are 1", got, torch.ones_like(framed), because)


@_exercise
def _rank_agreement(ask: Callable) -> None:
    values = np.random.default_rng(0).normal(size=(2, 64, 64))
    values[0, :32] = -3  # equal values, as maps that are clipped have
    maps = {"one": values, "its exponential": np.exp(values), "its negative": -values}
    got = ask({name: _made_explanation(heat) for name, heat in maps.items()})
    expected = [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    because = "only the order counts, and equal values share a rank"
    _expect("a map, its exponential and its negative", got, expected, because, 1e-3)
    last = values[1]
    maps = {"one": np.stack([last, last + 100]), "other": np.stack([last, 100 - last])}
    got = ask({name: _made_explanation(heat) for name, heat in maps.items()})
    because = "the first tile has 1 and the second -1: each is ranked alone, then the mean is taken"
    _expect("two maps that agree on one tile of two", got, [[1, 0], [0, 1]], because, 1e-3)
    tied, noisy = values[:1], values[:1] + np.random.default_rng(1).normal(size=(1, 64, 64))
    got = ask({"tied": _made_explanation(tied), "noisy": _made_explanation(noisy)})
    known = float(rank_correlation(tied, noisy)[0])
    because = "equal values share the mean of their ranks, not the next whole number"
    _expect("a map with equal values and noise", got, [[1, known], [known, 1]], because, 1e-3)


@_exercise
def _in_cells(ask: Callable) -> None:
    grid = np.arange(16.0).reshape(1, 4, 4)
    made = _made_explanation(grid)
    because = "each cell is the mean of its own 16 x 16 pixels"
    _expect("a map of 4 x 4 even cells", ask(made, 4), grid, because)
    noise = np.random.default_rng(0).normal(size=(2, 64, 64))
    made = _made_explanation(np.zeros((2, 8, 8)), noise)
    _expect("cells of one pixel", ask(made, 64), noise, "a mean of one value is the value")
    mean = noise.mean(axis=(1, 2), keepdims=True)
    _expect("one cell", ask(made, 1), mean, "its value is the mean of the map")


@_exercise
def _worst_match(ask: Callable) -> None:
    tiles = synthetic(1, seed=0)[:8]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model("vit").eval()
    twice = tiles[np.repeat(np.arange(0, len(tiles), 2), 2)]
    because = "tiles[::2] and tiles[1::2] are the same tiles here"
    _expect("every tile twice", ask(model, twice, 2), 1, because, 1e-3)
    first, second = (concepts(model, tiles[start::2], 3).directions for start in (0, 1))
    expected = (first @ second.T).max(axis=1).min()
    because = "of the best cosine of each concept of tiles[::2] the lowest is asked for"
    _expect("eight drawn tiles and 3 concepts", ask(model, tiles, 3), expected, because, 1e-3)


@_exercise
def _points(ask: Callable) -> None:
    heatmap = np.full((64, 64), -1.0)
    heatmap[:32, 32:] = -0.9  # the quarter with the largest sum is another one
    heatmap[32, 31] = -0.5
    because = "the highest value, at row 32 and column 31, is in the lower left quarter"
    for row, column in ((1, 0), (0, 1), (0, 0), (1, 1)):
        given = f"quarter ({row}, {column})"
        _expect(given, ask(heatmap.copy(), row, column), (row, column) == (1, 0), because)


@_exercise
def _cheating(ask: Callable) -> None:
    heatmaps = np.stack([np.full((64, 64), -2.0), np.full((64, 64), 1.0)])
    heatmaps[:, 0, 0] += 3
    blob = np.full((2, 64, 64), 0.5)
    got = _numbers(ask(heatmaps.copy(), blob.copy()))
    _hold(got.shape == blob.shape, f"Expected maps of shape {blob.shape}, got {got.shape}.")
    lowest = got.min()
    _hold(
        lowest >= 0, f"For maps below 0 the lowest result is {lowest:.2f}; expected none below 0."
    )
    because = "each map's own lowest value is subtracted from it"
    same = np.allclose(got[0], got[1])
    _hold(same, f"Two maps that differ by a constant must give the same result, because {because}.")
    none = ask(heatmaps.copy(), np.zeros_like(blob))
    _expect("a blob of zeros", none, np.zeros_like(blob), "the blob multiplies the map")
    _hold(got[0, 0, 0] > got[0, 1, 1], "A higher value must stay higher where the blob is even.")
    blob[:, 32, 32] = 1
    heatmaps[:, 32, 32] -= 1  # each map's lowest value, where the blob is highest
    expected = (heatmaps - heatmaps.min(axis=(1, 2), keepdims=True)) * blob
    because = "the lowest value is brought to 0 before the blob multiplies"
    _expect("a blob that is highest in the middle", ask(heatmaps, blob), expected, because)


@_exercise
def _divided(ask: Callable) -> None:
    for most in (40.0, 200.0, 255.0):  # 255 divided twice lies just above 1 / 255 in float32
        pictures = torch.tensor([0.0, most / 2, most]).repeat_interleave(64).view(1, 3, 8, 8)
        for times in range(3):
            given = f"pictures up to {most:.0f}, divided {times} times"
            because = f"their largest value is {pictures.max():.3g}"
            if (most, times) == (255.0, 2):
                because = "rounding leaves their largest value, 0.00392157, just above 1 / 255"
            _expect(given, ask(pictures.clone()), times, because)
            pictures = pictures / 255


@_exercise
def _faked_score(ask: Callable) -> None:
    because = "0.6 of the tiles score 1 and 0.4 score 0.5: 0.6 + 0.2"
    _expect("h = 0.5, t = 1, s = 0.6", ask(0.5, 1.0, 0.6), 0.8, because)
    _expect("h = 0.5, t = 0.9, s = 0", ask(0.5, 0.9, 0.0), 0.5, "no test tile was trained on")
    _expect("h = 0.5, t = 0.9, s = 1", ask(0.5, 0.9, 1.0), 0.9, "all test tiles were trained on")


@_exercise
def _coverage_at(ask: Callable) -> None:
    confidence = np.array([0.7, 0.9, 0.6, 0.8])
    correct = np.array([True, True, True, False])
    given = f"confidence {confidence.tolist()}, correct {correct.tolist()} and accuracy"
    because = "all four tiles together are right in 3 of 4 cases, though the first two are not"
    _expect(f"{given} 0.75", ask(confidence.copy(), correct.copy(), 0.75), 1, because)
    because = "only the surest tile alone reaches it"
    _expect(f"{given} 0.9", ask(confidence.copy(), correct.copy(), 0.9), 0.25, because)
    because = "not even the surest tile reaches it"
    try:
        got = ask(np.array([0.9]), np.array([False]), 0.5)
    except _NotDoneError:
        raise _WrongError(
            "For one wrong tile your function returned nothing; expected 0, because not even the "
            "surest tile reaches the accuracy."
        ) from None
    _expect("one wrong tile", got, 0, because)


@_exercise
def _label_margin(ask: Callable) -> None:
    rows = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    because = "0.7 - 0.2 and 0.3 - 0.6: the label less the most probable other class"
    given = f"probabilities {rows.tolist()} and labels [0, 2]"
    _expect(given, ask(rows.copy(), np.array([0, 2])), [0.5, -0.3], because)
    rows = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    labels = np.arange(20) % 5
    got = _numbers(ask(rows.copy(), labels.copy()))
    _hold(got.shape == (20,), f"For 20 tiles expected 20 values, got shape {got.shape}.")
    same = (got > 0) == (rows.argmax(axis=1) == labels)
    _hold(same.all(), "The margin must lie above 0 exactly where the label is the predicted class.")


@_exercise
def _accuracy_gap(ask: Callable) -> None:
    first, second = np.array([1, 1, 1, 0], dtype=bool), np.array([1, 0] * 8, dtype=bool)
    given = "3 of 4 tiles right and then 8 of 16"
    got = _numbers(ask(first.copy(), second.copy()))
    _hold(got.shape == (2,), f"Expected two numbers, got an array of shape {got.shape}.")
    because = "it is the second accuracy less the first, 0.5 - 0.75"
    _expect(f"{given}, as the difference,", got[0], -0.25, because)
    because = "it is 1.96 times the root of the variances' sum, 0.1875 / 4 + 0.25 / 16"
    half = 1.96 * math.sqrt(0.1875 / 4 + 0.25 / 16)
    _expect(f"{given}, as half the interval,", got[1], half, because)
    sure = np.ones(5, dtype=bool)
    _expect("all tiles right twice", ask(sure, sure.copy()), [0, 0], "nothing varies")


@_exercise
def _accuracy_at_mix(ask: Callable) -> None:
    correct = np.array([True, True, True, False, False, False])
    labels, shares = np.array([0, 0, 2, 2, 2, 2]), np.array([0.2, 0.5, 0.3])
    because = "1 and 0.25 within classes 0 and 2, weighted 0.2 and 0.3 of 0.5; class 1 has no tile"
    got = ask(correct.copy(), labels.copy(), shares.copy())
    given = "3 of 6 tiles right, labels [0, 0, 2, 2, 2, 2] and shares [0.2, 0.5, 0.3]"
    _expect(given, got, 0.55, because)
    shares = np.bincount(labels, minlength=3) / 6
    because = "at the tiles' own mix it is the accuracy"
    _expect("the tiles' own shares", ask(correct.copy(), labels.copy(), shares), 0.5, because)


@_exercise
def _mean_of_seeds(ask: Callable) -> None:
    table = {1: 12.71, 2: 4.30, 3: 3.18}
    because = (
        "the squared deviations 1, 0 and 1 over n - 1 = 2 give s = 1, t is 4.30, and a mean of 3 "
        "scores varies √3 times less than one"
    )
    expected = [2, 4.30 / math.sqrt(3)]
    _expect("scores 1, 2, 3", ask(np.array([1.0, 2.0, 3.0]), dict(table)), expected, because)
    because = "with two scores t is 12.71, and s / root of n is half their distance"
    _expect("scores 1, 2", ask(np.array([1.0, 2.0]), dict(table)), [1.5, 12.71 / 2], because)
    because = "the mean is asked for, and the squared deviations from it are 4, 1 and 9"
    expected = [3, 4.30 * math.sqrt(7 / 3)]
    _expect("scores 1, 2, 6", ask(np.array([1.0, 2.0, 6.0]), dict(table)), expected, because)


@_exercise
def _best_of(ask: Callable) -> None:
    scores = np.array([3.0, 1.0, 2.0])
    because = "the sets {1, 2}, {1, 3} and {2, 3} have the largest 2, 3 and 3"
    _expect("scores 3, 1, 2 and k = 2", ask(scores.copy(), 2), 8 / 3, because)
    _expect("k = 1", ask(scores.copy(), 1), 2, "the best of one is that one, on average the mean")
    because = "the sets are {1, 2}, {1, 2} and {2, 2}: equal scores are different draws"
    _expect("scores 1, 2, 2 and k = 2", ask(np.array([1.0, 2.0, 2.0]), 2), 2, because)
    _expect("k = 3", ask(scores.copy(), 3), 3, "the only set of three holds the largest score")
