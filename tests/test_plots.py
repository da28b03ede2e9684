"""Figures show what they claim: words, counts, one scale per column, tiles beside their maps."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lulc_lib import plots
from lulc_lib.config import History
from lulc_lib.evidence import Verdict
from lulc_lib.explanations import Explanation, explain
from lulc_lib.metrics import coverage, evaluate
from lulc_lib.models import create_model
from lulc_lib.predictions import Predictions
from lulc_lib.tiles import CLASS_COLORS, CLASSES, TileSet


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    """Close what a test left open, so that pyplot never warns of many figures."""
    yield
    plt.close("all")


def made(tiles: TileSet, cells: int = 4, signed: bool = False, seed: int = 0) -> Explanation:
    """Return an explanation with made-up maps, resized as `explain` does it."""
    generator = np.random.default_rng(seed)
    grid = generator.random((len(tiles), cells, cells), dtype=np.float32) - 0.5 * signed
    heatmap = torch.nn.functional.interpolate(
        torch.from_numpy(grid)[:, None], size=(64, 64), mode="bilinear", align_corners=False
    )
    logits = generator.normal(size=(len(tiles), 10)).astype(np.float32)
    return Explanation(
        heatmap[:, 0].numpy(), grid, logits.argmax(axis=1), logits, "gradcam", "network.layer4", {}
    )


def predicted(tiles: TileSet, sure: float = 3.0, seed: int = 0) -> Predictions:
    """Return predictions that are mostly right."""
    logits = np.random.default_rng(seed).normal(size=(len(tiles), 10)).astype(np.float32)
    logits[np.arange(len(tiles)), tiles.labels.numpy()] += sure
    return Predictions(logits, tiles.labels.numpy(), tiles.names, model="resnet50")


def words(drawn: Axes | Figure) -> str:
    """Return all text of a figure, line by line."""
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_text())


def maps(figure: Figure) -> list[Axes]:
    """Return the Axes of a gallery that hold a tile in grey and a map over it."""
    return [ax for ax in figure.axes if len(ax.images) == 2]


# --- tiles ---------------------------------------------------------------------------------------


def test_contact_sheet_shows_each_tile_with_its_label(tiles: TileSet):
    """The sheet holds every tile's own pixels, one label each, and the class's colour below it."""
    some = tiles[::12]
    ax = plots.plot_tiles(some, columns=3)
    sheet = ax.images[0].get_array()
    np.testing.assert_array_equal(sheet[:64, :64], some.images[0].permute(1, 2, 0))
    np.testing.assert_array_equal(sheet[:64, 70:134], some.images[1].permute(1, 2, 0))
    strip = np.round(np.array(to_rgb(CLASS_COLORS[CLASSES[some.labels[0]]])) * 255)
    np.testing.assert_array_equal(sheet[66, 10], strip)
    labels = [text.get_text().replace("\n", "") for text in ax.texts]
    assert labels == [CLASSES[label] for label in some.labels]


def test_contact_sheet_has_tiles_of_the_size_that_was_asked_for(tiles: TileSet):
    """A wider tile makes a larger figure and a larger caption; a size that is none is refused."""
    one, two = (plots.plot_tiles(tiles[:6], columns=3, inches=size) for size in (1, 1.9))
    assert two.figure.get_size_inches() == pytest.approx(1.9 * one.figure.get_size_inches())
    assert two.texts[0].get_fontsize() == pytest.approx(1.9 * one.texts[0].get_fontsize())
    for size in (0, -1, float("nan"), "large", None):
        with pytest.raises(ValueError, match=r"inches must be a number from 0\.2 to 10, got"):
            plots.plot_tiles(tiles[:2], inches=size)


def test_contact_sheet_takes_captions_and_refuses_what_does_not_fit(tiles: TileSet):
    """Own captions replace labels; a wrong number of them, no tiles or no columns are errors."""
    assert "first" in words(plots.plot_tiles(tiles[:2], captions=["first", "second"]))
    ax = plots.plot_tiles(tiles[:2], captions=["Forest\n→ PermanentCrop\n93 %"] * 2)
    assert ax.texts[0].get_text() == "Forest\n→ Permanent\nCrop\n93 %"  # no wider than its tile
    with pytest.raises(ValueError, match="1 captions do not fit 2 tiles"):
        plots.plot_tiles(tiles[:2], captions=["one"])
    with pytest.raises(ValueError, match="no tiles"):
        plots.plot_tiles(tiles[:0])
    with pytest.raises(ValueError, match="columns must be a whole number of at least 1, got 0"):
        plots.plot_tiles(tiles[:2], columns=0)


def test_class_balance_counts_tiles_and_parts(tiles: TileSet):
    """Bars are as long as the counts; parts are stacked to the same totals and named."""
    some = tiles[:50]
    ax = plots.plot_class_balance(some)
    widths = [bar.get_width() for bar in ax.patches[: len(CLASSES)]]
    assert widths == list(some.class_counts().values())
    stacked = plots.plot_class_balance({"train": some[:20], "test": some[20:]})
    text = words(stacked)
    assert "train" in text
    assert "50 tiles" in text
    ends = [bar.get_x() + bar.get_width() for bar in stacked.containers[2]]
    assert ends == widths


def test_colour_statistics_are_means_over_tiles(tiles: TileSet):
    """The red marker of a class stands at the mean red of its tiles; channels differ in shape."""
    ax = plots.plot_colour_statistics(tiles)
    red = ax.containers[0].lines[0]
    river = tiles.of_class("River").float()[:, 0].mean()
    position = [label.get_text() for label in ax.get_yticklabels()].index("River")
    assert red.get_xdata()[position] == pytest.approx(float(river), abs=1e-6)
    assert len({container.lines[0].get_marker() for container in ax.containers}) == 3


def test_colour_statistics_skip_absent_classes(tiles: TileSet):
    """A class without tiles has no row, and no tiles at all is an error."""
    ax = plots.plot_colour_statistics(tiles.of_class("River"))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["River"]
    with pytest.raises(ValueError, match="no tiles"):
        plots.plot_colour_statistics(tiles[:0])


def test_mask_outline_is_its_border(tiles: TileSet):
    """A square of 10 pixels has an outline of 40 pixel edges; what lies outside is darker."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 30:40] = True
    ax = plots.plot_mask(tiles.images[0], mask)
    edges = np.array(ax.collections[0].get_segments())
    assert len(edges) == 40
    assert edges.reshape(-1, 2).min(axis=0).tolist() == [29.5, 9.5]
    assert edges.reshape(-1, 2).max(axis=0).tolist() == [39.5, 19.5]
    drawn, tile = ax.images[0].get_array(), tiles.images[0].permute(1, 2, 0).numpy() / 255
    np.testing.assert_allclose(drawn[mask], tile[mask], atol=1e-6)
    np.testing.assert_allclose(drawn[~mask], 0.45 * tile[~mask], atol=1e-6)


def test_whole_tile_mask_is_framed(tiles: TileSet):
    """Where the whole tile is the evidence, the outline is the tile's frame; none has no line."""
    full = plots.plot_mask(tiles.images[0], np.ones((64, 64), dtype=bool))
    assert len(full.collections[0].get_segments()) == 4 * 64
    empty = plots.plot_mask(tiles.images[0], np.zeros((64, 64), dtype=bool))
    assert len(empty.collections[0].get_segments()) == 0
    with pytest.raises(ValueError, match=r"mask must be bool \(64, 64\), got float64 \(64, 64\)"):
        plots.plot_mask(tiles.images[0], np.zeros((64, 64)))


# --- training and evaluation ---------------------------------------------------------------------


def history(*sizes: int) -> History:
    epochs = tuple(
        {"epoch": i, "train_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1), "size": size,
         "train_macro_f1": 0.5 + 0.1 * i, "val_macro_f1": 0.4 + 0.1 * i}
        for i, size in enumerate(sizes)
    )  # fmt: skip
    return History(epochs=epochs, best_epoch=len(sizes) - 2 if len(sizes) > 1 else 0)


def test_history_draws_four_curves_and_the_kept_epoch():
    """Loss and macro-F1, training and validation, with the kept epoch's figures in words."""
    ax = plots.plot_history(history(64, 64, 64, 64))
    loss, score = ax.child_axes
    assert loss.lines[0].get_ydata().tolist() == [1, 0.5, pytest.approx(1 / 3), 0.25]
    assert score.lines[1].get_ydata()[2] == pytest.approx(0.6)
    kept = [line for line in loss.lines if len(line.get_xdata()) == 1]
    assert (kept[0].get_xdata()[0], kept[0].get_ydata()[0]) == (2, pytest.approx(0.4))
    assert "0.600 on validation at the kept epoch" in words(ax)
    assert " px" not in words(ax)
    named = plots.plot_history(history(64, 64), title="vit, short run")
    assert "vit, short run: macro-F1" in words(named)


def test_history_marks_changes_of_size_and_bears_gaps():
    """A change of the size inside is named; one epoch alone, or without training F1, is drawn."""
    assert "64 to 96 px" in words(plots.plot_history(history(64, 64, 96)))
    single = history(64)
    bare = {k: v for k, v in single.epochs[0].items() if k != "train_macro_f1"}
    text = words(plots.plot_history(replace(single, epochs=(bare,))))
    assert text.count("training") == 1
    assert text.count("validation\n") == 2
    with pytest.raises(ValueError, match="no epochs"):
        plots.plot_history(History())


def test_curves_that_end_alike_have_their_names_apart():
    """One name stands above the common end, the other below."""
    equal = {"epoch": 0, "train_loss": 0.5, "val_loss": 0.5, "train_macro_f1": 1.0,
             "val_macro_f1": 1.0, "size": 64}  # fmt: skip
    for ax in plots.plot_history(History(epochs=(equal,), best_epoch=0)).child_axes:
        named = [t for t in ax.texts if t.get_text() in ("training", "validation")]
        assert {text.get_va() for text in named} == {"bottom", "top"}


def test_confusion_shows_counts_by_label_row(tiles: TileSet):
    """Each cell holds its count, rows are labels, and empty cells stay empty."""
    pred = predicted(tiles, sure=1.5)
    report = evaluate(pred, resamples=20)
    ax = plots.plot_confusion(report)
    cells = {
        text.get_position()[::-1]: int(text.get_text())
        for text in ax.texts
        if text.get_text().isdigit()
    }
    drawn = np.zeros((10, 10), dtype=int)
    for (row, column), count in cells.items():
        drawn[row, column] = count
    np.testing.assert_array_equal(drawn, report.confusion)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    assert ax.images[0].get_array()[2, 2] == report.per_class.producers_accuracy.iloc[2]
    assert f"accuracy {100 * float(report.accuracy):.1f} %" in words(ax)
    assert "Confusion: vit" in words(plots.plot_confusion(report, title="Confusion: vit"))


def test_small_mistakes_can_be_seen(tiles: TileSet):
    """1 % of a row differs visibly from the colour of nothing, and its number can be read."""
    report = evaluate(predicted(tiles), resamples=20)
    image = plots.plot_confusion(report).images[0]
    few, none = (np.array(image.cmap(image.norm(share))[:3]) for share in (0.01, 0.0))
    assert np.abs(few - none).max() > 0.05


def test_confusion_bears_absent_classes(tiles: TileSet):
    """A class that does not occur has an undefined accuracy, shown as a dash."""
    some = tiles.of_class("River")
    ax = plots.plot_confusion(evaluate(predicted(some, sure=20), resamples=20))
    assert words(ax).count("–") == 18


def test_per_class_puts_models_side_by_side(tiles: TileSet):
    """Two models have two marks per class and are named; the values are the report's."""
    reports = {
        "resnet50": evaluate(predicted(tiles), resamples=20),
        "vit": evaluate(predicted(tiles, sure=2, seed=1), resamples=20),
    }
    ax = plots.plot_per_class(reports)
    first, second = ax.child_axes
    marks = first.lines[0].get_xdata()
    assert marks.tolist() == reports["resnet50"].per_class.producers_accuracy.tolist()
    assert second.lines[1].get_xdata().tolist() == reports["vit"].per_class.users_accuracy.tolist()
    assert first.lines[0].get_marker() != first.lines[1].get_marker()
    assert first.get_xlim() == second.get_xlim()  # one place means one value in both panels
    assert {"resnet50", "vit"} <= set(words(ax).split("\n"))
    alone = plots.plot_per_class({"vit": reports["vit"]}, ("f1",))
    assert "vit" in words(alone).split("\n")


def test_per_class_says_what_its_axis_counts_and_where_it_begins(tiles: TileSet):
    """Accuracies are shares in per cent, F1 is a number; an axis that leaves out 0 says so."""
    report = evaluate(predicted(tiles), resamples=20)
    table = report.per_class.assign(f1=np.linspace(0.96, 1, 10), users_accuracy=np.arange(10) / 9)
    report = replace(report, per_class=table)
    panels = plots.plot_per_class(report, ["f1"]).child_axes
    panels += plots.plot_per_class(report, ["users_accuracy", "ap"]).child_axes
    f1, users, ap = panels
    assert f1.get_xlabel() == "F1 (axis begins at 0.958)"
    assert f1.xaxis.get_major_formatter()(0.967) == "0.967"
    assert users.get_xlabel() == "share of the tiles called so"
    assert users.xaxis.get_major_formatter()(0.5) == "50%"
    assert ap.get_xlabel() == "average precision"


def test_per_class_draws_intervals_where_there_are_some(tiles: TileSet):
    """Columns ending in _low and _high become lines; without them there is none."""
    report = evaluate(predicted(tiles), resamples=20)
    assert not plots.plot_per_class(report, ["f1"]).child_axes[0].collections
    table = report.per_class.assign(f1_low=report.per_class.f1 - 0.1, f1_high=1.0)
    lines = plots.plot_per_class(replace(report, per_class=table), ["f1"])
    assert len(lines.child_axes[0].collections[0].get_segments()) == 10


def test_per_class_names_what_it_does_not_know(tiles: TileSet):
    """An unknown quantity is an error that lists the known ones; so are five models."""
    report = evaluate(predicted(tiles), resamples=20)
    with pytest.raises(ValueError, match=r"unknown quantity 'recall'.*producers_accuracy"):
        plots.plot_per_class(report, ["recall"])
    with pytest.raises(ValueError, match="1 to 4 reports, got 5"):
        plots.plot_per_class(dict.fromkeys("abcde", report))


def test_calibration_agrees_with_the_report(tiles: TileSet):
    """The error written above the figure is the report's, and the bars count all tiles."""
    pred = predicted(tiles, sure=1)
    ax = plots.plot_reliability(pred)
    assert f"error {float(evaluate(pred, resamples=20).ece):.3f}" in words(ax)
    assert sum(bar.get_height() for bar in ax.child_axes[1].patches) == len(tiles)
    with pytest.raises(ValueError, match="needs labels"):
        plots.plot_reliability(replace(pred, labels=None))
    with pytest.raises(TypeError, match=r"must be Predictions, .* got TileSet"):
        plots.plot_reliability(tiles)


# --- maps ----------------------------------------------------------------------------------------


def test_signed_maps_diverge_from_zero_and_others_do_not(tiles: TileSet):
    """A map with a negative value gets symmetrical limits and a diverging colour map."""
    for low, cmap, bottom in ((-0.1, "RdBu_r", -2.0), (0.0, "magma", 0.0)):
        heatmap = np.full((64, 64), low)
        heatmap[:, 32:] = 2
        drawn = plots.plot_heatmap(tiles.images[0], heatmap).images[1]
        assert (drawn.norm.vmin, drawn.norm.vmax) == (bottom, 2.0)
        assert drawn.get_cmap().name == cmap
        np.testing.assert_array_equal(drawn.get_array(), heatmap)
    assert "jet" not in (plots.maps.SEQUENTIAL, plots.maps.DIVERGING)


def test_tile_below_a_map_is_grey(tiles: TileSet):
    """The tile under a map has one channel, so that all colour comes from the map."""
    ax = plots.plot_heatmap(tiles.images[0], np.zeros((64, 64)), opacity=0.3)
    under, over = ax.images
    assert under.get_array().shape == (64, 64)
    assert under.get_cmap().name == "gray"
    assert over.get_alpha() == 0.3


def test_zero_map_is_drawn_blank(tiles: TileSet):
    """A map of zeros has no outline and no colour but that of 0; so has a map of NaN."""
    for value in (0.0, np.nan):
        ax = plots.plot_heatmap(tiles.images[0], np.full((64, 64), value))
        assert not ax.collections
        assert ax.images[1].norm.vmax == 1


def test_outlines_tell_the_sign_without_colour(tiles: TileSet):
    """Half of the scale is outlined, solid above 0 and dashed below."""
    heatmap = np.zeros((64, 64))
    heatmap[10:20, 10:20], heatmap[40:50, 40:50] = 1, -1
    above, below = plots.plot_heatmap(tiles.images[0], heatmap).collections
    assert above.get_linestyle()[0][1] is None
    assert below.get_linestyle()[0][1] is not None


def test_heatmap_errors_name_the_value(tiles: TileSet):
    """Wrong shapes, opacities and limits are refused in words."""
    tile, blank = tiles.images[0], np.zeros((64, 64))
    with pytest.raises(ValueError, match=r"shape \(64, 64\), got \(7, 7\)"):
        plots.plot_heatmap(tile, np.zeros((7, 7)))
    with pytest.raises(ValueError, match=r"opacity must lie in \[0, 1\], got 1.5"):
        plots.plot_heatmap(tile, blank, opacity=1.5)
    with pytest.raises(ValueError, match="limit must be positive and finite, got -1"):
        plots.plot_heatmap(tile, blank, limit=-1)
    with pytest.raises(ValueError, match=r"one tile .* got 2"):
        plots.plot_heatmap(tiles.images[:2], blank)


def test_scale_resists_one_hot_pixel():
    """One extreme pixel in many maps does not darken the others, and the clipping is known."""
    heatmaps = np.ones((10, 64, 64))
    assert plots.map_scale(heatmaps) == plots.Scale(1.0, signed=False, clipped=False)
    heatmaps[0, 0, 0] = 1000
    assert plots.map_scale(heatmaps) == plots.Scale(1.0, signed=False, clipped=True)
    assert plots.map_scale(heatmaps, limit=5).limit == 5


def test_scale_resists_one_strong_tile():
    """One tile with a map a hundred times stronger does not leave the others blank."""
    heatmaps = np.ones((10, 64, 64))
    heatmaps[3] = -100
    assert plots.map_scale(heatmaps) == plots.Scale(1.0, signed=True, clipped=True)
    alone = plots.map_scale(heatmaps[3])
    assert alone == plots.Scale(100.0, signed=True, clipped=False)
    assert plots.map_scale(np.zeros((2, 64, 64))).limit == 1


def test_grid_and_range_in_words():
    """A 7x7 grid has cells of 91 m; ranges keep two digits and a true minus sign."""
    assert plots.describe_grid(np.zeros((7, 7))) == "7x7 grid, 1 cell = 91 m"
    assert plots.describe_grid(np.zeros((3, 8, 16))) == "8x16 grid, 1 cell = 40 x 80 m"
    assert plots.describe_grid(np.zeros((7, 7)), ground=None) == "7x7 grid"
    assert plots.describe_range([-0.0213, 0.3149]) == "raw −0.021 to 0.31"
    assert plots.describe_range([0.0, 0.0]) == "raw 0 everywhere"
    assert plots.describe_range([0.0, np.nan]) == "raw NaN: no map"
    assert plots.describe_probability(0.98765) == "98.8 %"
    assert plots.describe_probability(0.99999) == ">99.9 %"


# --- the gallery ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_gallery_has_a_tile_beside_its_maps(tiles: TileSet, count: int):
    """N tiles with two models are 3 N pictures; a tile's maps stand in its own row."""
    some = tiles[:count]
    figure = plots.plot_gallery(some, {"resnet50": made(some), "vit": made(some, 8, signed=True)})
    pictures = [ax for ax in figure.axes if len(ax.images) == 1 and not ax.get_label()]
    assert (len(pictures), len(maps(figure))) == (count, 2 * count)
    for i, ax in enumerate(pictures):
        pixels = some.images[i].permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(ax.images[0].get_array(), pixels, atol=1e-6)
        for beside in maps(figure)[2 * i : 2 * i + 2]:
            assert beside.get_position().y0 == pytest.approx(ax.get_position().y0)
            assert beside.get_position().x0 > ax.get_position().x1


def test_gallery_shares_one_scale_per_column(tiles: TileSet):
    """All maps of a model have one scale, also those of a hundred times weaker tile."""
    some = tiles[:3]
    strong = made(some, signed=True)
    weak = strong.heatmap * np.array([1, 0.01, 1], dtype=np.float32)[:, None, None]
    positive = replace(made(some), method="elementwise")
    figure = plots.plot_gallery(some, {"a": replace(strong, heatmap=weak), "b": positive})
    limits = [(ax.images[1].norm.vmin, ax.images[1].norm.vmax) for ax in maps(figure)]
    assert len(set(limits[0::2])) == len(set(limits[1::2])) == 1
    assert limits[0][0] == -limits[0][1]
    assert limits[1][0] == 0
    bars = [ax for ax in figure.axes if ax.get_label() == "colour bar"]
    assert [bar.get_xlim() for bar in bars] == [limits[0], limits[1]]


def test_gallery_captions_say_what_must_be_known(tiles: TileSet):
    """Label, name, prediction, probability, target, method, layer, grid and range are there."""
    some = tiles[:1]
    maps_ = made(some, 7)
    pred = predicted(some, sure=4)
    figure = plots.plot_gallery(some, {"resnet50": maps_}, {"resnet50": pred})
    text = words(figure)
    target = CLASSES[maps_.target[0]]
    assert maps_.target[0] != some.labels[0]
    for part in (
        CLASSES[some.labels[0]], Path(some.names[0]).stem, f"✓ {CLASSES[some.labels[0]]}",
        f"{100 * pred.confidence[0]:.1f} %", f"target {target}", "gradcam", "stage 4",
        "7x7 grid, 1 cell = 91 m", plots.describe_range(maps_.grid[0]), "640 m across",
        "does not show where the class is",
    ):  # fmt: skip
        assert part in " ".join(text.split()), part


def test_gallery_captions_give_each_class_its_own_probability(tiles: TileSet):
    """The predicted class's probability is below it, the target's below the target."""
    some = tiles[:1]
    maps_ = replace(made(some, 7), warnings={"LowConfidence": (0,)})
    pred = predicted(some, sure=4)
    column = plots.gallery_columns(some, {"m": maps_}, {"m": pred})[0]
    target = int(maps_.target[0])
    believed = plots.describe_probability(pred.probabilities[0, target])
    lines = column.caption(0)[1].split("\n")
    assert lines[0] == plots.describe_probability(pred.confidence[0]) != believed
    assert lines[1:3] == [f"target {CLASSES[target]}", f"{believed}, LowConfidence"]
    same = replace(maps_, target=pred.predicted, warnings={})
    column = plots.gallery_columns(some, {"m": same}, {"m": pred})[0]
    assert column.caption(0)[1].split("\n") == [lines[0], lines[3]]


def test_gallery_marks_wrong_and_trained_on(tiles: TileSet):
    """A wrong prediction gets a cross, and a tile that the model was trained on is named."""
    some = tiles[:2]
    pred = predicted(some, sure=20)
    wrong = replace(pred, logits=np.roll(pred.logits, 1, axis=1), seen=np.array([False, True]))
    text = words(plots.plot_gallery(some, {"m": made(some)}, {"m": wrong}))
    assert text.count("✗ ") == 2
    assert "✓ " not in text
    assert text.count("the model was trained on this tile") == 1


def test_gallery_finds_predictions_by_name(tiles: TileSet):
    """Predictions of more tiles, in another order, are found by the tiles' names."""
    order = torch.randperm(len(tiles))
    some, pred = tiles[[5, 40]], predicted(tiles[order], sure=2)
    (column,) = plots.gallery_columns(some, {"vit · hirescam": made(some)}, {"vit": pred})
    where = [pred.names.index(name) for name in some.names]
    np.testing.assert_array_equal(column.predicted, pred.predicted[where])
    np.testing.assert_allclose(column.probability, pred.confidence[where])


def test_gallery_without_labels_judges_nothing(tiles: TileSet):
    """Plain images get no tick and no cross, and the name given for them."""
    some = tiles[:2]
    text = words(plots.plot_gallery(some.images, {"m": made(some)}, names=["a.jpg", "b.jpg"]))
    assert "failed single deletion" not in text
    assert "a.jpg" in text
    assert "✓" not in text
    assert "✗" not in text


def test_gallery_refuses_what_does_not_belong_together(tiles: TileSet):
    """Each mismatch is an error that names the part and the numbers."""
    some, maps_ = tiles[:3], made(tiles[:3])
    with pytest.raises(TypeError, match=r"dict of name -> Explanation.*got Explanation"):
        plots.plot_gallery(some, maps_)
    with pytest.raises(ValueError, match="no explanations"):
        plots.plot_gallery(some, {})
    with pytest.raises(ValueError, match="'m' holds 3 maps, but there are 2 tiles"):
        plots.plot_gallery(tiles[:2], {"m": maps_})
    with pytest.raises(ValueError, match=r"predictions of 'x' belong to no explanation.*'m'"):
        plots.plot_gallery(some, {"m": maps_}, {"x": predicted(some)})
    with pytest.raises(ValueError, match="lack 1 of the 3 tiles, first"):
        plots.plot_gallery(some, {"m": maps_}, {"m": predicted(tiles[:2])})
    with pytest.raises(ValueError, match="hold 2 pictures, not 3"):
        plots.plot_gallery(some.images, {"m": maps_}, {"m": predicted(tiles[:2])})
    with pytest.raises(ValueError, match="1 names do not fit 3 tiles"):
        plots.plot_gallery(some, {"m": maps_}, names=["one"])
    many = tiles[torch.zeros(101, dtype=torch.int64)]
    with pytest.raises(ValueError, match="101 tiles with 1 maps each are too many"):
        plots.plot_gallery(many, {"m": made(many)})


def test_gallery_of_a_real_model(tiles: TileSet):
    """What `explain` returns is drawn as it is, for a convolutional model."""
    model = create_model("resnet18", image_size=64)
    some = tiles[:2]
    figure = plots.plot_gallery(some, {"resnet18": explain(model, some, method="eigencam")})
    assert "2x2 grid, 1 cell = 320 m" in words(figure)


# --- files and figures ---------------------------------------------------------------------------


def test_gallery_shows_itself_and_leaves_no_figure(tiles: TileSet):
    """A gallery draws itself, unknown to pyplot; an Axes is kept until closed."""
    some = tiles[:1]
    figure = plots.plot_gallery(some, {"m": made(some)})
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plots.figure_jpeg(figure).startswith(b"\xff\xd8")
    assert plt.get_fignums() == []
    ax = plots.plot_tiles(some)
    assert len(plt.get_fignums()) == 1
    plots.close(ax)
    assert plt.get_fignums() == []


def test_every_plot_draws_on_the_axes_it_is_given(tiles: TileSet):
    """With `ax` given, nothing is drawn elsewhere and the same Axes comes back."""
    pred = predicted(tiles)
    report = evaluate(pred, resamples=20)
    figure = Figure()
    for draw, result in (
        (plots.plot_tiles, (tiles[:3],)),
        (plots.plot_class_balance, (tiles,)),
        (plots.plot_colour_statistics, (tiles,)),
        (plots.plot_mask, (tiles.images[0], np.ones((64, 64), dtype=bool))),
        (plots.plot_history, (history(64, 64),)),
        (plots.plot_confusion, (report,)),
        (plots.plot_per_class, (report,)),
        (plots.plot_reliability, (pred,)),
        (plots.plot_heatmap, (tiles.images[0], np.zeros((64, 64)))),
    ):
        ax = figure.add_subplot()
        assert draw(*result, ax=ax) is ax
        assert plots.figure_png(figure).startswith(b"\x89PNG")
        figure.clear()
    assert plt.get_fignums() == []


def test_save_figure_writes_whole_files(tiles: TileSet, tmp_path: Path):
    """Missing folders are made, the same bytes are written, and no temporary file stays."""
    figure = plots.plot_gallery(tiles[:1], {"m": made(tiles[:1])})
    path = plots.save_figure(figure, tmp_path / "new" / "gallery.png")
    assert path.read_bytes() == plots.figure_png(figure)
    assert [file.name for file in path.parent.iterdir()] == ["gallery.png"]


def test_save_figure_names_what_cannot_be_written(tmp_path: Path):
    """A folder as the target, or a file where a folder should be, is an error that names it."""
    with pytest.raises(IsADirectoryError, match="is a folder"):
        plots.save_figure(Figure(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"gallery\.png cannot be written .*choose another place"):
        plots.save_figure(Figure(), tmp_path / "file" / "gallery.png")


# --- panels and curves ---------------------------------------------------------------------------


def test_panels_stand_in_a_row(tiles: TileSet):
    """Each title gets an empty panel that other functions draw on."""
    row = plots.panels(["tile", "map"])
    assert [ax.get_title(loc="left") for ax in row] == ["tile", "map"]
    assert plots.plot_heatmap(tiles.images[0], np.zeros((64, 64)), ax=row[1]) is row[1]
    assert row[0].figure is row[1].figure
    for wrong in ("tile", []):
        with pytest.raises(ValueError, match="titles must be a list"):
            plots.panels(wrong)


def test_curves_are_named_and_drawn_as_given():
    """Every curve keeps its numbers and has its name in the legend; one alone needs none."""
    curves = {"cosine": [1.0, 0.5, 0.0], "constant": [1.0, 1.0, 1.0]}
    ax = plots.plot_curves(curves, x=[0, 2, 4], title="Rate", labels=("step", "rate"))
    assert [line.get_ydata().tolist() for line in ax.lines] == list(curves.values())
    assert ax.lines[0].get_xdata().tolist() == [0, 2, 4]
    assert {"cosine", "constant", "Rate", "step", "rate"} <= set(words(ax).splitlines())
    alone = plots.plot_curves({"loss": [3, 2]}, ax=plots.panels([""])[0])
    assert alone.get_legend() is None
    assert alone.lines[0].get_xdata().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("curves", "x", "finding"),
    [
        ({}, None, "1 to 4 curves"),
        ({str(i): [0] for i in range(5)}, None, "got 5"),
        ({"a": [0, 1], "b": [0]}, None, "equally long, got {'a': 2, 'b': 1}"),
        ({"a": [0, 1]}, [0], "'x': 1"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(curves, x, finding):
    """Too many curves, or lengths that differ, are named."""
    with pytest.raises(ValueError, match=finding):
        plots.plot_curves(curves, x=x)


# --- comparison ----------------------------------------------------------------------------------


def test_a_gallery_says_which_test_a_caption_speaks_of(tiles):
    """The foot explains the figure of single deletion where a caption has it, and only there."""
    some = tiles[:2]
    for short, said in {
        "unproven · single deletion 0.05": True,
        "unproven · no single deletion": False,
        "passed · mosaic 0.60": False,
    }.items():
        maps = replace(made(some), verdict=Verdict("passed" in short, "words", short))
        text = words(plots.plot_gallery(some, {"m": maps}))
        assert short in text
        assert ("failed single deletion" in " ".join(text.split())) == said


def test_agreement_shows_each_correlation():
    """Numbers stand once, on one scale from -1 to 1; 0 stays blank, what is unknown is a dash."""
    matrix = np.array([[1, -0.24, np.nan], [-0.24, 1, -0.04], [np.nan, -0.04, 0.97]])
    ax = plots.plot_agreement(matrix, ["a", "b", "random"], split=2, title="Agreement")
    drawn = ax.images[0]
    assert (drawn.norm.vmin, drawn.norm.vmax, drawn.get_cmap().name) == (-1, 1, "RdBu_r")
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "1", (0, 1): "−.2", (1, 1): "1", (0, 2): "–", (2, 2): ".97"}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "random"]
    assert [line.get_ydata()[0] for line in ax.lines] == [1.5, 0]
    assert {"Agreement", "correlation"} <= set(words(ax).splitlines())


@pytest.mark.parametrize(("length", "title"), [(1, 0), (12, 60), (40, 60), (12, 90)])
def test_agreement_leaves_room_for_long_names(length: int, title: int):
    """However long its names and titles are, each cell is large enough for its number."""
    ax = plots.plot_agreement(
        np.eye(8),
        [("single deletion " * 3)[:length]] * 8,
        title=("deletion " * 9)[:title],
        subtitle=("mosaic " * 14)[:title],
    )
    ax.figure.canvas.draw()
    inches = ax.get_window_extent().width / ax.figure.dpi / 8
    plots.close(ax)
    assert inches > 0.25


@pytest.mark.parametrize(
    ("matrix", "names", "finding"),
    [
        (np.eye(2), ["a"], r"1 names do not fit a matrix of shape \(2, 2\)"),
        (np.zeros((0, 0)), [], "0 names"),
        (np.array([[1, 0.5], [0.4, 1]]), ["a", "b"], "not symmetric"),
        (2 * np.eye(2), ["a", "b"], r"lie in \[-1, 1\], got 2"),
    ],
)
def test_agreement_that_cannot_be_is_refused(matrix, names, finding):
    """A matrix that fits no names, or holds no correlations, is an error in words."""
    with pytest.raises(ValueError, match=finding):
        plots.plot_agreement(matrix, names)


def test_maps_stand_below_their_pictures(tiles: TileSet):
    """A row of pictures, then a row for each set of grids, on one scale each; grids are resized."""
    some = tiles[:3]
    fine, coarse = made(some, 8, signed=True), made(some, 4)
    grids = {"fine": fine.grid, "coarse": coarse.grid}
    figure = plots.plot_maps(some, grids, ["x", "y", "z"], quantity={"coarse": "fall"})
    pictures = [ax for ax in figure.axes if len(ax.images) == 1 and not ax.get_label()]
    assert (len(pictures), len(maps(figure))) == (3, 6)
    for row, explanation in enumerate((fine, coarse)):
        drawn = maps(figure)[3 * row : 3 * row + 3]
        for i, ax in enumerate(drawn):
            np.testing.assert_array_equal(ax.images[1].get_array(), explanation.heatmap[i])
            assert ax.get_position().x0 == pytest.approx(pictures[i].get_position().x0)
            assert ax.get_position().y1 < pictures[i].get_position().y0
        assert len({ax.images[1].norm.vmax for ax in drawn}) == 1
    assert maps(figure)[0].images[1].get_cmap().name == "RdBu_r"
    bars = [ax for ax in figure.axes if ax.get_label() == "colour bar"]
    assert [bar.get_ylim()[1] for bar in bars] == [m.images[1].norm.vmax for m in maps(figure)[::3]]
    assert [bar.get_ylabel() for bar in bars] == ["raw value", "fall"]
    text = words(figure)
    for part in ("fine", "8x8 grid\n1 cell = 80 m", "x\n", "z\n"):
        assert part in text, part
    assert plots.describe_range(coarse.grid) in text
    assert plt.get_fignums() == []


def test_a_missing_map_does_not_hide_the_others_range(tiles: TileSet):
    """A row says the range of the maps that there are, and how many there are not."""
    grids = np.random.default_rng(0).normal(size=(2, 4, 4))
    grids[1] = np.nan
    text = words(plots.plot_maps(tiles[:2], {"a": grids}))
    assert plots.describe_range(grids[:1]).replace(", ", "\n") in text
    assert "1 of 2: no map" in text


def test_pixel_maps_are_not_outlined(tiles: TileSet):
    """A map that changes from pixel to pixel would vanish under its own outlines."""
    rough = np.random.default_rng(0).normal(size=(1, 64, 64))
    figure = plots.plot_maps(tiles[:1], {"pixels": rough, "cells": rough[:, ::16, ::16]})
    pixels, cells = maps(figure)
    assert not pixels.collections
    assert cells.collections


def test_maps_without_ground_name_no_metres(tiles: TileSet):
    """Pictures of unknown scale have cells of unknown size; captions may be left out."""
    text = words(plots.plot_maps(tiles.images[:2], {"a": np.zeros((2, 4, 4))}, ground=None))
    assert "4x4 grid" in text
    assert " m\n" not in text


def test_maps_are_as_large_as_asked(tiles: TileSet):
    """`side` is the width of a picture in inches; the labels keep their space beside it."""
    for side in (0.8, 1.6):
        figure = plots.plot_maps(tiles[:1], {"a": np.zeros((1, 4, 4))}, side=side)
        picture = figure.axes[0].get_position()
        assert picture.width * figure.get_figwidth() == pytest.approx(side)
        assert picture.height * figure.get_figheight() == pytest.approx(side)


def test_maps_that_fit_no_pictures_are_refused(tiles: TileSet):
    """No grids, or another number of grids or captions than pictures, are errors in words."""
    some, grid = tiles[:2], np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match="no grids"):
        plots.plot_maps(some, {})
    with pytest.raises(ValueError, match=r"'a' must have shape \(2, h, w\).*got \(3, 4, 4\)"):
        plots.plot_maps(some, {"a": np.zeros((3, 4, 4))})
    with pytest.raises(ValueError, match="1 captions do not fit 2 pictures"):
        plots.plot_maps(some, {"a": grid}, ["x"])


ODD_NAME = "$1_a$\\b^ \x07\udcff"  # a formula to matplotlib, and what no font can show


@pytest.mark.parametrize(
    "draw",
    [
        lambda tiles: plots.plot_gallery(tiles[:1], {ODD_NAME: made(tiles[:1])}, names=[ODD_NAME]),
        lambda tiles: plots.plot_tiles(tiles[:4], captions=[ODD_NAME] * 4),
        lambda tiles: plots.plot_maps(tiles[:1], {ODD_NAME: np.ones((1, 4, 4))}, [ODD_NAME]),
        lambda tiles: plots.plot_agreement(np.eye(6), [ODD_NAME] * 6, title=ODD_NAME),
        lambda tiles: plots.plot_curves({ODD_NAME: [0, 1], "b": [1, 0]}, title=ODD_NAME),
        lambda tiles: plots.panels([ODD_NAME])[0],
        lambda tiles: plots.plot_class_balance({ODD_NAME: tiles, "b": tiles}),
        lambda tiles: plots.plot_per_class(
            {ODD_NAME: evaluate(predicted(tiles)), "b": evaluate(predicted(tiles, 1.0))}
        ),
    ],
    ids=["gallery", "tiles", "maps", "agreement", "curves", "panels", "balance", "per_class"],
)
def test_names_are_drawn_letter_by_letter(draw, tiles: TileSet):
    """Dollar signs start no formula, and what cannot be drawn is spelt out, in every plot."""
    drawn = draw(tiles)
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    plots.figure_png(figure, dpi=40)  # a broken formula or half a character would be an error here
    said = words(figure).replace("\n", " ")
    assert r"\$1_a\$\b^ \x07\udcff" in said


def test_plot_coverage_draws_each_model_and_its_area():
    """A line a model up to its accuracy, the area with its interval in the legend, in per cent."""
    generator = np.random.default_rng(0)
    curves = {}
    for name, skill in (("one", 2.0), ("other", 4.0)):
        labels = generator.integers(0, 10, 200)
        logits = generator.normal(size=(200, 10))
        logits[np.arange(200), labels] += skill
        made = Predictions(logits, labels, tuple(map(str, range(200))))
        curves[name] = coverage(made, resamples=20)
    ax = plots.plot_coverage(curves)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    for text, (name, curve) in zip(texts, curves.items(), strict=True):
        assert text.startswith(f"{name}: AURC {100 * curve.area:.2f} % [")
    lines = [line for line in ax.lines if len(line.get_xdata()) == 200]
    ends = [line.get_ydata()[-1] for line in lines]
    assert ends == pytest.approx([1 - curve.chance for curve in curves.values()])
    assert len(plots.plot_coverage(curves["one"]).get_legend().get_texts()) == 1
    with pytest.raises(ValueError, match="give 1 to 4 curves, got 0"):
        plots.plot_coverage({})


def test_long_names_of_columns_stay_in_their_columns(tiles: TileSet):
    """A column's name is broken behind its model, and its letters shrink, rather than be cut."""
    some = tiles[:1]
    names = ["resnet50 · not HerbaceousVegetation", "vit · ImageNet's numbers", "a" * 30, "vit · a"]
    figure = plots.plot_gallery(some, {name: made(some, 4) for name in names})
    renderer = FigureCanvasAgg(figure).get_renderer()
    heads = {text.get_text().replace("\n", " "): text for text in figure.texts}
    for name in names:
        text = heads[name]
        left, right = text.get_window_extent(renderer).intervalx / figure.dpi
        assert right - left <= 1.6 + 0.14, name
        assert text.get_fontsize() == (9.5 if name == "vit · a" else pytest.approx(6, abs=1))


def test_a_gallery_takes_names_that_look_like_formulas(tiles: TileSet):
    """A dollar is a letter, also where a line's width is measured."""
    names = [r"x$\q$", "two\nlines $a$b_c_d$"]
    figure = plots.plot_gallery(tiles[:2].images, {"a": made(tiles[:2], 4)}, names=names)
    FigureCanvasAgg(figure).draw()
    assert r"\q" in words(figure)


def test_no_line_of_a_gallery_runs_into_the_next_column(tiles: TileSet):
    """A long file name, layer or class loses its middle, in captions and below columns' names."""
    name = "S2A_MSIL2A_20230615T103631_N0509_R008_T32UQD_20230615T172203.png"
    maps = replace(made(tiles[:1], 4), layer="network.encoder.layers.encoder_layer_11.ln_1")
    figure = plots.plot_gallery(tiles[:1].images, {"a": maps, "b": maps}, names=[name])
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.texts if "raw values" not in text.get_text()]  # the footer
    texts += [text for ax in figure.axes if ax.get_label() != "colour bar" for text in ax.texts]
    for text in texts:
        left, right = text.get_window_extent(renderer).intervalx / figure.dpi
        assert right - left <= 1.6 + 0.14, text.get_text()
    drawn = words(figure)
    for part in ("S2A_MSIL", "172203.png", "layer network.", "ln_1"):
        assert part in drawn, part
