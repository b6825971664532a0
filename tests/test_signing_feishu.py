"""Scheme feishu: the known answers, where the signature stands, and who cannot check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import VerificationError, signing, verify
from cubehook.signing import Sealed, SealingScheme

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCHEME = signing.find("feishu")
BODY = b'{"msg_type":"text","content":{"text":"request example"}}'


def seal(timestamp: int, secret: str, body: bytes = BODY) -> Sealed:
    assert isinstance(SCHEME, SealingScheme)
    return SCHEME.seal(timestamp=timestamp, body=body, keys=[SCHEME.key(secret)])


def gen_sign(timestamp: int, secret: str) -> str:
    """As Feishu documents it."""
    string_to_sign = f"{timestamp}\n{secret}"
    hmac_code = hmac.new(string_to_sign.encode("utf-8"), digestmod=hashlib.sha256).digest()
    return base64.b64encode(hmac_code).decode("utf-8")


@pytest.mark.parametrize(
    ("timestamp", "secret", "sign"),
    [
        (1599360473, "demo", "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8="),
        (1712126400, "test-secret", "BbGyLWSeiDDaf5+1ZZHc+miQjKW0aT9Rp/4iOd3ju5I="),
    ],
)
def test_known_answers(timestamp: int, secret: str, sign: str) -> None:
    sealed = seal(timestamp, secret)
    assert sealed.query == {}
    assert (
        sealed.body
        == (
            f'{{"timestamp":"{timestamp}","sign":"{sign}",'
            '"msg_type":"text","content":{"text":"request example"}}'
        ).encode()
    )


@RELAXED
@given(
    st.integers(0, 10**11),
    st.text(min_size=1).filter(lambda text: "wh" not in text),
    st.dictionaries(
        st.text().filter(lambda name: name not in ("timestamp", "sign")), st.integers(), max_size=3
    ),
)
def test_any_message(timestamp: int, secret: str, message: dict[str, Any]) -> None:
    spaces = timestamp % 3 or None
    body = json.dumps(message, ensure_ascii=False, indent=spaces).encode("utf-8", "replace")
    sealed = json.loads(seal(timestamp, secret, body).body)
    message = json.loads(body)
    assert sealed == {
        "timestamp": str(timestamp),
        "sign": gen_sign(timestamp, secret),
        **message,
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"text", b'"{}"', b"\xff"])
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert seal(1, "x", body) == Sealed(body)


def test_only_the_first_key_signs() -> None:
    assert isinstance(SCHEME, SealingScheme)
    keys = [SCHEME.key("new"), SCHEME.key("old")]
    assert SCHEME.seal(timestamp=1, body=BODY, keys=keys) == seal(1, "new")


def test_without_a_key_nothing_is_signed() -> None:
    assert isinstance(SCHEME, SealingScheme)
    assert SCHEME.seal(timestamp=1, body=BODY, keys=[]) == Sealed(BODY)


def test_there_are_no_headers() -> None:
    keys = [SCHEME.key("x")]
    assert SCHEME.sign(message_id="i", event="e", timestamp=1, body=BODY, keys=keys) == {}


@pytest.mark.parametrize("secret", ["whsk_x", "whpk_x", "\ud800"])
def test_what_is_no_shared_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="is "):
        SCHEME.key(secret)


def test_the_key_does_not_show_the_secret() -> None:
    assert "planted" not in repr(SCHEME.key("planted"))
    assert "planted" not in str(vars(type(SCHEME.key("planted"))))


def test_verify_refuses_it() -> None:
    # Whatever the body: who has seen one signature can put it into any.
    sealed = seal(1599360473, "demo")
    with pytest.raises(VerificationError, match="does not sign the body"):
        verify(sealed.body, {}, "demo", scheme="feishu")
    for headers in ({}, {"": "x"}, {"sign": "x"}):
        with pytest.raises(VerificationError, match="no signature header"):
            verify(sealed.body, headers, "demo")
