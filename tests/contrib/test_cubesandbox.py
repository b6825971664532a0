"""The calls of the real SDKs against an API on loopback, and the records that they log."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fake_api import PLANTED, SandboxApi
from loopback import Receiver

from cubehook import ConfigError, WebhookHandler
from cubehook.contrib import cubesandbox
from cubehook.contrib._calls import CALLS, CLASSES, SDKS

cube = pytest.importorskip("cubesandbox")
e2b = pytest.importorskip("e2b")
interpreter = pytest.importorskip("e2b_code_interpreter")

KINDS = {
    "cubesandbox": cube.Sandbox,
    "e2b": e2b.Sandbox,
    "e2b async": e2b.AsyncSandbox,
    "interpreter": interpreter.Sandbox,
    "interpreter async": interpreter.AsyncSandbox,
}
OF_E2B = [name for name in KINDS if name != "cubesandbox"]
ASKED = {"source": "api", "reason": "request"}
Run = Callable[[Callable[[], Awaitable[None]]], None]


class Kept(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The extras of each record."""
        own = {*vars(logging.makeLogRecord({})), "message", "taskName"}
        return [
            {name: value for name, value in vars(record).items() if name not in own}
            for record in self.records
        ]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxApi]:
    server = SandboxApi()
    monkeypatch.setenv("CUBE_API_URL", server.url)
    monkeypatch.setenv("CUBE_API_KEY", PLANTED)
    monkeypatch.setenv("CUBE_TEMPLATE_ID", "tpl-default")
    monkeypatch.setenv("E2B_API_URL", server.url)
    monkeypatch.setenv("E2B_API_KEY", "e2b_" + "0" * 40)
    yield server
    server.close()


@pytest.fixture
def kept(logger: logging.Logger) -> Iterator[Kept]:
    """The SDKs are instrumented, and this is what they log."""
    keeping = Kept()
    logger.addHandler(keeping)
    cubesandbox.instrument(logger)
    yield keeping
    cubesandbox.uninstrument()


@pytest.fixture(params=KINDS)
def sandboxes(request: pytest.FixtureRequest) -> Any:
    """The class of each SDK in turn."""
    return KINDS[request.param]


async def done(result: Any) -> Any:
    """One test for those that block and those that are awaited."""
    return await result if inspect.isawaitable(result) else result


def attributes() -> dict[tuple[str, str], object]:
    """All that could be replaced, as the classes have it."""
    found = {}
    for sdk in SDKS:
        for name in CLASSES:
            for base in getattr(sys.modules[sdk], name, object).__mro__:
                for call in CALLS:
                    if call.method in vars(base):
                        found[f"{base.__module__}.{base.__name__}", call.method] = vars(base)[
                            call.method
                        ]
    return found


class TestCalls:
    def test_a_life(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        async def live() -> None:
            one = await done(sandboxes.create(template="tpl-1"))
            await done(one.pause())
            await done(sandboxes.connect(one.sandbox_id))
            await done(one.set_timeout(60))
            snapshot = await done(one.create_snapshot(name="before"))
            assert snapshot.snapshot_id == "snap-2"
            await done(sandboxes.delete_snapshot(snapshot.snapshot_id))
            await done(one.kill())

        asyncio.run(live())
        # Only CubeSandbox's own SDK knows the template of a sandbox that is there.
        who = {"sandbox_id": "sb-1"}
        if sandboxes is cube.Sandbox:
            who["template_id"] = "tpl-1"
        assert kept.events == [
            {"event": "sandbox.created", "sandbox_id": "sb-1", "template_id": "tpl-1"},
            {"event": "sandbox.paused", **who, **ASKED},
            {"event": "sandbox.resumed", **who, **ASKED},
            {"event": "sandbox.timeout.updated", **who, "timeout": 60},
            {"event": "snapshot.created", **who, "snapshot_id": "snap-2", "names": ["before"]},
            {"event": "snapshot.deleted", "snapshot_id": "snap-2"},
            {"event": "sandbox.deleted", **who, **ASKED},
        ]
        assert {record.levelno for record in kept.records} == {logging.INFO}
        assert kept.records[0].getMessage() == "sandbox.created sb-1"

    @pytest.mark.parametrize("name", OF_E2B)
    @pytest.mark.parametrize("named", [False, True])
    def test_without_an_instance(self, api: SandboxApi, kept: Kept, name: str, named: bool) -> None:
        sandboxes = KINDS[name]

        def of(sandbox: str, method: str, **more: Any) -> Any:
            if named:
                return getattr(sandboxes, method)(sandbox_id=sandbox, **more)
            return getattr(sandboxes, method)(sandbox, *more.values())

        async def live() -> None:
            await done(sandboxes.create("tpl-1"))
            await done(of("sb-1", "set_timeout", timeout=90))
            await done(of("sb-1", "create_snapshot"))
            await done(of("sb-1", "pause"))
            await done(of("sb-1", "connect"))
            await done(of("sb-1", "kill"))

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == [
            *("sandbox.created", "sandbox.timeout.updated", "snapshot.created"),
            *("sandbox.paused", "sandbox.resumed", "sandbox.deleted"),
        ]
        assert {event["sandbox_id"] for event in kept.events} == {"sb-1"}
        assert kept.events[1]["timeout"] == 90
        assert kept.events[2]["names"] == []

    @pytest.mark.parametrize("name", OF_E2B)
    def test_the_class_with_an_instance(self, api: SandboxApi, kept: Kept, name: str) -> None:
        sandboxes = KINDS[name]

        async def live() -> None:
            one = await done(sandboxes.create("tpl-1"))
            await done(sandboxes.set_timeout(one, 30))
            await done(sandboxes.kill(one))

        asyncio.run(live())
        assert kept.events[1:] == [
            {"event": "sandbox.timeout.updated", "sandbox_id": "sb-1", "timeout": 30},
            {"event": "sandbox.deleted", "sandbox_id": "sb-1", **ASKED},
        ]

    def test_the_default_template(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        async def live() -> None:
            await done(sandboxes.create())

        asyncio.run(live())
        default = getattr(sandboxes, "default_template", "tpl-default")
        assert kept.events[0]["template_id"] == default

    @pytest.mark.parametrize("name", OF_E2B)
    def test_another_default_template(
        self, api: SandboxApi, kept: Kept, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With MCP servers it is not the class's own; no template is better than a wrong one."""
        sandboxes = KINDS[name]

        class Commands:
            def run(self, *args: Any, **kwargs: Any) -> Any:
                return asyncio.sleep(0) if "async" in name else None

        monkeypatch.setattr(sandboxes, "commands", Commands())

        async def live() -> None:
            await done(sandboxes.create(mcp={"arxiv": {}}))
            await done(sandboxes.create("tpl-1", mcp={"arxiv": {}}))

        asyncio.run(live())
        assert [event.get("template_id") for event in kept.events] == [None, "tpl-1"]

    def test_the_end_of_a_with_block_kills(
        self, api: SandboxApi, kept: Kept, sandboxes: Any
    ) -> None:
        async def live() -> None:
            one = await done(sandboxes.create("tpl-1"))
            if hasattr(one, "__aenter__"):
                async with one as same:
                    assert same is one
            else:
                with one as same:
                    assert same is one

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == ["sandbox.created", "sandbox.deleted"]

    def test_rollback_and_resume(self, api: SandboxApi, kept: Kept) -> None:
        one = cube.Sandbox.create()
        answer = one.rollback("snap-9")
        assert answer["status"] == "success"
        one.pause(wait=False)
        one.resume()
        assert kept.events[1] == {
            "event": "sandbox.rolled_back",
            "sandbox_id": "sb-1",
            "template_id": "tpl-default",
            "snapshot_id": "snap-9",
            "operation_id": "op-1",
            "status": "success",
        }
        assert [event["event"] for event in kept.events[2:]] == [
            *("sandbox.paused", "sandbox.resumed")
        ]

    @pytest.mark.parametrize("concurrency", [1, 3])
    def test_clones(self, api: SandboxApi, kept: Kept, concurrency: int) -> None:
        """They are made of other calls, in threads, too; each is told of once."""
        one = cube.Sandbox.create()
        clones = one.clone(3, concurrency=concurrency)
        for clone in clones:
            clone.kill()
        names = sorted(event["event"] for event in kept.events)
        assert names == [
            *["sandbox.created"] * 4,
            *["sandbox.deleted"] * 3,
            *("snapshot.created", "snapshot.deleted"),  # the last kill deletes the snapshot
        ]

    @pytest.mark.parametrize("name", OF_E2B)
    def test_forks(self, api: SandboxApi, kept: Kept, name: str) -> None:
        if not hasattr(KINDS[name], "fork"):
            pytest.skip("this version has no forks")

        async def live() -> None:
            one = await done(KINDS[name].create("tpl-1"))
            forks = await done(one.fork(count=3))
            assert isinstance(forks[1], Exception)

        asyncio.run(live())
        assert kept.events[1:] == [
            {"event": "sandbox.created", "sandbox_id": "sb-2"},
            {"event": "sandbox.created", "sandbox_id": "sb-3"},
        ]

    def test_connecting_to_a_running_one_is_no_event(
        self, api: SandboxApi, kept: Kept, sandboxes: Any
    ) -> None:
        async def live() -> None:
            one = await done(sandboxes.create("tpl-1"))
            again = await done(sandboxes.connect(one.sandbox_id))
            assert again.sandbox_id == one.sandbox_id
            await done(one.pause())
            await done(sandboxes.connect(one.sandbox_id))
            await done(sandboxes.connect(one.sandbox_id))

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == [
            *("sandbox.created", "sandbox.paused", "sandbox.resumed")
        ]

    @pytest.mark.parametrize("name", OF_E2B)
    def test_a_call_that_makes_another(self, api: SandboxApi, kept: Kept, name: str) -> None:
        """``beta_pause`` pauses by ``pause``; it is one event."""

        async def live() -> None:
            one = await done(KINDS[name].create("tpl-1"))
            assert await done(one.beta_pause()) is True

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == ["sandbox.created", "sandbox.paused"]

    def test_a_subclass(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        class Mine(sandboxes):  # type: ignore[misc]
            def kill(self, **options: Any) -> Any:
                return super().kill(**options)

        async def live() -> None:
            one = await done(Mine.create("tpl-1"))
            assert type(one) is Mine
            await done(one.kill())

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == ["sandbox.created", "sandbox.deleted"]


class TestFailures:
    def test_a_call_that_raises(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        async def live() -> None:
            one = await done(sandboxes.create("tpl-1"))
            api.broken = True
            for method, *arguments in (
                *(["kill"], ["pause"], ["set_timeout", 5], ["create_snapshot"]),
                *(["create"], ["delete_snapshot", "snap-1"]),
            ):
                with pytest.raises(Exception, match="broken"):
                    await done(getattr(one, method)(*arguments))
            with pytest.raises(Exception, match="broken"):
                await done(sandboxes.connect("sb-1"))

        asyncio.run(live())
        assert len(kept.events) == 1

    def test_the_exception_is_the_sdks_own(self, api: SandboxApi, kept: Kept) -> None:
        one = cube.Sandbox.create()
        one.kill()
        with pytest.raises(cube.SandboxNotFoundError) as caught:
            one.kill()
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None
        assert len(kept.events) == 2

    @pytest.mark.parametrize("name", OF_E2B)
    def test_a_call_that_returns_false(self, api: SandboxApi, kept: Kept, name: str) -> None:
        async def live() -> None:
            one = await done(KINDS[name].create("tpl-1"))
            assert await done(one.pause()) is True
            assert await done(one.pause()) is False
            assert await done(KINDS[name].kill("sb-99")) is False
            assert await done(KINDS[name].delete_snapshot("snap-99")) is False
            assert await done(one.kill()) is True
            assert await done(one.kill()) is False

        asyncio.run(live())
        assert [event["event"] for event in kept.events] == [
            *("sandbox.created", "sandbox.paused", "sandbox.deleted")
        ]

    def test_wrong_arguments(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        async def live() -> None:
            with pytest.raises(TypeError):
                await done(sandboxes.create(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
            with pytest.raises(TypeError):
                await done(sandboxes.delete_snapshot())

        asyncio.run(live())
        assert kept.events == []

    def test_a_creation_that_is_taken_back(
        self, api: SandboxApi, kept: Kept, sandboxes: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The sandbox is killed since its MCP gateway does not start: nobody has heard of it."""

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("no gateway")

        if sandboxes is cube.Sandbox:
            monkeypatch.setattr(sandboxes, "_start_mcp_gateway", refuse)
        else:
            monkeypatch.setattr(sandboxes, "commands", property(refuse))

        async def live() -> None:
            with pytest.raises(RuntimeError, match="no gateway"):
                await done(sandboxes.create(mcp={"arxiv": {}}))

        asyncio.run(live())
        assert api.calls[-1] == "DELETE /sandboxes/sb-1"
        assert kept.events == []

    def test_a_broken_handler_is_not_the_callers_trouble(
        self, api: SandboxApi, kept: Kept, sandboxes: Any, logger: logging.Logger
    ) -> None:
        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("an application's handler may be broken")

        logger.addHandler(Broken())

        async def live() -> None:
            one = await done(sandboxes.create("tpl-1"))
            await done(one.kill())

        asyncio.run(live())
        assert len(kept.events) == 2

    def test_a_cancelled_call(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hang(*args: Any, **kwargs: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(e2b.AsyncSandbox, "_create", hang)

        async def live() -> None:
            task = asyncio.ensure_future(e2b.AsyncSandbox.create("tpl-1"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(live())
        assert kept.events == []


class TestSecrecy:
    def test_nothing_else_is_read(self, api: SandboxApi, kept: Kept, sandboxes: Any) -> None:
        async def live() -> None:
            given = {"envs": {"KEY": PLANTED}, "metadata": {"note": PLANTED}}
            one = await done(sandboxes.create("tpl-1", **given))
            await done(one.create_snapshot())
            await done(one.kill())

        asyncio.run(live())
        assert len(kept.records) == 3
        for record in kept.records:
            assert PLANTED not in str(vars(record))
            assert "e2b_0" not in str(vars(record))


class TestReplacing:
    def test_the_same_attributes_come_back(self) -> None:
        before = attributes()
        cubesandbox.instrument()
        during = attributes()
        cubesandbox.uninstrument()
        after = attributes()
        assert before.keys() == during.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)
        assert all(before[name] is not during[name] for name in before)

    def test_twice_is_once(self, api: SandboxApi, logger: logging.Logger) -> None:
        before, kept = attributes(), Kept()
        logger.addHandler(kept)
        cubesandbox.instrument()
        during = attributes()
        cubesandbox.instrument(logger)
        try:
            assert attributes() == during
            cube.Sandbox.create().kill()
        finally:
            cubesandbox.uninstrument()
        cubesandbox.uninstrument()
        assert attributes() == before
        assert len(kept.events) == 2

    def test_the_default_logger(self, api: SandboxApi) -> None:
        logger, kept = logging.getLogger("cube"), Kept()
        level = logger.level
        logger.addHandler(kept)
        logger.setLevel(logging.INFO)
        cubesandbox.instrument()
        try:
            cube.Sandbox.create()
        finally:
            cubesandbox.uninstrument()
            logger.removeHandler(kept)
            logger.setLevel(level)
        assert [event["event"] for event in kept.events] == ["sandbox.created"]

    def test_what_others_have_put_there_stays(self, api: SandboxApi, kept: Kept) -> None:
        ours = cube.Sandbox.kill
        calls = []

        def theirs(self: Any) -> Any:
            calls.append(self)
            return ours(self)

        original = inspect.unwrap(ours)
        cube.Sandbox.kill = theirs
        try:
            cubesandbox.instrument(logging.getLogger("other"))
            cubesandbox.uninstrument()
            assert cube.Sandbox.kill is theirs
            cube.Sandbox.create().kill()
        finally:
            cube.Sandbox.kill = original
        assert len(calls) == 1
        assert kept.events == []

    def test_a_method_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in older versions."""
        monkeypatch.delattr(cube.Sandbox, "set_timeout")
        monkeypatch.delattr(cube.Sandbox, "rollback")
        cubesandbox.instrument()
        cubesandbox.uninstrument()
        assert not hasattr(cube.Sandbox, "rollback")

    @pytest.mark.parametrize("installed", [[], ["cubesandbox"], ["e2b", "e2b_code_interpreter"]])
    def test_what_is_not_installed(
        self, installed: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = attributes()
        for sdk in set(SDKS) - set(installed):
            monkeypatch.setitem(sys.modules, sdk, None)
        if not installed:
            with pytest.raises(ConfigError, match="pip install cubesandbox"):
                cubesandbox.instrument()
        else:
            cubesandbox.instrument()
            cubesandbox.uninstrument()
        monkeypatch.undo()
        assert attributes() == before

    def test_a_logger_that_is_none(self) -> None:
        with pytest.raises(ConfigError, match="logger"):
            cubesandbox.instrument("cube")  # type: ignore[arg-type]


class TestLooks:
    """What a program sees of a method is what the SDK's authors have written."""

    @staticmethod
    def look(sandboxes: Any) -> dict[str, Any]:
        return {
            call.method: (
                str(inspect.signature(method)),
                method.__doc__,
                method.__name__,
                method.__qualname__,
                method.__module__,
                inspect.iscoroutinefunction(method),
                inspect.ismethod(method),
                inspect.isfunction(method),
            )
            for call in CALLS
            if (method := getattr(sandboxes, call.method, None)) is not None
        }

    def test_the_same(self, sandboxes: Any) -> None:
        before = self.look(sandboxes)
        cubesandbox.instrument()
        try:
            assert self.look(sandboxes) == before
        finally:
            cubesandbox.uninstrument()
        assert len(before) >= 8


class TestPausedOnes:
    def test_only_so_many_are_remembered(
        self, api: SandboxApi, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cubesandbox, "MOST_PAUSED", 2)
        for _ in range(3):
            cube.Sandbox.create().pause(wait=False)
        for number in (1, 2, 3):
            cube.Sandbox.connect(f"sb-{number}")
        resumed = [one["sandbox_id"] for one in kept.events if one["event"] == "sandbox.resumed"]
        assert resumed == ["sb-2", "sb-3"]

    def test_threads(self, api: SandboxApi, kept: Kept) -> None:
        """A call of another thread is not a part of the one under way."""
        made = [cube.Sandbox.create() for _ in range(4)]
        together = threading.Barrier(4)

        def kill(one: Any) -> None:
            together.wait(10)
            one.kill()

        threads = [threading.Thread(target=kill, args=(one,)) for one in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        deleted = {one["sandbox_id"] for one in kept.events if one["event"] == "sandbox.deleted"}
        assert deleted == {one.sandbox_id for one in made}


def test_to_a_receiver(
    api: SandboxApi,
    receiver: Receiver,
    handler: Callable[..., WebhookHandler],
    logger: logging.Logger,
    sandboxes: Any,
) -> None:
    """From the call to the signed POST."""
    webhooks = handler()
    cubesandbox.instrument(logger)

    async def live() -> None:
        one = await done(sandboxes.create("tpl-1"))
        await done(one.kill())

    try:
        asyncio.run(live())
    finally:
        cubesandbox.uninstrument()
    assert webhooks.flush(10)
    created, deleted = (one.json for one in receiver.received())
    assert created["event"] == "sandbox.created"
    assert created["level"] == "info"
    assert (created["sandbox_id"], created["template_id"]) == ("sb-1", "tpl-1")
    assert deleted["event"] == "sandbox.deleted"
    assert (deleted["source"], deleted["reason"]) == ("api", "request")
