"""The results as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.figure import Figure, Spread
from benchmarks.goals import Judged, others


def text(machine: dict[str, Any], figures: Sequence[Figure], judged: Sequence[Judged]) -> str:
    """Everything, to be read."""
    parts = [_machine(machine), *map(_figure, figures), _goals(judged)]
    if rest := others(figures):
        rows = [("other ratios", "median (least..most)")]
        rows += [(name, _spread(spread)) for name, spread in rest.items()]
        parts.append(_table(rows))
    return "\n\n".join(parts)


def data(
    machine: dict[str, Any],
    options: dict[str, Any],
    figures: Iterable[Figure],
    judged: Iterable[Judged],
) -> dict[str, Any]:
    """Everything, to be read by programs: every value of every repeat."""
    return {
        "machine": machine,
        "options": options,
        "goals": [
            {
                "name": each.goal.ratio,
                "text": each.goal.text,
                "relation": each.goal.relation,
                "limit": each.goal.limit,
                "measured": each.spread._asdict() if each.spread else None,
                "verdict": each.verdict,
            }
            for each in judged
        ],
        "figures": [
            {
                "name": figure.name,
                "title": figure.title,
                "columns": figure.columns,
                "rows": [
                    {"name": row.name, "note": row.note, "values": row.values}
                    for row in figure.rows
                ],
                "ratios": figure.ratios,
                "remarks": figure.remarks,
            }
            for figure in figures
        ],
    }


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mib']} MiB, "
        f"{machine['kernel']}, load {machine['load']}\n"
        f"{machine['python']}, {machine['openssl']}, nginx {machine['nginx']}, "
        f"commit {machine['commit']}, {machine['time']}\n{versions}"
    )


def _figure(figure: Figure) -> str:
    rows = [("", *figure.columns.values())]
    for row in figure.rows:
        cells = [
            _spread(Spread.of(row.values[column])) if row.values.get(column) else "-"
            for column in figure.columns
        ]
        rows.append((row.name, row.note) if row.note else (row.name, *cells))
    return "\n".join([figure.title, _table(rows), *figure.remarks])


def _goals(judged: Iterable[Judged]) -> str:
    rows = [("goal", "", "measured (least..most)", "")]
    for each in judged:
        limit = f"{each.goal.relation} {each.goal.limit:,g}"
        measured = _spread(each.spread) if each.spread else "-"
        rows.append((each.goal.text, limit, measured, each.verdict))
    return _table(rows)


def _spread(spread: Spread) -> str:
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}..{number(spread.most)})"


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the heading; a row with less cells has a note in the place of them."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for name, *cells in rows:
        padded = cells if len(cells) < len(widths) - 1 else map(str.rjust, cells, widths[1:])
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
