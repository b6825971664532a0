"""Scheme cube and `verify`: the known answer, what is accepted, and that all else is refused."""

from __future__ import annotations

import base64
import email.message
import hashlib
import hmac
import http.client
import io
import json
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from cubehook import VerificationError, signing, verify

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "550e8400-e29b-41d4-a716-446655440000"
NOW = 1_710_000_000
SECRET = "test-secret"
BODY = b'{"id":"delivery-1","event":"sandbox.created"}'
PAYLOAD = {"id": "delivery-1", "event": "sandbox.created"}
KNOWN = "v1=32d6a0eded03b109ed9fb0b0d57ac414e13f4bc2caa5eb1fb6c0db0b23845f85"
PLANTED = "pl4nted-V4lue"

TIMESTAMP = "X-Cube-Webhook-Timestamp"
DELIVERY = "X-Cube-Webhook-Delivery"
SIGNATURE = "X-Cube-Webhook-Signature"

HEADERS = {
    "Content-Type": "application/json",
    "X-Cube-Webhook-Event": "sandbox.created",
    DELIVERY: ID,
    TIMESTAMP: str(NOW),
    SIGNATURE: KNOWN,
}


def signature(
    body: bytes = BODY,
    secret: str | bytes = SECRET,
    delivery: str = ID,
    timestamp: float | str = NOW,
) -> str:
    """Written from WIRE.md, with nothing of the package."""
    key = secret if isinstance(secret, bytes) else secret.encode()
    signed = b".".join([str(timestamp).encode(), delivery.encode(), body])
    return "v1=" + hmac.new(key, signed, hashlib.sha256).hexdigest()


def headers(
    body: bytes = BODY,
    secret: str | bytes = SECRET,
    delivery: str = ID,
    timestamp: float | str = NOW,
) -> dict[str, Any]:
    """The headers of a genuine request."""
    return HEADERS | {
        DELIVERY: delivery,
        TIMESTAMP: str(timestamp),
        SIGNATURE: signature(body, secret, delivery, timestamp),
    }


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


def refusal(
    body: Any = BODY, given_headers: Any = HEADERS, secret: Any = SECRET, **options: Any
) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(body, given_headers, secret, **options)
    assert type(caught.value) is VerificationError
    return str(caught.value)


class TestSign:
    def test_known_answer(self) -> None:
        signed = signing.find("cube").sign(
            message_id=ID,
            event="sandbox.created",
            timestamp=NOW,
            body=BODY,
            keys=[signing.find("cube").key(SECRET)],
        )
        assert signed == {
            "X-Cube-Webhook-Event": "sandbox.created",
            "X-Cube-Webhook-Delivery": ID,
            "X-Cube-Webhook-Timestamp": "1710000000",
            "X-Cube-Webhook-Signature": KNOWN,
        }

    def test_one_signature_for_each_key_the_first_first(self) -> None:
        scheme = signing.find("cube")
        keys = [scheme.key("new"), scheme.key("old")]
        signed = scheme.sign(message_id=ID, event="a.b", timestamp=NOW, body=BODY, keys=keys)
        assert signed[SIGNATURE] == f"{signature(secret='new')},{signature(secret='old')}"

    def test_without_a_key_there_is_no_signature(self) -> None:
        signed = signing.find("cube").sign(
            message_id=ID, event="a.b", timestamp=NOW, body=BODY, keys=[]
        )
        assert list(signed) == ["X-Cube-Webhook-Event", DELIVERY, TIMESTAMP]

    def test_key_is_the_secret_in_utf8(self) -> None:
        scheme, secret = signing.find("cube"), "\u6c99\u76d2 s\xe9cret"
        keys = [scheme.key(secret)]
        signed = scheme.sign(message_id=ID, event="a.b", timestamp=NOW, body=BODY, keys=keys)
        assert signed[SIGNATURE] == signature(secret=secret.encode("utf-8"))

    def test_a_key_is_none_the_worse_for_use(self) -> None:
        scheme = signing.find("cube")
        keys = [scheme.key(SECRET)]
        for body in (BODY, b"", BODY):
            signed = scheme.sign(message_id=ID, event="a.b", timestamp=NOW, body=body, keys=keys)
            assert signed[SIGNATURE] == signature(body)

    def test_threads_share_a_key(self) -> None:
        scheme = signing.find("cube")
        keys = [scheme.key(SECRET)]

        def sign(number: int) -> bool:
            body = b"%d" % number * 3000  # long enough that hashing gives other threads their turn
            signed = scheme.sign(message_id=ID, event="a.b", timestamp=NOW, body=body, keys=keys)
            return bool(signed[SIGNATURE] == signature(body))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(sign, range(400)))

    @pytest.mark.parametrize("secret", ["whsk_" + "A" * 86 + "==", "whpk_x", " whpk_x", "\nwhsk_"])
    @pytest.mark.parametrize("name", ["cube", "github"])
    def test_an_asymmetric_key_is_no_shared_secret(self, name: str, secret: str) -> None:
        with pytest.raises(ValueError, match=r"^is an Ed25519 key, and must not be") as caught:
            signing.find(name).key(secret)
        assert secret.strip() not in str(caught.value)

    def test_a_public_key_lets_nobody_in(self) -> None:
        # Signed with what everybody knows, by who hopes that it is taken for a shared secret.
        public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
        assert refusal(given_headers=headers(secret=public), secret=public).startswith(
            "no usable secret (is an Ed25519 key"
        )

    def test_find(self) -> None:
        assert "cube" in signing.known()
        assert all(signing.find(name).name == name for name in signing.known())
        with pytest.raises(KeyError):
            signing.find("none")

    @settings(RELAXED, max_examples=50)
    @given(
        st.dictionaries(st.text(), st.integers() | st.text(), max_size=3),
        st.lists(
            # "whsk_…" is no secret of this scheme.
            st.text(min_size=1).filter(lambda text: "wh" not in text),
            min_size=1,
            max_size=3,
        ),
        st.from_regex(r"\A[A-Za-z0-9_:~-]{1,128}\Z"),
        st.integers(0, 2**35),
    )
    def test_what_is_signed_verifies(
        self, payload: dict[str, Any], secrets: list[str], delivery: str, timestamp: int
    ) -> None:
        scheme, body = signing.find("cube"), json.dumps(payload).encode()
        keys = [scheme.key(secret) for secret in secrets]
        signed = scheme.sign(
            message_id=delivery, event="a.b", timestamp=timestamp, body=body, keys=keys
        )
        for secret in secrets:
            assert verify(body, signed, secret, tolerance=math.inf) == payload


class Request(Mapping[str, str]):
    """A mapping that is no dict, such as frameworks have."""

    def __getitem__(self, name: str) -> str:
        return HEADERS[name]

    def __iter__(self) -> Iterator[str]:
        return iter(HEADERS)

    def __len__(self) -> int:
        return len(HEADERS)


def message(pairs: Mapping[str, str] = HEADERS) -> email.message.Message:
    made = email.message.Message()
    for name, value in pairs.items():
        made[name] = value
    return made


def http_message(pairs: Mapping[str, str] = HEADERS) -> http.client.HTTPMessage:
    """As ``http.server`` has it: read from the wire."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs.items())
    return http.client.parse_headers(io.BytesIO(lines.encode() + b"\r\n"))


class TestAccepted:
    def test_known_answer(self) -> None:
        assert verify(BODY, HEADERS, SECRET) == PAYLOAD

    @pytest.mark.parametrize(
        "given_headers",
        [
            pytest.param(lambda: dict(HEADERS), id="dict"),
            pytest.param(lambda: MappingProxyType(HEADERS), id="read-only mapping"),
            pytest.param(Request, id="another mapping"),
            pytest.param(lambda: CaseInsensitiveDict(HEADERS), id="requests"),
            pytest.param(message, id="email.message"),
            pytest.param(http_message, id="http.client"),
            pytest.param(lambda: list(HEADERS.items()), id="pairs"),
            pytest.param(lambda: iter(HEADERS.items()), id="iterator"),
            pytest.param(lambda: [list(pair) for pair in HEADERS.items()], id="lists"),
            pytest.param(lambda: {k.lower(): v for k, v in HEADERS.items()}, id="lower case"),
            pytest.param(lambda: {k.upper(): v for k, v in HEADERS.items()}, id="upper case"),
            pytest.param(
                lambda: {k.swapcase(): v.encode() for k, v in HEADERS.items()}, id="bytes values"
            ),
            pytest.param(
                lambda: [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()], id="ASGI"
            ),
            pytest.param(lambda: HEADERS | {TIMESTAMP: NOW}, id="timestamp as a number"),
            pytest.param(lambda: HEADERS | {"X-Other": None, "X-More": ["a"]}, id="others odd"),
        ],
    )
    def test_headers_in_any_shape(self, given_headers: Callable[[], Any]) -> None:
        assert verify(BODY, given_headers(), SECRET) == PAYLOAD

    @pytest.mark.parametrize("body", [BODY, bytearray(BODY), memoryview(BODY)])
    def test_body_in_any_buffer(self, body: Any) -> None:
        assert verify(body, HEADERS, SECRET) == PAYLOAD

    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param(SECRET, id="text"),
            pytest.param(SECRET.encode(), id="bytes"),
            pytest.param([SECRET], id="list"),
            pytest.param(["other", SECRET], id="second"),
            pytest.param((SECRET, "other"), id="first"),
            pytest.param([b"other", SECRET.encode()], id="bytes in a list"),
            pytest.param(iter(["other", SECRET]), id="iterator"),
        ],
    )
    def test_one_of_several_secrets(self, secret: Any) -> None:
        assert verify(BODY, HEADERS, secret) == PAYLOAD

    @pytest.mark.parametrize(
        "listed",
        [
            pytest.param(f"{KNOWN},{'v1=' + '0' * 64}", id="first"),
            pytest.param(f"{'v1=' + '0' * 64},{KNOWN}", id="second"),
            pytest.param(f"{'v1=' + '0' * 64} ,\t{KNOWN} ", id="with white space"),
            pytest.param(f"v2=abc,{KNOWN}", id="beside a version not known"),
            pytest.param(f",,{KNOWN},", id="beside empty ones"),
            pytest.param(f"{KNOWN},{KNOWN}", id="twice"),
        ],
    )
    def test_one_of_several_signatures(self, listed: str) -> None:
        assert verify(BODY, HEADERS | {SIGNATURE: listed}, SECRET) == PAYLOAD

    def test_signatures_in_repeated_headers(self) -> None:
        other = [(SIGNATURE, signature(secret="other")), (SIGNATURE.lower(), KNOWN)]
        pairs = [pair for pair in HEADERS.items() if pair[0] != SIGNATURE]
        assert verify(BODY, pairs + other, SECRET) == PAYLOAD
        assert verify(BODY, other + pairs, ["test-secret"]) == PAYLOAD

    def test_both_sides_rotate(self) -> None:
        sent = f"{signature(secret='new')},{signature(secret='old')}"
        for secrets in (["new"], ["old"], ["older", "old"], ["newest", "new"]):
            assert verify(BODY, HEADERS | {SIGNATURE: sent}, secrets) == PAYLOAD
        assert refusal(given_headers=HEADERS | {SIGNATURE: sent}, secret=["newest", "older"])

    def test_secret_in_unicode(self) -> None:
        assert verify(BODY, headers(secret="\u6c99\u76d2"), "\u6c99\u76d2") == PAYLOAD

    def test_body_in_unicode(self) -> None:
        body = '{"text":"\u6c99\u76d2"}'.encode()
        assert verify(body, headers(body), SECRET) == {"text": "\u6c99\u76d2"}

    def test_scheme_by_name(self) -> None:
        assert verify(BODY, HEADERS, SECRET, scheme="cube") == PAYLOAD

    @pytest.mark.parametrize("delivery", ["a", "msg_p5jXN8AQ", "!~", "x" * 255])
    def test_any_id_without_a_dot(self, delivery: str) -> None:
        assert verify(BODY, headers(delivery=delivery), SECRET) == PAYLOAD


class TestFreshness:
    @pytest.mark.parametrize("tolerance", [0, 1, 300, 300.0, 12.5, 86_400])
    def test_the_edges(self, monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
        for moment, fresh in (
            (NOW + tolerance, True),
            (NOW - tolerance, True),
            (NOW + tolerance + 0.001, False),
            (NOW - tolerance - 0.001, False),
        ):
            monkeypatch.setattr(time, "time", lambda moment=moment: moment)
            if fresh:
                assert verify(BODY, HEADERS, SECRET, tolerance=tolerance) == PAYLOAD
            else:
                assert refusal(tolerance=tolerance) == "timestamp is too old or in the future"

    @pytest.mark.parametrize(("off", "fresh"), [(-301, 0), (-300, 1), (300, 1), (301, 0)])
    def test_default_is_300_seconds_either_way(self, off: int, fresh: bool) -> None:
        given_headers = headers(timestamp=NOW + off)
        if fresh:
            assert verify(BODY, given_headers, SECRET) == PAYLOAD
        else:
            assert refusal(given_headers=given_headers)

    def test_infinite_tolerance_takes_any_time(self) -> None:
        for timestamp in (0, NOW - 10**9, 999_999_999_999):
            given_headers = headers(timestamp=timestamp)
            assert verify(BODY, given_headers, SECRET, tolerance=math.inf) == PAYLOAD

    @pytest.mark.parametrize(
        "tolerance", [math.nan, -1, -0.001, -math.inf, "soon", "", None, [], "nan", 10**400, 1j]
    )
    def test_a_tolerance_that_is_none_takes_nothing(self, tolerance: Any) -> None:
        assert refusal(tolerance=tolerance)

    @pytest.mark.parametrize(
        "timestamp",
        [
            "",
            " ",
            f"{NOW}.0",
            f"-{NOW}",
            f"+{NOW}",
            f" {NOW}",
            f"{NOW} ",
            f"{NOW}\n",
            "1_710_000_000",
            "1.71e9",
            hex(NOW),
            "nan",
            "inf",
            "x",
            pytest.param("9" * 13, id="13 digits"),
            pytest.param("9" * 10_000, id="ten thousand digits"),
            pytest.param("\uff11" + str(NOW)[1:], id="fullwidth digit"),
            pytest.param("\u0661" + str(NOW)[1:], id="arabic digit"),
        ],
    )
    def test_malformed_timestamp(self, timestamp: str) -> None:
        # Signed with that very text: nothing but its form is wrong.
        text = refusal(given_headers=headers(timestamp=timestamp), tolerance=math.inf)
        assert text == "malformed timestamp"


class TestRefused:
    @pytest.mark.parametrize("position", range(len(BODY)))
    def test_body_with_one_bit_changed(self, position: int) -> None:
        body = bytearray(BODY)
        body[position] ^= 1
        assert refusal(bytes(body)) == "signature does not match"

    @pytest.mark.parametrize(
        "body", [BODY + b" ", BODY[:-1], b" " + BODY, b"", json.dumps(PAYLOAD).encode()]
    )
    def test_body_of_the_same_meaning(self, body: bytes) -> None:
        assert refusal(body) == "signature does not match"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (DELIVERY, ID.upper()),
            (DELIVERY, ID[:-1] + "1"),
            (TIMESTAMP, str(NOW + 1)),
            (TIMESTAMP, f"0{NOW}"),
            (SIGNATURE, KNOWN[:-1] + "6"),
            (SIGNATURE, "v1=" + "0" * 64),
        ],
    )
    def test_a_header_that_was_changed(self, name: str, value: str) -> None:
        assert refusal(given_headers=HEADERS | {name: value}) == "signature does not match"

    @pytest.mark.parametrize("secret", ["other", "test-secret ", "Test-secret", ["a", "b"], b"x"])
    def test_another_secret(self, secret: Any) -> None:
        assert refusal(secret=secret) == "signature does not match"

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "v1=",
            "v1",
            KNOWN[3:],
            KNOWN.upper(),
            "v1=" + KNOWN[3:].upper(),
            "v0=" + KNOWN[3:],
            "v2=" + KNOWN[3:],
            "v1:" + KNOWN[3:],
            "sha256=" + KNOWN[3:],
            KNOWN[:-1],
            KNOWN + "0",
            KNOWN + "\n",
            KNOWN + ";",
            "v1= " + KNOWN[3:],
            "v1=" + base64.b64encode(bytes.fromhex(KNOWN[3:])).decode(),
            KNOWN.replace(",", " ") + " v1=00",
            "v1=\uff13" + KNOWN[4:],
            None,
            [KNOWN],
            0,
        ],
    )
    def test_malformed_signature(self, value: object) -> None:
        assert refusal(given_headers=HEADERS | {SIGNATURE: value}) == "signature does not match"

    @pytest.mark.parametrize(
        "delivery",
        [
            pytest.param("a.b", id="dot"),
            pytest.param(".", id="dot alone"),
            pytest.param(f"{ID}.", id="dot last"),
            pytest.param("", id="empty"),
            pytest.param("a b", id="space"),
            pytest.param("a\n", id="LF at the end"),
            pytest.param("a\0", id="NUL"),
            pytest.param("\x7f", id="DEL"),
            pytest.param("caf\xe9", id="latin-1"),
            pytest.param("x" * 256, id="too long"),
        ],
    )
    def test_malformed_id(self, delivery: str) -> None:
        # Signed with that very id: nothing but its form is wrong.
        assert refusal(given_headers=headers(delivery=delivery)) == "malformed delivery id"

    def test_a_body_that_begins_inside_the_id(self) -> None:
        # The same signed bytes, cut elsewhere.
        genuine = headers(body=b"x." + BODY, delivery="a")
        moved = genuine | {DELIVERY: "a.x"}
        assert refusal(given_headers=moved) == "malformed delivery id"

    @pytest.mark.parametrize("name", [DELIVERY, TIMESTAMP])
    def test_a_missing_header(self, name: str) -> None:
        given_headers = {key: value for key, value in HEADERS.items() if key != name}
        assert refusal(given_headers=given_headers) == f"no {name.lower()} header"

    def test_no_signature(self) -> None:
        given_headers = {key: value for key, value in HEADERS.items() if key != SIGNATURE}
        assert refusal(given_headers=given_headers) == "no signature header"
        expected = "no x-cube-webhook-signature header"
        assert refusal(given_headers=given_headers, scheme="cube") == expected

    @pytest.mark.parametrize("name", [DELIVERY, TIMESTAMP])
    @pytest.mark.parametrize("same", [True, False])
    def test_a_repeated_header_that_is_no_list(self, name: str, same: bool) -> None:
        again = HEADERS[name] if same else "1"
        for pairs in (
            [*HEADERS.items(), (name, again)],
            [(name, again), *HEADERS.items()],
            [*HEADERS.items(), (name.lower(), again)],
        ):
            assert refusal(given_headers=pairs).startswith("malformed ")
        assert refusal(given_headers=HEADERS | {name.lower(): again}).startswith("malformed ")

    def test_a_repeated_header_of_http_client(self) -> None:
        repeated = http_message()
        repeated.add_header(TIMESTAMP, str(NOW))
        assert refusal(given_headers=repeated) == "malformed timestamp"

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b'["a"]',
            b"null",
            b"1",
            b'"text"',
            b"true",
            b"",
            b" ",
            b"{",
            b"{'a': 1}",
            b'{"a": 1} x',
            b"\xff\xfe{}",
            b'{"a": "\xff"}',
            b"\xef\xbb\xbf{}",
            '{"a":1}'.encode("utf-16"),
            pytest.param(b"[" * 100_000, id="deep"),
            pytest.param(b'{"a":' * 100_000, id="deep objects"),
            pytest.param(b'{"a":' + b"9" * 5_000 + b"}", id="digits"),
        ],
    )
    def test_a_signed_body_that_is_no_object(self, body: bytes) -> None:
        assert refusal(body, headers(body))

    @pytest.mark.parametrize("body", [b'[{"id":"1"},{"id":"2"}]', b"plain text", b"\xff", b""])
    def test_check_takes_a_body_of_any_kind(self, body: bytes) -> None:
        signing.check(body, headers(body), SECRET)
        for wrong in (headers(body + b"."), {}, None):
            with pytest.raises(VerificationError):
                signing.check(body, wrong, SECRET)  # type: ignore[arg-type]

    @pytest.mark.parametrize("body", [None, "text", 45, [], {}, 1.5, BODY.decode()])
    def test_a_body_that_is_no_bytes(self, body: object) -> None:
        assert refusal(body)

    @pytest.mark.parametrize(
        "given_headers",
        [
            *(None, 5, "text", b"bytes", [1], ["ab", "cde"], [()], {"a"}),
            pytest.param(object(), id="object"),
            pytest.param(lambda: None, id="function"),
        ],
    )
    def test_headers_that_are_none(self, given_headers: object) -> None:
        assert refusal(given_headers=given_headers)

    @pytest.mark.parametrize("scheme", ["none", "", "CUBE", 5, [], b"cube", {}])
    def test_a_scheme_that_is_not_known(self, scheme: object) -> None:
        assert refusal(scheme=scheme)


class TestNoUsableSecret:
    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param("", id="empty"),
            pytest.param(b"", id="empty bytes"),
            pytest.param([], id="none"),
            pytest.param((), id="none in a tuple"),
            pytest.param(iter([]), id="none in an iterator"),
            pytest.param([""], id="empty in a list"),
            pytest.param([SECRET, ""], id="empty beside a good one"),
            pytest.param(["", SECRET], id="empty before a good one"),
            pytest.param([b"", SECRET], id="empty bytes before a good one"),
        ],
    )
    def test_empty(self, secret: Any) -> None:
        assert refusal(secret=secret) == "no usable secret"
        # What anybody can sign.
        assert refusal(given_headers=headers(secret=""), secret=secret) == "no usable secret"

    @pytest.mark.parametrize(
        ("secret", "key"),
        [
            pytest.param(None, "None", id="None"),
            pytest.param([None], "None", id="None in a list"),
            pytest.param([SECRET, None], "None", id="None beside a good one"),
            pytest.param(0, "0", id="number"),
            pytest.param([0], "0", id="number in a list"),
            pytest.param([False], "False", id="False in a list"),
            pytest.param([["a"]], "['a']", id="list in a list"),
            pytest.param(bytearray(b"abc"), "97", id="bytearray"),
            pytest.param(memoryview(b"abc"), "97", id="memoryview"),
            pytest.param({"name": SECRET}, "name", id="mapping"),
        ],
    )
    def test_what_is_no_text_is_no_key_that_can_be_guessed(self, secret: Any, key: str) -> None:
        # os.environ.get() of a name that is not set must not let a request signed with "None" in.
        assert refusal(given_headers=headers(secret=key), secret=secret)


class TestNothingElseIsRaised:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    anything = (
        scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(), scalars, max_size=2)
    )
    names = st.sampled_from([*HEADERS, *(name.lower() for name in HEADERS), b"x-other", 5, None])
    values = st.sampled_from([*HEADERS.values(), ID + ".", "v1=00", NOW, None]) | anything

    @given(
        body=st.binary(max_size=60) | st.sampled_from([BODY, BODY.decode(), None, [], BODY[:9]]),
        given_headers=st.dictionaries(names, values, max_size=3).map(lambda some: HEADERS | some)
        | st.lists(st.tuples(names, values), max_size=6)
        | anything,
        secret=anything,
        tolerance=st.floats() | anything,
        scheme=st.sampled_from([*signing.known(), None]) | anything,
    )
    @settings(RELAXED, max_examples=80)
    @example(BODY, HEADERS, SECRET, math.nan, None)
    @example(BODY, HEADERS, [SECRET, None], 300, "cube")
    def test_whatever_is_given(
        self, body: Any, given_headers: Any, secret: Any, tolerance: Any, scheme: Any
    ) -> None:
        try:
            result = verify(body, given_headers, secret, tolerance=tolerance, scheme=scheme)
        except VerificationError:
            return
        # Found the secret and the rest by itself: then it must be genuine.
        assert result == PAYLOAD
        assert SECRET in (secret if isinstance(secret, list) else [secret])

    @RELAXED
    @given(st.binary(max_size=60))
    def test_whatever_is_signed(self, body: bytes) -> None:
        try:
            payload = json.loads(body.decode())
        except ValueError:
            payload = None
        if isinstance(payload, dict):
            assert verify(body, headers(body), SECRET) == payload
        else:
            assert refusal(body, headers(body))

    @RELAXED
    @given(st.binary(min_size=1, max_size=300), st.integers(0))
    def test_any_change_to_a_request_is_noticed(self, noise: bytes, position: int) -> None:
        at = position % len(BODY)
        body = BODY[:at] + noise + BODY[at + len(noise) :]
        if body != BODY:
            assert refusal(body) == "signature does not match"

    @pytest.mark.parametrize("where", ["header value", "header name", "secret", "items", "body"])
    def test_objects_that_raise(self, where: str) -> None:
        class Hostile:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(PLANTED)

            def __str__(self) -> str:
                raise RuntimeError(PLANTED)

            def __iter__(self) -> Any:
                raise RuntimeError(PLANTED)

        hostile = Hostile()
        assert {
            "header value": lambda: refusal(given_headers=HEADERS | {"X-Other": hostile}),
            "header name": lambda: refusal(given_headers=HEADERS | {hostile: "x"}),
            "secret": lambda: refusal(secret=[hostile]),
            "items": lambda: refusal(given_headers=hostile),
            "body": lambda: refusal(hostile),
        }[where]()

    def test_too_much_is_let_through(self) -> None:
        def interrupted() -> Iterator[tuple[str, str]]:
            yield "a", "b"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            verify(BODY, interrupted(), SECRET)


class TestNothingIsTold:
    @pytest.mark.parametrize(
        "request_",
        [
            pytest.param({"body": f'{{"{PLANTED}": '.encode() + b"\xff}"}, id="body not UTF-8"),
            pytest.param({"body": f'["{PLANTED}"]'.encode()}, id="body no object"),
            pytest.param({"body": PLANTED.encode()}, id="body no JSON"),
            pytest.param({"secret": PLANTED.encode() + b"\xff"}, id="secret not UTF-8"),
            pytest.param({"secret": PLANTED + "\ud800"}, id="secret with a surrogate"),
            pytest.param({"secret": [PLANTED, ""]}, id="secret empty"),
            pytest.param({"secret": PLANTED}, id="secret wrong"),
            pytest.param({"given_headers": HEADERS | {DELIVERY: PLANTED + "."}}, id="id"),
            pytest.param({"given_headers": HEADERS | {TIMESTAMP: PLANTED}}, id="timestamp"),
            pytest.param({"given_headers": HEADERS | {SIGNATURE: PLANTED}}, id="signature"),
            pytest.param({"given_headers": [PLANTED]}, id="headers"),
            pytest.param({"tolerance": PLANTED}, id="tolerance"),
            pytest.param({"scheme": PLANTED}, id="scheme"),
        ],
    )
    def test_of_a_value(self, request_: dict[str, Any]) -> None:
        arguments = {"body": BODY, "given_headers": HEADERS, "secret": SECRET} | request_
        body, options = arguments.pop("body"), {}
        if isinstance(body, bytes) and body != BODY:
            arguments["given_headers"] = headers(body)
        options = {key: arguments.pop(key) for key in ("tolerance", "scheme") if key in arguments}
        with pytest.raises(VerificationError) as caught:
            verify(body, arguments["given_headers"], arguments["secret"], **options)
        printed = "".join(traceback.format_exception(caught.value))
        # Source lines are printed too; of this file there are none with the value.
        assert PLANTED not in printed
        assert PLANTED not in repr(caught.value)
        assert caught.value.__cause__ is None
