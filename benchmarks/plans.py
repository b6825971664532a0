"""How databases carry out a lease and a settle: ``python -m benchmarks.plans [COUNT]``.

Each statement that `Outbox.wanted`, `lease` and `settle` really send is explained, on a database
with so many deliveries waiting (a million), half of them with keys.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event

from benchmarks.databases import KEYED, PLAIN, POSTGRES, SQLITE, database, fill, there
from cubehook.message import Message
from cubehook.outbox import Outbox, Result, Target
from cubehook.outcome import Delivered

_EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}
_LONG_LIST = re.compile(r"((?:\?|%\(\w+\)s(?:::\w+)?)(?:, )?){3,}")
_LONG_ARRAY = re.compile(r"'\{\d+(?:,\d+){2,}\}'")


class _Explained:
    """Collects the plan of each statement that is sent in the meantime."""

    def __init__(self, outbox: Outbox) -> None:
        self._engine = outbox._database._engine
        self.plans: dict[str, list[str]] = {}

    def __enter__(self) -> _Explained:
        event.listen(self._engine, "before_cursor_execute", self._explain)
        return self

    def __exit__(self, *exc_info: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._explain)

    def _explain(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, _c: Any, many: bool
    ) -> None:
        if statement.split(maxsplit=1)[0] not in ("SELECT", "UPDATE", "DELETE"):
            return
        own = cursor.connection.cursor()
        own.execute(
            _EXPLAIN[connection.dialect.name] + statement, parameters[0] if many else parameters
        )
        lines = [_LONG_ARRAY.sub("'{…}'", str(row[-1])) for row in own.fetchall()]
        own.close()
        self.plans.setdefault(_LONG_LIST.sub("…", " ".join(statement.split())), lines)


def explained(url: str, endpoint: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """By what is done, the plans of the statements that are sent for it."""
    outbox = Outbox(url)
    outbox.prepare()
    key = "key" if endpoint == KEYED else None
    outbox.add([(Message(f"new-{endpoint}", "a.b", key, "text/plain", b""), [Target(endpoint)])])
    with _Explained(outbox) as wanted:
        outbox.wanted([endpoint])
    yield "wanted", wanted.plans
    with _Explained(outbox) as lease:
        leased = outbox.lease([endpoint], 100, 60.0, "plans")
    yield "lease", {one: plan for one, plan in lease.plans.items() if one not in wanted.plans}
    with _Explained(outbox) as settle:
        outbox.settle([Result(one, Delivered(204), time.time()) for one in leased])
    yield "settle", settle.plans
    outbox.close()


def main() -> None:
    """Print them."""
    count = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    for kind in (SQLITE, POSTGRES):
        if kind not in there():
            continue
        print(f"## {kind}")
        with database(kind) as url:
            for endpoint in (PLAIN, KEYED):
                fill(url, endpoint, count // 2)
            for what, plans in explained(url, KEYED):
                print(f"\n### {what}")
                for statement, lines in plans.items():
                    print("\n".join([f"\n-- {statement}", *lines]))


if __name__ == "__main__":
    main()
