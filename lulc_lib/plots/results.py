"""Draw a training run and what a model got right: curves, confusion, classes, calibration."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

from lulc_lib.config import History
from lulc_lib.metrics import ECE_BINS, CoverageCurve, Report
from lulc_lib.plots.style import (
    INK,
    MARKERS,
    MUTED,
    RULE,
    SERIES,
    axes_or_new,
    dress,
    legend,
    percent,
    plain,
    readable_on,
    titles,
)
from lulc_lib.predictions import Predictions, check_predictions
from lulc_lib.tiles import CLASSES

_QUANTITIES = {  # column of a report: title of its panel, what its axis counts
    "producers_accuracy": ("Producer's accuracy (recall)", "share of the class's tiles"),
    "users_accuracy": ("User's accuracy (precision)", "share of the tiles called so"),
    "f1": ("F1", "F1"),
    "ap": ("Average precision", "average precision"),
}


def plot_history(history: History, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw loss and macro-F1 by epoch, training and validation, with the kept epoch marked.

    Args:
        history: of a training.
        ax: where to draw.
        title: which training it is; stands before the panels' titles.

    The two panels are insets of the returned Axes (`ax.child_axes`). Where the size inside the
    model changes, a dotted line says so.
    """
    if not history.epochs:
        raise ValueError("the history holds no epochs: nothing has been trained yet")
    ax = axes_or_new(ax, (9, 3.3))
    ax.set_axis_off()
    for left, kind, words in ((0.0, "loss", "Loss"), (0.56, "macro_f1", "Macro-F1")):
        panel = ax.inset_axes((left, 0, 0.44, 1))
        _draw_curves(panel, history, kind)
        _mark_sizes(panel, history, 0.98 if kind == "loss" else 0.02)
        best = history.best.get(f"val_{kind}")
        kept = "" if best is None else f"{best:.3f} on validation at the kept epoch"
        dress(panel, f"{title}: {words[0].lower()}{words[1:]}" if title else words, kept, grid="y")
        panel.set_xlabel("epoch")
    return ax


def plot_confusion(report: Report, ax: Axes | None = None, title: str = "Confusion") -> Axes:
    """Draw the confusion matrix: rows are labels, columns what was predicted.

    Numbers are tiles; colour is the share of the row on a square-root scale, so that 1 % of
    mistakes can be told from none. Right: producer's accuracy (recall); below: user's accuracy
    (precision).
    """
    counts = np.asarray(report.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = axes_or_new(ax, (8.4, 6.8))
    ax.set_facecolor("#F4F5F7")
    shown = np.ma.masked_equal(share, 0)
    drawn = ax.imshow(shown, cmap="magma_r", norm=PowerNorm(0.5, 0, 1))
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = readable_on(drawn.cmap(drawn.norm(share[row, column])))
            ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=colour,
                    fontweight="bold" if row == column else "normal")  # fmt: skip
    n = len(CLASSES)
    for i, name in enumerate(CLASSES):
        rates = report.per_class.loc[name]
        ax.text(n - 0.3, i, percent(rates.producers_accuracy), va="center", fontsize=8, color=INK)
        ax.text(i, n - 0.2, percent(rates.users_accuracy), ha="center", va="center",
                fontsize=7, color=INK)  # fmt: skip
    ax.text(n - 0.3, -0.85, "producer's\naccuracy", fontsize=7.5, color=MUTED, va="center")
    ax.text(-0.7, n - 0.2, "user's accuracy", fontsize=7.5, color=MUTED, va="center", ha="right")
    ax.set_xticks(range(n), CLASSES, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(n), CLASSES)
    ax.tick_params(length=0, labelsize=8.5, colors=INK)
    ax.tick_params(axis="x", pad=14)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("predicted", color=INK)
    ax.set_ylabel("label", color=INK)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.5, pad=0.11, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.ax.tick_params(labelsize=7.5, colors=INK)
    bar.set_label("share of the label's tiles", fontsize=8, color=INK)
    bar.outline.set_visible(False)
    accuracy = percent(np.trace(counts) / max(1, counts.sum()))
    titles(ax, title, f"{counts.sum():,} tiles, accuracy {accuracy}")
    return ax


def plot_per_class(
    reports: Report | Mapping[str, Report],
    quantities: Sequence[str] = ("producers_accuracy", "users_accuracy"),
    ax: Axes | None = None,
) -> Axes:
    """Draw per-class figures of one model or several, one panel per quantity, on one scale.

    The axis need not begin at 0; where it does not, its label says where it begins.

    Args:
        reports: a Report, or a dict of model name -> Report (at most four).
        quantities: columns of `Report.per_class`, such as producers_accuracy, users_accuracy, f1
            or ap; columns that end in `_low` and `_high` are drawn as an interval.
        ax: where to draw; the panels are its insets.
    """
    reports = reports if isinstance(reports, Mapping) else {"": reports}
    if not 1 <= len(reports) <= len(SERIES):
        raise ValueError(f"give 1 to {len(SERIES)} reports, got {len(reports)}")
    for report in reports.values():
        for name in quantities:
            if name not in report.per_class.columns:
                raise ValueError(
                    f"unknown quantity {name!r}; the report has {', '.join(report.per_class)}"
                )
    ax = axes_or_new(ax, (4.6 * len(quantities), 3.8))
    ax.set_axis_off()
    width = 1.06 / len(quantities) - 0.06
    for i, name in enumerate(quantities):
        panel = ax.inset_axes((i * (width + 0.06), 0, width, 1))
        _draw_dots(panel, reports, name)
        panel.tick_params(labelleft=i == 0)
        named = "" not in reports
        dress(panel, _QUANTITIES.get(name, (name,))[0], " " if named else "", grid="x")
        if named:
            legend(panel, len(reports), left=True)
    limits = np.array([panel.get_xlim() for panel in ax.child_axes])
    for panel, name in zip(ax.child_axes, quantities, strict=True):
        panel.set_xlim(limits[:, 0].min(), limits[:, 1].max())
        low, words = limits[:, 0].min(), _QUANTITIES.get(name, ("", name))[1]
        begins = f" (axis begins at {panel.xaxis.get_major_formatter()(low)})" if low > 0 else ""
        panel.set_xlabel(words + begins)
    return ax


def plot_reliability(
    predictions: Predictions,
    bins: int = ECE_BINS,
    ax: Axes | None = None,
    title: str = "Calibration",
) -> Axes:
    """Draw calibration: how often the model is right, by how sure it says it is.

    The upper panel compares accuracy with mean confidence in bins of equal width (15 as in Guo et
    al. 2017); on the diagonal the two agree. A line is the 95 % Wilson interval of the accuracy.
    The lower panel counts the tiles of each bin. Both are insets of the returned Axes.

    Raises:
        TypeError: if they are no Predictions.
        ValueError: if they have no labels.
    """
    check_predictions(predictions)
    if predictions.labels is None:
        raise ValueError("calibration needs labels; these predictions have none")
    confidence, correct = np.asarray(predictions.confidence), np.asarray(predictions.correct)
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = count > 0
    accuracy = np.bincount(which, correct, bins)[filled] / count[filled]
    stated = np.bincount(which, confidence, bins)[filled] / count[filled]
    gap = float(np.sum(count[filled] * np.abs(accuracy - stated)) / count.sum())
    ax = axes_or_new(ax, (4.4, 5))
    ax.set_axis_off()
    panel, below = ax.inset_axes((0, 0.32, 1, 0.68)), ax.inset_axes((0, 0, 1, 0.22))
    panel.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    panel.vlines(stated, *_wilson(accuracy, count[filled]), color=SERIES[0], linewidth=1.4)
    panel.plot(stated, accuracy, "o", color=SERIES[0], markersize=6)
    panel.text(0.03, 0.95, "claims\ntoo little", fontsize=7.5, color=MUTED, va="top")
    panel.text(0.97, 0.03, "claims too much", fontsize=7.5, color=MUTED, ha="right")
    panel.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="accuracy")
    dress(panel, title, f"{len(correct):,} tiles, expected calibration error {gap:.3f}")
    below.bar(edges[:-1] + 0.5 / bins, count, width=0.86 / bins, color=SERIES[0])
    below.set(xlim=(0, 1.02), xlabel="confidence: probability of the predicted class",
              ylabel="tiles (log)", yscale="log",
              ylim=(0.7, max(10, count.max() * 1.5)))  # fmt: skip
    below.yaxis.set_major_locator(LogLocator(10, numticks=6))
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_locator(NullLocator())
    dress(below)
    return ax


def plot_coverage(
    curves: CoverageCurve | Mapping[str, CoverageCurve], ax: Axes | None = None
) -> Axes:
    """Draw the accuracy of the tiles that a model is surest of, by the share of tiles answered.

    The dotted line is the accuracy of random order, which is that of all tiles. The area in the
    legend is the mean error rate over all coverages (AURC), with its 95 % interval.

    Args:
        curves: a CoverageCurve, or a dict of model name -> CoverageCurve (at most four).
        ax: where to draw.
    """
    curves = curves if isinstance(curves, Mapping) else {curves.model: curves}
    if not 1 <= len(curves) <= len(SERIES):
        raise ValueError(f"give 1 to {len(SERIES)} curves, got {len(curves)}")
    ax = axes_or_new(ax, (7.2, 3.6))
    styles = ("solid", (0, (5, 1.5)), (0, (3, 1.2, 1.2, 1.2)), (0, (1.2, 1.2)))
    for (name, curve), colour, style in zip(curves.items(), SERIES, styles, strict=False):
        area = curve.area
        text = f"{name}: AURC {100 * area:.2f} % [{100 * area.low:.2f}, {100 * area.high:.2f}]"
        ax.plot(curve.coverage, curve.accuracy, color=colour, linestyle=style, linewidth=1.8,
                label=plain(text))  # fmt: skip
        ax.axhline(1 - curve.chance, color=colour, linewidth=1, linestyle=":")
    ax.set(xlim=(0, 1), xlabel="coverage: share of the tiles that are answered, surest first",
           ylabel="accuracy of these tiles")  # fmt: skip
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.4g}%")
    count = len(next(iter(curves.values())).coverage)
    dress(ax, "Accuracy against coverage", f"{count:,} tiles; dotted: tiles in random order")
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, loc="center", bbox_to_anchor=(0.5, 0.35))
    return ax


def _draw_curves(ax: Axes, history: History, kind: str) -> None:
    epochs = [int(entry.get("epoch", i)) for i, entry in enumerate(history.epochs)]
    curves = {
        name: np.array([float(entry.get(f"{part}_{kind}", np.nan)) for entry in history.epochs])
        for part, name in (("train", "training"), ("val", "validation"))
    }
    ends = {name: values[-1] for name, values in curves.items() if np.isfinite(values[-1])}
    looks = ((MUTED, "o", 1.2), (SERIES[0], "D", 2.0))
    for (name, values), (colour, marker, width) in zip(curves.items(), looks, strict=True):
        ax.plot(epochs, values, color=colour, linewidth=width, marker=marker, markersize=3.5)
        if name in ends:
            above = name == max(ends, key=ends.get)  # one of two that end alike
            ax.annotate(name, (epochs[-1], ends[name]), (7, 0), textcoords="offset points",
                        va="bottom" if above else "top", fontsize=8, color=colour,
                        annotation_clip=False)  # fmt: skip
    if 0 <= history.best_epoch < len(epochs):
        kept = epochs[history.best_epoch]
        ax.axvline(kept, color=INK, linewidth=0.8, alpha=0.5)
        ax.plot([kept], curves["validation"][[history.best_epoch]], "D", color=SERIES[1],
                markersize=7, markeredgecolor="white")  # fmt: skip
    ax.set_xlim(epochs[0] - 0.4, epochs[-1] + 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _mark_sizes(ax: Axes, history: History, height: float) -> None:
    """Mark where the size inside the model changes, with words at a height clear of the curves."""
    for i in range(1, len(history.epochs)):
        before, size = (history.epochs[j].get("size") for j in (i - 1, i))
        if size and before and size != before:
            where = history.epochs[i].get("epoch", i) - 0.5
            ax.axvline(where, color=MUTED, linewidth=1, linestyle=":")
            ax.annotate(f"{before:.0f} to {size:.0f} px", (where, height), (-3, 0), rotation=90,
                        ha="right", va="top" if height > 0.5 else "bottom", fontsize=7.5,
                        color=MUTED, xycoords=("data", "axes fraction"),
                        textcoords="offset points")  # fmt: skip


def _draw_dots(ax: Axes, reports: Mapping[str, Report], quantity: str) -> None:
    values = np.array([report.per_class[quantity].to_numpy(float) for report in reports.values()])
    rows = np.arange(values.shape[1])
    lined = any(f"{quantity}_low" in report.per_class for report in reports.values())
    # Of a row, so that no interval and no marker hides another.
    apart = 0.6 / len(values) if lined else 0.24
    if len(values) > 1 and not lined:
        ax.hlines(rows, values.min(axis=0), values.max(axis=0), color=RULE, linewidth=3)
    for i, (name, report) in enumerate(reports.items()):
        table, y = report.per_class, rows + apart * (i - (len(values) - 1) / 2)
        if f"{quantity}_low" in table:
            low, high = table[f"{quantity}_low"], table[f"{quantity}_high"]
            ax.hlines(y, low, high, color=SERIES[i], linewidth=1.6)
        ax.plot(values[i], y, MARKERS[i], color=SERIES[i], markersize=7, label=name,
                markeredgecolor="white")  # fmt: skip
    ax.set_yticks(rows, next(iter(reports.values())).per_class.index)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    share = quantity in ("producers_accuracy", "users_accuracy")
    ax.xaxis.set_major_formatter(lambda x, _=None: f"{100 * x:.3g}%" if share else f"{x:.3g}")


def _wilson(share: np.ndarray, count: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return centre - half, centre + half
