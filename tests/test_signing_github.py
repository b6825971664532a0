"""Scheme github: the known answer, a receiver written from GitHub's documentation, the refused."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import VerificationError, signing, verify

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "550e8400-e29b-41d4-a716-446655440000"
SECRET = "It's a Secret to Everybody"
BODY = b'{"id":"delivery-1","event":"sandbox.created"}'
PAYLOAD = {"id": "delivery-1", "event": "sandbox.created"}
SIGNATURE = "X-Hub-Signature-256"
KNOWN = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

SCHEME = signing.find("github")


def signed(body: bytes = BODY, *secrets: str) -> dict[str, str]:
    return SCHEME.sign(
        message_id=ID,
        event="sandbox.created",
        timestamp=1_710_000_000,
        body=body,
        keys=[SCHEME.key(secret) for secret in secrets or (SECRET,)],
    )


def documented(body: bytes, secret: str, signature_header: str | None) -> bool:
    """The check that GitHub's documentation gives for Python, but for FastAPI's exceptions."""
    if not signature_header:
        return False
    hash_object = hmac.new(secret.encode("utf-8"), msg=body, digestmod=hashlib.sha256)
    expected_signature = "sha256=" + hash_object.hexdigest()
    return hmac.compare_digest(expected_signature, signature_header)


def refusal(
    given_headers: Any, secret: Any = SECRET, body: bytes = BODY, scheme: str | None = "github"
) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(body, given_headers, secret, scheme=scheme)
    return str(caught.value)


class TestSign:
    def test_known_answer(self) -> None:
        assert signed(b"Hello, World!") == {
            "X-GitHub-Event": "sandbox.created",
            "X-GitHub-Delivery": ID,
            "X-Hub-Signature-256": KNOWN,
        }

    def test_only_the_first_key_signs(self) -> None:
        assert signed(BODY, "new", "old") == signed(BODY, "new")

    def test_without_a_key_there_is_no_signature(self) -> None:
        unsigned = SCHEME.sign(message_id=ID, event="a.b", timestamp=0, body=BODY, keys=[])
        assert unsigned == {"X-GitHub-Event": "a.b", "X-GitHub-Delivery": ID}

    @RELAXED
    @given(st.binary(max_size=300), st.text(min_size=1).filter(lambda text: "wh" not in text))
    def test_a_receiver_of_github_accepts_it(self, body: bytes, secret: str) -> None:
        headers = signed(body, secret)
        assert documented(body, secret, headers[SIGNATURE])
        assert not documented(body + b" ", secret, headers[SIGNATURE])
        assert not documented(body, secret + " ", headers[SIGNATURE])
        assert not documented(body, secret, headers[SIGNATURE].upper())


class TestVerify:
    @pytest.mark.parametrize("secret", [SECRET, SECRET.encode(), ["other", SECRET], [SECRET, "x"]])
    def test_by_name(self, secret: Any) -> None:
        assert verify(BODY, signed(), secret, scheme="github") == PAYLOAD

    def test_rotation(self) -> None:
        for sent in ("new", "old"):
            assert verify(BODY, signed(BODY, sent), ["new", "old"], scheme="github") == PAYLOAD
        assert refusal(signed(BODY, "new", "old"), "old") == "signature does not match"

    def test_not_without_its_name(self) -> None:
        # Else a recorded request could be sent for ever once its other headers are taken off.
        assert refusal(signed(), scheme=None) == "no signature header"
        stale = {
            "X-Cube-Webhook-Delivery": ID,
            "X-Cube-Webhook-Timestamp": "1710000000",
            "X-Cube-Webhook-Signature": "v1=" + "0" * 64,
        }
        assert (
            refusal({**signed(), **stale}, scheme=None) == "timestamp is too old or in the future"
        )

    def test_holds_no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for now in (0.0, 1e12):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            assert verify(BODY, signed(), SECRET, scheme="github", tolerance=0) == PAYLOAD

    @pytest.mark.parametrize("position", range(len(BODY)))
    def test_body_with_one_bit_changed(self, position: int) -> None:
        body = bytearray(BODY)
        body[position] ^= 1
        assert refusal(signed(), body=bytes(body)) == "signature does not match"

    def test_every_character_of_the_signature_counts(self) -> None:
        genuine = signed()[SIGNATURE]
        for position, right in enumerate(genuine):
            for letter in "0123456789abcdefABCDEF=, \n\xff":
                if letter != right:
                    listed = genuine[:position] + letter + genuine[position + 1 :]
                    assert refusal(signed() | {SIGNATURE: listed})

    @pytest.mark.parametrize(
        "value",
        ["", "sha256=", KNOWN, signed()[SIGNATURE][7:], signed()[SIGNATURE] + "00", None, b"\xff"],
    )
    def test_malformed_signature(self, value: Any) -> None:
        headers: dict[str, Any] = {**signed(), SIGNATURE: value}
        assert refusal(headers) == "signature does not match"

    def test_a_missing_or_repeated_header(self) -> None:
        headers = signed()
        repeated = [*headers.items(), (SIGNATURE, headers[SIGNATURE])]
        assert refusal(repeated) == "signature does not match"
        del headers[SIGNATURE]
        assert refusal(headers) == "no x-hub-signature-256 header"
        # The older signature, by SHA-1, is none.
        sha1 = hmac.new(SECRET.encode(), BODY, hashlib.sha1).hexdigest()
        assert refusal(headers | {"X-Hub-Signature": f"sha1={sha1}"})

    @pytest.mark.parametrize("secret", ["", [], None, [SECRET, ""], 5])
    def test_no_usable_secret(self, secret: Any) -> None:
        assert refusal(signed(), secret)

    @pytest.mark.parametrize("tolerance", ["soon", None, math.nan])
    def test_a_tolerance_is_of_no_use_but_has_to_be_one(self, tolerance: Any) -> None:
        if isinstance(tolerance, float):
            assert verify(BODY, signed(), SECRET, scheme="github", tolerance=tolerance) == PAYLOAD
        else:
            with pytest.raises(VerificationError):
                verify(BODY, signed(), SECRET, scheme="github", tolerance=tolerance)
