"""Scheme e2b: receivers written from E2B's documentation, the refused, and where it is weak."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import VerificationError, signing, verify

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "550e8400-e29b-41d4-a716-446655440000"
SECRET = "secret-for-event-signature-verification"
BODY = b'{"id":"delivery-1","event":"sandbox.created"}'
PAYLOAD = {"id": "delivery-1", "event": "sandbox.created"}
SIGNATURE = "e2b-signature"
# printf %s "$SECRET$BODY" | openssl dgst -sha256 -binary | base64 | tr -d =
KNOWN = "Wig2Jket03ZqgFKNa6DPtUbe3iJPB0fX/Md5zNv9g80"

SCHEME = signing.find("e2b")


def signed(body: bytes = BODY, *secrets: str) -> dict[str, str]:
    return SCHEME.sign(
        message_id=ID,
        event="sandbox.created",
        timestamp=1_710_000_000,
        body=body,
        keys=[SCHEME.key(secret) for secret in secrets or (SECRET,)],
    )


def verify_webhook_signature(secret: str, payload: str, payload_signature: str) -> bool:
    """As E2B documents it."""
    hash_bytes = hashlib.sha256((secret + payload).encode("utf-8")).digest()
    expected_signature = base64.b64encode(hash_bytes).decode("utf-8")
    expected_signature = expected_signature.rstrip("=")
    return expected_signature == payload_signature


def refusal(
    given_headers: Any, secret: Any = SECRET, body: bytes = BODY, scheme: str | None = "e2b"
) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(body, given_headers, secret, scheme=scheme)
    return str(caught.value)


class TestSign:
    def test_known_answer(self) -> None:
        assert signed() == {
            "e2b-delivery-id": ID,
            "e2b-signature-version": "v1",
            "e2b-signature": KNOWN,
        }

    def test_only_the_first_key_signs(self) -> None:
        assert signed(BODY, "new", "old") == signed(BODY, "new")

    def test_a_key_can_be_used_again(self) -> None:
        key = SCHEME.key(SECRET)
        for _ in range(2):
            made = SCHEME.sign(message_id=ID, event="x", timestamp=0, body=BODY, keys=[key])
            assert made[SIGNATURE] == KNOWN

    def test_without_a_key_there_is_no_signature(self) -> None:
        unsigned = SCHEME.sign(message_id=ID, event="a.b", timestamp=0, body=BODY, keys=[])
        assert unsigned == {"e2b-delivery-id": ID}

    @RELAXED
    @given(st.text(max_size=300), st.text(min_size=1).filter(lambda text: "wh" not in text))
    def test_a_receiver_of_e2b_accepts_it(self, text: str, secret: str) -> None:
        body = text.encode("utf-8")
        signature = signed(body, secret)[SIGNATURE]
        assert verify_webhook_signature(secret, text, signature)
        assert not verify_webhook_signature(secret, text + " ", signature)
        assert not verify_webhook_signature(secret + " ", text, signature)

    @pytest.mark.parametrize("secret", ["whsk_x", "whpk_x", " whsk_x", "\ud800"])
    def test_what_is_no_shared_secret(self, secret: str) -> None:
        with pytest.raises(ValueError, match="is ") as caught:
            SCHEME.key(secret)
        assert secret not in str(caught.value)

    def test_the_key_does_not_show_the_secret(self) -> None:
        assert SECRET not in repr(SCHEME.key(SECRET))


class TestVerify:
    @pytest.mark.parametrize("secret", [SECRET, SECRET.encode(), ["other", SECRET], [SECRET, "x"]])
    def test_by_name(self, secret: Any) -> None:
        assert verify(BODY, signed(), secret, scheme="e2b") == PAYLOAD

    def test_not_without_its_name(self) -> None:
        assert refusal(signed(), scheme=None) == "no signature header"

    def test_holds_no_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for now in (0.0, 1e12):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            assert verify(BODY, signed(), SECRET, scheme="e2b", tolerance=0) == PAYLOAD

    @pytest.mark.parametrize("position", range(len(BODY)))
    def test_body_with_one_bit_changed(self, position: int) -> None:
        body = bytearray(BODY)
        body[position] ^= 1
        assert refusal(signed(), body=bytes(body)) == "signature does not match"

    def test_every_character_of_the_signature_counts(self) -> None:
        for position, right in enumerate(KNOWN):
            for letter in "09azAZ+/=-_ ,\n\xff":
                if letter != right:
                    changed = KNOWN[:position] + letter + KNOWN[position + 1 :]
                    assert refusal(signed() | {SIGNATURE: changed})

    @pytest.mark.parametrize(
        "value",
        ["", "=", KNOWN + "=", KNOWN + KNOWN, f"{KNOWN},{KNOWN}", KNOWN[:-1], None, b"\xff"],
    )
    def test_malformed_signature(self, value: Any) -> None:
        assert refusal({**signed(), SIGNATURE: value}) == "signature does not match"

    def test_a_missing_header(self) -> None:
        assert refusal({"e2b-delivery-id": ID}) == "no e2b-signature header"

    def test_another_secret(self) -> None:
        assert refusal(signed(), "other") == "signature does not match"


def test_what_a_plain_hash_lets_others_sign_is_no_json() -> None:
    # Who knows the signature of a body can go on from it: the padding of SHA-256, and then
    # anything. Here it is signed with the secret; the signature would be the same.
    length = len(SECRET.encode() + BODY)
    padding = b"\x80" + bytes((55 - length) % 64) + (8 * length).to_bytes(8, "big")
    longer = BODY + padding + b'{"id":"forged"}'
    headers = signed(longer)
    assert refusal(headers, body=longer) == "the body is not JSON"
