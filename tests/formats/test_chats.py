"""What all formats for chats have in common, and the limits of each with whatever fields."""

from __future__ import annotations

import json
import logging
import logging.config
import re
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from format_samples import (
    CHATS,
    INJECTIONS,
    RELAXED,
    body,
    event_names,
    fields,
    formatter,
    joined,
    levels,
    record,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cubehook import Endpoint, formats
from cubehook.formats._text import utf16
from cubehook.outcome import Failure, Reply

ALL = pytest.mark.parametrize("name", CHATS)


# --- What each service takes, and what it would take for markup ---


def slack(message: Any) -> None:
    assert list(message) == ["text", "blocks", "unfurl_links", "unfurl_media"]
    assert 1 <= len(message["blocks"]) <= 50
    texts = [block["text"] for block in message["blocks"]]
    assert all(text["verbatim"] is True and text["type"] == "mrkdwn" for text in texts)
    assert all(1 <= utf16(text["text"]) <= 3000 for text in texts)
    assert sum(utf16(text["text"]) for text in texts) <= 12_100
    assert 1 <= utf16(message["text"]) <= 4000
    for text in (message["text"], *(one["text"] for one in texts)):
        assert not re.search("[<>`]|&(?!amp;|lt;|gt;)", text)


def discord(message: Any) -> None:
    assert message["allowed_mentions"] == {"parse": []}
    assert utf16(message.get("content", "")) <= 2000
    assert len(message["embeds"]) <= 10
    total = 0
    for embed in message["embeds"]:
        assert 1 <= utf16(embed["title"]) <= 256
        assert not re.search(r"(?<!\\)(?:\\\\)*[*_~`|\[\]()<>#@]", embed["title"])
        assert len(embed["fields"]) <= 25
        total += utf16(embed["title"]) + utf16(embed.get("footer", {}).get("text", ""))
        for field in embed["fields"]:
            assert 1 <= utf16(field["name"]) <= 256
            assert 1 <= utf16(field["value"]) <= 1024
            assert re.fullmatch("`[^`\n]+`", field["value"])
            total += utf16(field["name"]) + utf16(field["value"])
    assert total <= 6000


def teams(message: Any) -> None:
    raw = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    assert len(raw.encode("utf-8")) <= 28 * 1024
    assert len(raw.encode("utf-16-le")) <= 28 * 1024
    (attachment,) = message["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert list(attachment["content"]["msteams"]) == ["width"]  # no entities: nobody is mentioned
    for line in attachment["content"]["body"]:
        assert line["type"] == "RichTextBlock"
        assert {run["type"] for run in line["inlines"]} == {"TextRun"}  # no Markdown
        assert all(run["text"] for run in line["inlines"])


def wecom(message: Any) -> None:
    assert list(message) == ["msgtype", "markdown"]
    content = message["markdown"]["content"]
    assert 1 <= len(content.encode("utf-8")) <= 4096
    own = re.sub(r'<font color="warning">(\*\*.*?\*\*)</font>', r"\1", content)
    for line in own.split("\n"):
        assert not re.search(r"[<>\[\]`]", line.removeprefix("> "))


def feishu(message: Any) -> None:
    raw = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    signature = '"timestamp":"1599360473","sign":"l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8=",'
    assert len(raw.encode("utf-8")) + len(signature) <= 20_000
    assert "<" not in raw
    card = message["card"]
    assert card["header"]["title"]["tag"] == "plain_text"
    assert 1 <= utf16(card["header"]["title"]["content"]) <= 200
    for element in card["elements"]:
        assert element["text"]["tag"] == "plain_text"
        assert element["text"]["content"]


def dingtalk(message: Any) -> None:
    raw = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    assert len(raw.encode("utf-8")) <= 20_000
    assert message["at"] == {"isAtAll": False}
    assert message["markdown"]["title"]
    assert not re.search(r"[<>\[\]`]", message["markdown"]["text"])


FITS: dict[str, Callable[[Any], None]] = {
    "slack": slack,
    "discord": discord,
    "teams": teams,
    "wecom": wecom,
    "feishu": feishu,
    "dingtalk": dingtalk,
}


@ALL
@RELAXED
@given(fields=fields, level=levels, event=event_names)
def test_whatever_the_fields_hold(
    name: str, fields: dict[str, Any], level: int, event: str
) -> None:
    one = logging.makeLogRecord(fields | {"event": event, "levelno": level})
    FITS[name](body(name, one))


@ALL
@settings(RELAXED, max_examples=20)
@given(st.lists(fields, min_size=1, max_size=3), levels, st.sampled_from([1, 2, 20]))
def test_whatever_many_events_hold(
    name: str, several: list[dict[str, Any]], level: int, times: int
) -> None:
    FITS[name](joined(name, [record(level, **one) for one in several], times))


@ALL
@pytest.mark.parametrize("text", INJECTIONS)
def test_no_injection(name: str, text: str) -> None:
    FITS[name](body(name, record(logging.ERROR, **{"sandbox_id": text, text: text})))


@ALL
@pytest.mark.parametrize(
    "filler", ["x", "\u6f22", "\U0001f600", '"', "\\", "&", "\n", "\u0300", "\ud800"]
)
def test_the_largest_of_all(name: str, filler: str) -> None:
    given = {f"{number}{filler * 200}": filler * 4_000 for number in range(20)}
    largest = record(logging.WARNING, sandbox_id=filler * 4_000, **given)
    FITS[name](body(name, largest))
    FITS[name](joined(name, [largest] * 3))


# --- The words ---


def words(name: str, one: logging.LogRecord) -> str:
    """All that a person reads of it."""

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, dict) else value
        return [text for one in inner for text in texts(one)] if inner else []

    message = body(name, one)
    plain = [text for text in texts(_without_numbers(message)) if text]
    return "\n".join(plain).replace("\\", "").replace("`", "")


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_numbers(one) for one in value]
    return value if isinstance(value, str) else None


@ALL
@pytest.mark.parametrize(
    ("event", "given", "title"),
    [
        ("sandbox.created", {"sandbox_id": "sb-1"}, "Sandbox created: sb-1"),
        ("sandbox.deleted", {"sandbox_id": "sb-1"}, "Sandbox deleted: sb-1"),
        ("sandbox.paused", {"sandbox_id": "sb-1"}, "Sandbox paused: sb-1"),
        ("sandbox.resumed", {"sandbox_id": "sb-1"}, "Sandbox resumed: sb-1"),
        ("sandbox.timeout.updated", {"sandbox_id": "sb-1"}, "Sandbox timeout updated: sb-1"),
        ("sandbox.refreshed", {"sandbox_id": "sb-1"}, "Sandbox refreshed: sb-1"),
        ("sandbox.rolled_back", {"sandbox_id": "sb-1"}, "Sandbox rolled back: sb-1"),
        ("snapshot.created", {"snapshot_id": "sn-1", "sandbox_id": "x"}, "Snapshot created: sn-1"),
        ("snapshot.deleted", {"snapshot_id": "sn-1"}, "Snapshot deleted: sn-1"),
        ("api.error", {"sandbox_id": "sb-1"}, "api.error: sb-1"),
        ("billing.invoice-paid", {}, "billing.invoice-paid"),
        ("sandbox.created", {"sandbox_id": ""}, "Sandbox created"),
    ],
)
def test_titles(name: str, event: str, given: dict[str, Any], title: str) -> None:
    text = words(name, record(event=event, **given))
    assert re.search(rf"(?m)^(?:#### |\*+)?{re.escape(title)}\**$", text)


@ALL
def test_fields_level_and_time(name: str) -> None:
    text = words(name, record(logging.ERROR, sandbox_id="sb-1", reason="timeout", names=["a", 1]))
    assert "ERROR: Sandbox created: sb-1" in text
    between = r":? ?(?:\nBolder\nTextRun)?\n?"
    assert re.search(f"reason{between}timeout", text)
    assert re.search(f'names{between}.?"a",1', text)
    assert "2026-07-01 08:00:00 UTC" in text or "2026-07-01T08:00:00.123456Z" in text
    assert "a message" not in text


@ALL
@pytest.mark.parametrize(
    ("level", "prefix"),
    [(logging.DEBUG, ""), (logging.INFO, ""), (logging.WARNING, "WARNING: "), (50, "ERROR: ")],
)
def test_levels(name: str, level: int, prefix: str) -> None:
    text = words(name, record(level))
    assert ("WARNING" in text, "ERROR" in text) == ("WARN" in prefix, "ERR" in prefix)
    assert f"{prefix}Sandbox created" in text


@ALL
def test_fields_beyond_twelve_are_counted(name: str) -> None:
    text = words(name, record(**{f"name_{number}": number for number in range(15)}))
    assert "name_11" in text
    assert "name_12" not in text
    assert "… and 3 more fields" in text
    one_more = words(name, record(**{f"name_{number}": number for number in range(13)}))
    assert one_more.count("… and 1 more field") == 1


@ALL
def test_a_record_without_an_event(name: str) -> None:
    assert "Log record" in words(name, logging.makeLogRecord({"msg": "x"}))


@ALL
def test_no_emoji_and_no_secrets(name: str) -> None:
    text = words(name, record(password="planted", note="Bearer planted-abcdef", sandbox_id="s"))
    assert "planted" not in text
    assert not [char for char in text if unicodedata.category(char) == "So"]


# --- Batches ---


@ALL
def test_few_events_are_all_there(name: str) -> None:
    raw = json.dumps(joined(name, [record(sandbox_id=f"sb-{number}") for number in range(5)]))
    assert all(f"sb-{number}" in raw for number in range(5))
    assert " more event" not in raw


@ALL
def test_of_many_events_the_rest_is_counted(name: str) -> None:
    records = [record(sandbox_id=f"sb-{number}!", note="x" * 300) for number in range(500)]
    raw = json.dumps(joined(name, records), ensure_ascii=False)
    shown = [number for number in range(500) if f"sb-{number}!" in raw.replace("\\", "")]
    assert shown == list(range(len(shown)))
    assert len(shown) >= 8
    assert f"… and {500 - len(shown)} more events" in raw


@ALL
def test_a_batch_fits_however_long_the_events_are(name: str) -> None:
    for length in range(0, 300, 5):
        FITS[name](joined(name, [record(note="x" * length)], times=100))


@ALL
def test_very_many_events_that_say_little(name: str) -> None:
    message = joined(name, [record(event="a")], times=2000)
    FITS[name](message)
    assert re.search("… and 1[0-9]{3} more events", json.dumps(message, ensure_ascii=False))


@ALL
def test_the_first_of_a_batch_is_always_there(name: str) -> None:
    large = record(sandbox_id="sb-first", **{f"n{number}": "\u6f22" * 300 for number in range(12)})
    assert "sb-first" in json.dumps(joined(name, [large, large]))


@ALL
def test_bodies_of_another_format_cannot_be_joined(name: str) -> None:
    bodies = [formatter("cube").format(record()).encode()] * 2
    with pytest.raises((KeyError, TypeError)):
        formatter(name).join("id", bodies)


# --- As a formatter, as a format ---


@ALL
def test_a_plain_formatter_of_logging(name: str, tmp_path: Any) -> None:
    found = formats.find(name)
    path = tmp_path / "log"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"chat": {"()": f"{found.__module__}.{found.__name__}"}},
            "handlers": {
                "file": {
                    "class": "logging.FileHandler",
                    "filename": str(path),
                    "formatter": "chat",
                    "encoding": "utf-8",
                }
            },
            "loggers": {f"chat.{name}": {"handlers": ["file"], "propagate": False}},
        }
    )
    logger = logging.getLogger(f"chat.{name}")
    logger.warning("x", extra={"event": "sandbox.paused", "sandbox_id": "sb-1"})
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    FITS[name](json.loads(path.read_text(encoding="utf-8")))


def test_lark_is_feishu_under_its_other_name() -> None:
    assert formats.find("lark") is formats.find("feishu")


@pytest.mark.parametrize(
    ("name", "scheme", "limit"),
    [
        ("slack", "cube", "1/1s"),
        ("discord", "cube", "5/10s"),
        ("teams", "cube", "4/1s"),
        ("wecom", "cube", "20/60s"),
        ("feishu", "feishu", "5/3s"),
        ("lark", "feishu", "5/3s"),
        ("dingtalk", "dingtalk", "20/60s"),
    ],
)
def test_scheme_and_rate_limit(name: str, scheme: str, limit: str) -> None:
    found = formatter(name)
    assert (found.scheme, found.rate_limit) == (scheme, limit)
    endpoint = Endpoint(url="https://chat.example/hook", format=name)
    assert endpoint.schemes == (scheme,)


# --- Answers ---

bodies = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"", b"ok", b"1", b"null", b"[]", b"[" * 50_000, b"1" * 5000, b"\xff", b"{}"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["code", "StatusCode", "errcode", "msg", "errmsg", "ok"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
)


@ALL
@RELAXED
@given(bodies, st.sampled_from([200, 201, 202, 204, 301, 400, 404, 410, 429, 500, 503]))
def test_judging_never_raises_nor_tells(name: str, raw: bytes, status: int) -> None:
    reply = Reply(status, body=raw)
    judged = formatter(name).judge(reply)
    if isinstance(judged, Failure):
        assert re.fullmatch(
            r"[a-z]+: (?:code -?[0-9]{1,9}|status [0-9]{1,3}|not ok|the answer cannot be read)",
            judged.reason,
        )
        assert 0 <= judged.wait <= 600
        assert not (judged.final and judged.wait)
    else:
        assert judged is reply


@ALL
@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 410, 413, 429, 500, 502, 503])
def test_a_status_that_tells_is_not_judged(name: str, status: int) -> None:
    for raw in (b"", b"<html>", b"{}", b'{"code": 0, "errcode": 0}'):
        reply = Reply(status, retry_after="7", body=raw)
        assert formatter(name).judge(reply) is reply
