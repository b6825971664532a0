"""How fast cubehook is, beside others: ``python -m benchmarks``.

caller    what a handler adds to a log call
delivery  signed deliveries a second, and their CPU time
latency   from the log call to the receiver
growth    with endpoints, retries and queued events
impact    what a loop that computes feels
durable   what an outbox costs, and what a second worker brings

Every figure is measured by turns with what it is compared to, several times over.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import caller, delivery, growth, impact, latency, machine, nginx, report
from benchmarks.figure import Figure, Options, progress
from benchmarks.goals import judge


def _durable(options: Options) -> list[Figure]:
    try:
        from benchmarks import durable  # noqa: PLC0415  # the rest works without SQLAlchemy
    except ImportError:
        progress("durable: SQLAlchemy is not installed")
        return []
    return durable.measure(options)


FIGURES: dict[str, Callable[[Options], list[Figure]]] = {
    "caller": caller.measure,
    "delivery": delivery.measure,
    "latency": latency.measure,
    "growth": growth.measure,
    "impact": impact.measure,
    "durable": _durable,
}


def _chosen(text: str) -> list[str]:
    names = text.split(",")
    unknown = set(names) - FIGURES.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"no such figure: {', '.join(sorted(unknown))}")
    return [name for name in FIGURES if name in names]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", type=_chosen, default=list(FIGURES), metavar="NAMES", help=",".join(FIGURES)
    )
    parser.add_argument("--repeats", type=int, help="of everything (5; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="about a minute, to see that it works")
    parser.add_argument(
        "--out", type=Path, default=Path("build/benchmarks"), help="a folder (%(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line, measure, print the tables, write them and the chart."""
    arguments = _parse()
    repeats = arguments.repeats or (1 if arguments.quick else 5)
    options = Options(repeats=repeats, quick=arguments.quick)
    # Who stops us stops the processes that measure, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if {"delivery", "durable"}.intersection(arguments.only):
            nginx.found()  # better now than after many minutes
        described = machine.describe()
        figures = [figure for name in arguments.only for figure in FIGURES[name](options)]
    except nginx.MissingError as error:
        sys.exit(f"{error}; or choose other figures by --only")
    judged = judge(figures, arguments.only)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = report.text(described, figures, judged)
    results = report.data(described, vars(options), figures, judged)
    (arguments.out / "results.txt").write_text(written + "\n", encoding="utf-8")
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(written)
    try:
        from benchmarks import chart  # noqa: PLC0415  # the rest works without matplotlib
    except ImportError:
        sys.exit("no chart: matplotlib is not installed")
    chart.draw(arguments.out / "results.png", described, figures, judged)
    print(f"\nwritten to {arguments.out}: results.txt, results.json, results.png")


if __name__ == "__main__":
    main()
