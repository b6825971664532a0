"""The outbox on each database there is: SQLite always, the servers where the environment says so.

``CUBEHOOK_TEST_POSTGRES`` and ``CUBEHOOK_TEST_MYSQL`` hold the URL of a database in which another
one may be created: each test process has its own, so that many can run at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stored
from sqlalchemy import Engine, create_engine, delete, make_url, text

from cubehook.outbox import Outbox, schema

SERVERS = {"postgresql": "CUBEHOOK_TEST_POSTGRES", "mysql": "CUBEHOOK_TEST_MYSQL"}


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], str]]:
    """The URL of an own database on that kind of server."""
    made: dict[str, tuple[Engine, str]] = {}
    name = f"cubehook_test_{os.getpid()}"

    def url(kind: str) -> str:
        if SERVERS[kind] not in os.environ:
            pytest.skip(f"{SERVERS[kind]} is not set")
        server = make_url(os.environ[SERVERS[kind]])
        if kind not in made:
            engine = create_engine(server, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))
            own = server.set(database=name).render_as_string(hide_password=False)
            made[kind] = (engine, own)
        return made[kind][1]

    yield url
    for kind, (engine, _) in made.items():
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}{force}"))
        engine.dispose()


@pytest.fixture(params=["sqlite", *SERVERS])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database the test is run on."""
    return str(request.param)


@pytest.fixture
def bare_url(kind: str, tmp_path: Path, servers: Callable[[str], str]) -> Iterator[str]:
    """The URL of a database without tables."""
    url = f"sqlite:///{tmp_path / 'outbox.db'}" if kind == "sqlite" else servers(kind)
    engine = create_engine(url)
    if kind != "sqlite":
        schema.metadata.drop_all(engine)
    yield url
    schema.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def url(kind: str, tmp_path: Path, servers: Callable[[str], str]) -> str:
    """The URL of a database with empty tables."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'outbox.db'}"
    url = servers(kind)
    engine = create_engine(url)
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
        for table in schema.metadata.tables.values():
            connection.execute(delete(table))
    engine.dispose()
    return url


@pytest.fixture
def open_outbox(url: str, clock: Any) -> Iterator[Callable[..., Outbox]]:
    """Opens further ones on the same database, as other workers do."""
    opened: list[Outbox] = []

    def make(**options: Any) -> Outbox:
        opened.append(Outbox(url, **{"clock": clock, **options}))
        return opened[-1]

    yield make
    for one in opened:
        stored.check_invariants(one)
        one.close()


@pytest.fixture
def outbox(open_outbox: Callable[..., Outbox]) -> Outbox:
    """An outbox on a database with empty tables; its clock is ``clock``."""
    return open_outbox()
