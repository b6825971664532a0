"""The results as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.figure import Figure, Row, Spread
from benchmarks.goals import Judged
from benchmarks.report import number

mpl.use("agg")

_OURS, _OTHERS, _MISSED = "#2563eb", "#64748b", "#dc2626"

# Of each figure the column that is drawn, what it is called, and whether the axis is logarithmic.
_DRAWN = {
    "caller, idle, 1 thread": ("tagged50", "added to logger.info, idle: p50, µs", True),
    "caller, delivering, 1 thread": ("tagged99", "added while delivering: p99, µs", True),
    "delivery": ("per_second", "signed deliveries a second", True),
    "latency": ("idle50", "from logger.info to the receiver, idle: p50, ms", False),
    "growth, time": ("growth", "time per event, with the most ÷ with the least", False),
    "durable, delivering": ("through", "through a handler and its outbox: events a second", True),
    "impact": ("slower", "a loop that computes is slower by, %", False),
}


def draw(
    path: Path, machine: dict[str, Any], figures: Sequence[Figure], judged: Sequence[Judged]
) -> None:
    """Write it as PNG: a panel for the goals, and one for each figure that there is."""
    drawn = [figure for figure in figures if figure.name in _DRAWN]
    rows = (len(drawn) + 2) // 2
    picture = Picture(figsize=(18, 1.2 + 4.2 * rows), layout="constrained")
    panels = picture.subplots(rows, 2, squeeze=False).flat
    _goals(next(panels), judged)
    for figure in drawn:
        column, title, logarithmic = _DRAWN[figure.name]
        _measured(next(panels), figure.rows, column, title, logarithmic=logarithmic)
    for panel in panels:
        panel.set_visible(False)
    picture.suptitle(
        f"cubehook: {machine['processor']}, {machine['cores']} cores, {machine['kernel']}, "
        f"{machine['python']}, commit {machine['commit']} (medians, least to most)"
    )
    picture.savefig(path, dpi=100)


def _measured(
    panel: Axes, rows: Sequence[Row], column: str, title: str, *, logarithmic: bool
) -> None:
    spreads = {row.name: Spread.of(row.values[column]) for row in rows if row.values.get(column)}
    colours = [_OURS if name.startswith("cubehook") else _OTHERS for name in spreads]
    labels = [number(spread.median) for spread in spreads.values()]
    _points(panel, spreads, colours, labels)
    if logarithmic and min(spread.least for spread in spreads.values()) > 0:
        _logarithmic(panel)
    elif not logarithmic:
        panel.axvline(0.0, color="black", linewidth=1)
    panel.set_title(title, loc="left")


def _goals(panel: Axes, judged: Sequence[Judged]) -> None:
    """How many times better than its limit each goal is: from 1 on it is met."""
    shown = {each.goal: each.spread for each in judged if each.spread}
    spreads, colours, labels = {}, [], []
    for goal, spread in shown.items():
        ends = sorted((goal.margin(spread.least), goal.margin(spread.most)))
        spreads[goal.text] = Spread(goal.margin(spread.median), *ends)
        colours.append(_OURS if goal.margin(spread.median) >= 1 else _MISSED)
        labels.append(f"{number(spread.median)} ({goal.relation} {goal.limit:,g})")
    _points(panel, spreads, colours, labels)
    _logarithmic(panel)
    panel.axvline(1.0, color="black", linewidth=1)
    panel.set_title("goals: times better than the limit", loc="left")


def _points(
    panel: Axes, spreads: dict[str, Spread], colours: Sequence[str], labels: Sequence[str]
) -> None:
    """From the top down: a point at each median, a line from the least to the most."""
    for place, spread in enumerate(spreads.values()):
        panel.hlines(place, spread.least, spread.most, color=colours[place], alpha=0.5, linewidth=5)
        panel.plot(spread.median, place, "o", color=colours[place])
        panel.annotate(
            labels[place],
            (spread.median, place),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    panel.set_yticks(range(len(spreads)), list(spreads))
    panel.set_ylim(len(spreads) - 0.5, -0.8)
    panel.margins(x=0.1)
    panel.grid(alpha=0.3)


def _logarithmic(panel: Axes) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
