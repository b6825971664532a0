"""Scheme dingtalk: the known answers, the query, and that nobody else can check it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import urllib.parse

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import VerificationError, signing, verify
from cubehook.signing import Sealed, SealingScheme

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCHEME = signing.find("dingtalk")
BODY = b'{"msgtype":"text","text":{"content":"x"}}'


def seal(timestamp: int, secret: str, body: bytes = BODY) -> Sealed:
    assert isinstance(SCHEME, SealingScheme)
    return SCHEME.seal(timestamp=timestamp, body=body, keys=[SCHEME.key(secret)])


def documented(milliseconds: int, secret: str) -> str:
    """As DingTalk documents it, with its quoting."""
    timestamp = str(milliseconds)
    secret_enc = secret.encode("utf-8")
    string_to_sign = f"{timestamp}\n{secret}"
    string_to_sign_enc = string_to_sign.encode("utf-8")
    hmac_code = hmac.new(secret_enc, string_to_sign_enc, digestmod=hashlib.sha256).digest()
    return urllib.parse.quote_plus(base64.b64encode(hmac_code))


@pytest.mark.parametrize(
    ("timestamp", "secret", "sign"),
    [
        # DingTalk publishes none. These two were made by others, with other programs.
        (1600000000, "secret123", "DvrLEPjUDitKWZKJtUGilH9lqZjvvhI60t/GkdrlpGA="),
        (1712126400, "test-secret", "a3Oj/xZUNmKv482dWMT5v1Nhr+PAlFKrLxjD39MXOXA="),
    ],
)
def test_known_answers(timestamp: int, secret: str, sign: str) -> None:
    assert seal(timestamp, secret) == Sealed(BODY, {"timestamp": f"{timestamp}000", "sign": sign})


@RELAXED
@given(st.integers(0, 10**11), st.text(min_size=1).filter(lambda text: "wh" not in text))
def test_any_secret(timestamp: int, secret: str) -> None:
    query = urllib.parse.urlencode(seal(timestamp, secret).query)
    assert query == f"timestamp={timestamp * 1000}&sign={documented(timestamp * 1000, secret)}"


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


def test_verify_refuses_it() -> None:
    query = seal(1710000000, "x").query
    with pytest.raises(VerificationError, match="does not sign the body"):
        verify(BODY, query, "x", scheme="dingtalk")
    with pytest.raises(VerificationError, match="no signature header"):
        verify(BODY, query, "x")
