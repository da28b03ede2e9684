"""Draw a report card: each explanation's figures, beside maps that look at nothing."""

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lulc_lib.arrays import whole_number
from lulc_lib.evidence import (
    CENTRE_LEAD,
    LEAD,
    LEAST_TILES,
    MOSAIC,
    REMOVAL,
    SINGLE_DELETION,
    ReportCard,
    check_card,
    ordered,
    row_of,
)
from lulc_lib.plots.style import INK, MUTED, RULE, SERIES, axes_or_new, dress, plain

_PANELS = {
    MOSAIC: ("Mosaics", "share on the explained tile"),
    SINGLE_DELETION: ("Single deletion", "correlation with falls"),
    REMOVAL: ("Removal", "fall, top less bottom quarter"),
}
_POINT = {"marker": "o", "markersize": 4.5, "color": SERIES[0], "linewidth": 1.4}
_LEGEND = {
    "told apart from every null (removal: from centre)": _POINT,
    "not told apart, tile by tile, or fewer than ten tiles": {**_POINT, "markerfacecolor": "white"},
    "null: a map that looks at nothing": {**_POINT, "marker": "s", "color": MUTED},
    "the strongest null": {"color": RULE, "linewidth": 1.6},
}


def plot_report_card(card: ReportCard, ax: Axes | None = None, most: int = 16) -> Axes:
    """Draw the three tests that a recommendation rests on, one panel each.

    Explanations stand in the order of their mean rank, best first, with 95 % intervals. Maps that
    look at nothing come last, as grey squares; a grey line marks the strongest of them. A hollow
    point was not told apart from them in that test, in removal not from `centre`; on fewer than ten
    tiles none is. They are told apart by the mean of paired differences, tile by tile, so that an
    interval to the right of the line does not suffice. A test that the card lacks has an empty
    panel that says so. The panels are insets of the returned Axes (`ax.child_axes`).

    Args:
        card: made by `report_card`.
        ax: where to draw; None makes a figure.
        most: explanations to draw at most, beside the nulls.

    Raises:
        TypeError: if the card is no report card.
        ValueError: if the card holds none of the three tests, or `most` is no whole number of at
            least 1.
    """
    check_card("plot_report_card", card)
    most = whole_number("most", most)
    names, apart = (
        [one for one in group if any(row_of(card, *one, test) for test in _PANELS)]
        for group in ordered(card)
    )
    if not names and not apart:
        raise ValueError(f"the card holds none of the tests {', '.join(_PANELS)}")
    shown = [*names[:most], *apart]
    ax = axes_or_new(ax, (9.6, 1.4 + 0.2 * len(shown)))
    ax.set_axis_off()
    best = card.recommended
    for place, (test, (title, unit)) in enumerate(_PANELS.items()):
        panel = ax.inset_axes((0.0 + 0.345 * place, 0, 0.31, 1))
        _draw(panel, card, test, shown, apart)
        if not panel.lines:
            panel.text(0.5, 0.5, "not tested", transform=panel.transAxes, ha="center", color=MUTED)
            panel.set_xticks([])
        row = row_of(card, *shown[0], test)
        filled = f", filled by {row.filling}" if row and row.filling else ""
        model = f"{card.model}: " if place == 0 else ""
        dress(panel, model + title, unit + filled, grid="x")
        panel.set_yticks(range(len(shown)), [_label(*name) for name in shown] if place == 0 else [])
        panel.set_ylim(len(shown) - 0.4, -0.6)
        for text, name in zip(panel.get_yticklabels(), shown, strict=False):
            chosen = best is not None and name == (best.method, best.layer)
            text.set(fontsize=7.5, fontweight="bold" if chosen else "normal",
                     color=MUTED if name in apart else INK)  # fmt: skip
    ax.legend(
        handles=[Line2D([], [], label=text, **look) for text, look in _LEGEND.items()],
        loc="upper left", bbox_to_anchor=(-0.12, -0.32 / ax.get_figure().get_figheight()),
        ncols=4, frameon=False, fontsize=7.5, handletextpad=0.4, columnspacing=1.4,
    )  # fmt: skip
    return ax


def _draw(panel: Axes, card: ReportCard, test: str, shown: list, apart: list) -> None:
    strongest = [row.value for name in apart if (row := row_of(card, *name, test))]
    if strongest:
        panel.axvline(max(strongest), color=RULE, linewidth=1.6)
    lead_name = CENTRE_LEAD if test == REMOVAL else LEAD
    for place, name in enumerate(shown):
        row = row_of(card, *name, test)
        if row is None:
            continue
        colour = MUTED if name in apart else SERIES[0]
        lead = row_of(card, *name, f"{test}, {lead_name}")
        hollow = lead is not None and (lead.low <= 0 or lead.n < LEAST_TILES)
        panel.plot([row.low, row.high], [place, place], color=colour, linewidth=1.4)
        panel.plot(row.value, place, "s" if name in apart else "o", markersize=4.5, color=colour,
                   markerfacecolor="white" if hollow else colour)  # fmt: skip


def _label(method: str, layer: str | None) -> str:
    short = (layer or "").removeprefix("network.")
    return plain(f"{method} · {short}" if short else method)
