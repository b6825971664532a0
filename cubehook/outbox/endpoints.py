"""Endpoints stored in the outbox, managed at run time: `EndpointStore`.

Each change is one transaction and makes a new revision, by which handlers and workers notice it.
"""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from cubehook.config import Settings
from cubehook.errors import ConfigError
from cubehook.outbox._engine import Mode
from cubehook.outbox._sealing import KEY_VARIABLE, Keys
from cubehook.outbox._sql import insert_if_new
from cubehook.outbox._stored import (
    StoredEndpoint,
    is_unread,
    mapping_of,
    problems_of,
    sources,
    values_of,
)
from cubehook.outbox.schema import endpoints, endpoints_revision
from cubehook.outbox.store import Outbox

__all__ = ["KEY_VARIABLE", "EndpointStore", "NotStoredError", "StoredEndpoint", "is_unread"]


class NotStoredError(ConfigError):
    """There is no endpoint of that name in the outbox."""


class EndpointStore:
    """The endpoints in an outbox.

    key: of encryption, see `Keys`; None: ``CUBEHOOK_KEY``. It is read whenever it is needed.
    settings: of the handler that uses them, whose defaults count when they are checked.

    Every method raises `OutboxUnavailableError` while the database cannot be used, and those that
    take a name `NotStoredError` where there is none such. What is wrong with an endpoint, or its
    key of encryption, is a `ConfigError` that names the endpoint and the key, and no value.
    """

    def __init__(
        self,
        outbox: Outbox,
        key: str | None = None,
        *,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._run = outbox._run  # with the tables made, and the database's errors in our phrases
        self._key = key
        # With an outbox, whichever it is, there are no batches.
        self._settings = replace(settings or Settings(), outbox="outbox")
        self._clock = clock

    # Whoever uses them.

    def revision(self) -> str:
        """Another text after each change; one short query."""
        revision = select(endpoints_revision.c.revision)
        return self._run(lambda connection: connection.scalar(revision), Mode.READ) or ""

    def mappings(self) -> builtins.list[dict[str, Any]]:
        """All endpoints with all their keys, as a handler takes them; references unresolved."""
        keys = Keys(self._key)
        rows = self._run(_rows, Mode.READ)
        problems: builtins.list[str] = []
        found = []
        for row in rows:
            try:
                found.append(_opened(row, keys))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return found

    def mapping(self, name: str) -> dict[str, Any]:
        """The same for one endpoint."""
        row = self._run(lambda connection: _row(connection, name), Mode.READ)
        return _opened(row, Keys(self._key))

    # Operators.

    def list(self) -> builtins.list[StoredEndpoint]:
        """All of them by name, as far as they may be shown; no key is needed."""
        return [StoredEndpoint.of(row) for row in self._run(_rows, Mode.READ)]

    def get(self, name: str) -> StoredEndpoint:
        """One, as far as it may be shown."""
        return StoredEndpoint.of(self._run(lambda connection: _row(connection, name), Mode.READ))

    def add(self, endpoint: Mapping[str, Any]) -> None:
        """Store a new endpoint, given by its keys."""
        keys = Keys(self._key)
        self._check(endpoint, keys)
        name = endpoint["name"]

        def work(connection: Connection) -> None:
            _renew_revision(connection)
            taken = connection.execute(_by_name(name)).first()
            if taken is not None:
                raise ConfigError(f"endpoint {name!r}: name: is stored already")
            now = self._clock()
            row = values_of(endpoint, keys) | {"created": now, "updated": now}
            connection.execute(insert(endpoints).values(row))

        self._run(work, Mode.DURABLE)

    def set(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change some of its keys; with None a key is as if it had not been given."""
        if "name" in changes:
            raise ConfigError(f"endpoint {name!r}: name: cannot be changed")
        self._change(name, lambda former: {**former, **changes})

    def enable(self, name: str) -> None:
        """Let it have events, from now on."""
        self._switch(name, True)

    def disable(self, name: str) -> None:
        """Let it have no events. What is stored for it waits, until it is enabled again."""
        self._switch(name, False)

    def rotate(self, name: str, new_secret: str, keep_former: bool = True) -> None:
        """Sign with a new secret first, and with the former ones too, unless told otherwise.

        Receivers that know either accept what is sent; see `drop_former`.
        """

        def changed(former: Mapping[str, Any]) -> dict[str, Any]:
            has = sources(former.get("secret"))
            if new_secret in has:
                raise ConfigError(f"endpoint {name!r}: secret: it has this one already")
            return {**former, "secret": [new_secret, *(has if keep_former else ())]}

        self._change(name, changed)

    def drop_former(self, name: str) -> bool:
        """Sign with the newest secret alone: the end of a rotation. Whether there was another."""
        if self.get(name).secrets < 2:
            return False
        self._change(name, lambda former: {**former, "secret": sources(former.get("secret"))[:1]})
        return True

    def remove(self, name: str) -> None:
        """Delete it. What is stored for it stays in the outbox, and is not delivered."""

        def work(connection: Connection) -> None:
            _renew_revision(connection)
            _row(connection, name)
            connection.execute(delete(endpoints).where(endpoints.c.name == name))

        self._run(work, Mode.DURABLE)

    def reseal(self) -> int:
        """Encrypt all of them with the first key, so that the others can be dropped; how many."""
        keys = Keys(self._key)
        if not keys:
            raise ConfigError(f"key: is missing ({KEY_VARIABLE} is not set)")

        def work(connection: Connection) -> int:
            _renew_revision(connection)
            rows = _rows(connection)
            for row in rows:
                private = values_of(_opened(row, keys), keys)["private"]
                mine = update(endpoints).where(endpoints.c.name == row.name)
                connection.execute(mine.values(private=private, sealed=True))
            return len(rows)

        return self._run(work, Mode.DURABLE)

    def _switch(self, name: str, enabled: bool) -> None:
        """Without its secrets: it needs no key."""

        def work(connection: Connection) -> None:
            _renew_revision(connection)
            _row(connection, name)
            mine = update(endpoints).where(endpoints.c.name == name)
            connection.execute(mine.values(enabled=enabled, updated=self._clock()))

        self._run(work, Mode.DURABLE)

    def _change(self, name: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        keys = Keys(self._key)

        def work(connection: Connection) -> None:
            _renew_revision(connection)
            changed = change(_opened(_row(connection, name), keys))
            new = {key: value for key, value in changed.items() if value is not None}
            self._check(new, keys)
            mine = update(endpoints).where(endpoints.c.name == name)
            connection.execute(mine.values(values_of(new, keys) | {"updated": self._clock()}))

        self._run(work, Mode.DURABLE)

    def _check(self, endpoint: Mapping[str, Any], keys: Keys) -> None:
        problems = problems_of(endpoint, keys, self._settings)
        if problems:
            raise ConfigError(problems)


def _renew_revision(connection: Connection) -> None:
    """The first thing in each change: who has this row changes endpoints alone."""
    new = secrets.token_hex(16)
    there = insert_if_new(connection, endpoints_revision, endpoints_revision.c.id)
    connection.execute(there, {"id": 1, "revision": new})
    connection.execute(update(endpoints_revision).values(revision=new))


def _by_name(name: str) -> Any:
    return select(endpoints).where(endpoints.c.name == name)


def _row(connection: Connection, name: str) -> Any:
    row = connection.execute(_by_name(name)).first()
    if row is None:
        raise NotStoredError(f"endpoint {name!r}: is not stored in the outbox")
    return row


def _rows(connection: Connection) -> builtins.list[Any]:
    return builtins.list(connection.execute(select(endpoints).order_by(endpoints.c.name)))


def _opened(row: Any, keys: Keys) -> dict[str, Any]:
    try:
        return mapping_of(row, keys)
    except ConfigError:
        raise
    except ValueError as error:
        problem = _told(row.name, error)
    raise ConfigError(problem)


def _told(name: str, error: ValueError) -> str:
    """A ValueError of json has a piece of what it could not read."""
    phrase = "is damaged" if type(error) is not ValueError else str(error)
    return f"endpoint {name!r}: {phrase}"
