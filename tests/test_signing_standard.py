"""Schemes standard and standard-ed25519: known answers, the other implementation, the refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import subprocess
import sys
import time
from typing import Any

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint, VerificationError, signing, verify

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
NOW = 1_614_265_330
BODY = b'{"test": 2432232314}'
PAYLOAD = {"test": 2432232314}

SHARED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KNOWN = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PRIVATE = (
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
)
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
KNOWN_ED25519 = (
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

SCHEMES = ["standard", "standard-ed25519"]
SECRETS = {"standard": SHARED, "standard-ed25519": PRIVATE}
ANSWERS = {"standard": KNOWN, "standard-ed25519": KNOWN_ED25519}
SIGNATURE = "webhook-signature"

each_scheme = pytest.mark.parametrize("name", SCHEMES)


def text(prefix: str, raw: bytes) -> str:
    return prefix + base64.b64encode(raw).decode()


def shared(seed: bytes, size: int = 32) -> str:
    """A ``whsec_`` secret."""
    return text("whsec_", seed * size)


def pair(seed: bytes) -> tuple[str, str]:
    """A ``whsk_`` secret and its ``whpk_``."""
    private = Ed25519PrivateKey.from_private_bytes(seed * 32)
    public = private.public_key().public_bytes_raw()
    return text("whsk_", seed * 32 + public), text("whpk_", public)


NEW, OLD, OTHER = b"n", b"o", b"x"
SIGNING = {
    name: {
        seed: shared(seed) if name == "standard" else pair(seed)[0] for seed in (NEW, OLD, OTHER)
    }
    for name in SCHEMES
}
CHECKING = {
    name: {
        seed: shared(seed) if name == "standard" else pair(seed)[1] for seed in (NEW, OLD, OTHER)
    }
    for name in SCHEMES
}


def signed(
    name: str,
    *secrets: str,
    body: bytes = BODY,
    message_id: str = ID,
    timestamp: int = NOW,
) -> dict[str, str]:
    """The headers of a request that the scheme signs."""
    scheme = signing.find(name)
    return scheme.sign(
        message_id=message_id,
        event="a.b",
        timestamp=timestamp,
        body=body,
        keys=[scheme.key(secret) for secret in secrets or (SECRETS[name],)],
    )


def forged(message_id: str = ID, timestamp: str = str(NOW), body: bytes = BODY) -> dict[str, str]:
    """Headers with a right signature over whatever they hold, written from the specification."""
    content = f"{message_id}.{timestamp}.".encode() + body
    key = base64.b64decode(SHARED.removeprefix("whsec_"))
    mac = hmac.new(key, content, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        SIGNATURE: text("v1,", mac),
    }


def refusal(given_headers: Any, secret: Any, body: bytes = BODY, **options: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(body, given_headers, secret, **options)
    return str(caught.value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: float(NOW))


class TestSign:
    @each_scheme
    def test_known_answer(self, name: str) -> None:
        assert signed(name) == {
            "webhook-id": ID,
            "webhook-timestamp": str(NOW),
            "webhook-signature": ANSWERS[name],
        }

    @each_scheme
    def test_one_signature_for_each_key_the_first_first(self, name: str) -> None:
        new, old = SIGNING[name][NEW], SIGNING[name][OLD]
        apart = [signed(name, secret)[SIGNATURE] for secret in (new, old)]
        assert signed(name, new, old)[SIGNATURE] == " ".join(apart)

    @each_scheme
    def test_without_a_key_there_is_no_signature(self, name: str) -> None:
        unsigned = signing.find(name).sign(
            message_id=ID, event="a.b", timestamp=NOW, body=BODY, keys=[]
        )
        assert unsigned == {"webhook-id": ID, "webhook-timestamp": str(NOW)}


class TestKeys:
    @pytest.mark.parametrize("size", [24, 32, 63, 64])
    def test_shared_of_24_to_64_bytes(self, size: int) -> None:
        secret = shared(b"k", size)
        assert verify(BODY, signed("standard", secret), secret, tolerance=math.inf) == PAYLOAD

    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param(shared(b"k", 23), id="23 bytes"),
            pytest.param(shared(b"k", 65), id="65 bytes"),
            pytest.param("whsec_", id="nothing"),
            pytest.param("", id="empty"),
            pytest.param(SHARED.removeprefix("whsec_"), id="no prefix"),
            pytest.param(SHARED.upper(), id="prefix in upper case"),
            pytest.param("whsk_" + SHARED.removeprefix("whsec_"), id="another prefix"),
            pytest.param(f" {SHARED}", id="space before"),
            pytest.param(f"{SHARED}\n", id="line end"),
            pytest.param(shared(b"k", 25).rstrip("="), id="no padding"),
            pytest.param(f"{SHARED}====", id="too much padding"),
            pytest.param(text("whsec_", b"\xfb\xef" * 16).replace("+", "-"), id="URL-safe"),
            pytest.param(f"whsec_{'ab' * 32}!", id="no Base64"),
            pytest.param("whsec_" + "\u0430" * 40, id="not ASCII"),
            pytest.param(f"whsec_{'A' * 40}\ud800", id="surrogate"),
            pytest.param(PRIVATE, id="private key"),
            pytest.param(PUBLIC, id="public key"),
        ],
    )
    def test_other_shared_ones_are_refused(self, secret: str) -> None:
        problem = "must be 'whsec_' and the Base64 of 24 to 64 bytes"
        with pytest.raises(ValueError, match=f"^{problem}$") as caught:
            signing.find("standard").key(secret)
        assert caught.value.__cause__ is None
        if secret:
            with pytest.raises(ConfigError) as refused:
                Endpoint(url="https://a.example/", secret=[secret, SHARED], scheme="standard")
            (told,) = refused.value.problems
            assert told in (f"secret: {problem}", "secret: is not valid Unicode")

    @pytest.mark.parametrize(
        "secret",
        [
            pytest.param("whsk_", id="nothing"),
            pytest.param("", id="empty"),
            pytest.param(PRIVATE.removeprefix("whsk_"), id="no prefix"),
            pytest.param(text("whsk_", b"k" * 32), id="seed alone"),
            pytest.param(text("whsk_", b"k" * 63), id="63 bytes"),
            pytest.param(text("whsk_", b"k" * 65), id="65 bytes"),
            pytest.param(PRIVATE.rstrip("="), id="no padding"),
            pytest.param(f"{PRIVATE}\n", id="line end"),
            pytest.param(f"whsk_{'!' * 88}", id="no Base64"),
            pytest.param(PUBLIC, id="public key"),
            pytest.param(SHARED, id="shared secret"),
            pytest.param("a text", id="text"),
        ],
    )
    def test_other_private_ones_are_refused(self, secret: str) -> None:
        with pytest.raises(ValueError, match=r"^must be 'whsk_' and the Base64 of seed and public"):
            signing.find("standard-ed25519").key(secret)

    def test_a_seed_with_another_public_key_is_refused(self) -> None:
        seed, public = base64.b64decode(PRIVATE[5:])[:32], base64.b64decode(pair(NEW)[1][5:])
        secret = text("whsk_", seed + public)
        scheme = signing.find("standard-ed25519")
        for make in (scheme.key, scheme.verification_key):
            with pytest.raises(ValueError, match=r"^holds a public key that is not the one of its"):
                make(secret)

    @pytest.mark.parametrize(
        "secret",
        [
            *("", "whpk_", "a text", SHARED, PUBLIC.rstrip("="), f"{PUBLIC}\n", PUBLIC[5:]),
            pytest.param(text("whpk_", b"k" * 31), id="31 bytes"),
            pytest.param(text("whpk_", b"k" * 33), id="33 bytes"),
        ],
    )
    def test_other_public_ones_are_refused(self, secret: str) -> None:
        with pytest.raises(ValueError, match=r"^must be 'whpk_' and the Base64 of a public key"):
            signing.find("standard-ed25519").verification_key(secret)


@pytest.mark.usefixtures("clock")
class TestAccepted:
    @pytest.mark.parametrize(
        ("name", "secret"),
        [
            ("standard", SHARED),
            ("standard", SHARED.encode()),
            ("standard-ed25519", PUBLIC),
            ("standard-ed25519", PRIVATE),
        ],
    )
    def test_known_answer(self, name: str, secret: Any) -> None:
        headers = {"Webhook-Id": ID, "Webhook-Timestamp": NOW, "Webhook-Signature": ANSWERS[name]}
        assert verify(BODY, headers, secret) == PAYLOAD
        assert verify(BODY, headers, secret, scheme=name) == PAYLOAD

    @each_scheme
    def test_both_sides_rotate(self, name: str) -> None:
        mine, yours = SIGNING[name], CHECKING[name]
        headers = signed(name, mine[NEW], mine[OLD])
        for seeds in ((NEW,), (OLD,), (OTHER, OLD), (NEW, OTHER), (NEW, OLD)):
            assert verify(BODY, headers, [yours[seed] for seed in seeds]) == PAYLOAD
        assert refusal(headers, yours[OTHER]) == "signature does not match"
        for seed in (NEW, OLD):
            headers = signed(name, mine[seed])
            assert verify(BODY, headers, [yours[NEW], yours[OLD]]) == PAYLOAD

    @each_scheme
    def test_beside_other_signatures(self, name: str) -> None:
        other = ANSWERS[SCHEMES[1 - SCHEMES.index(name)]]
        zero = text(ANSWERS[name].partition(",")[0] + ",", bytes(32 if name == "standard" else 64))
        for listed in (
            f"{other} {ANSWERS[name]}",
            f"{ANSWERS[name]} {other}",
            f"{zero} {ANSWERS[name]}",
            f"v2,abc v1 , v1a v1, v1a, {ANSWERS[name]}  ",
            f"{ANSWERS[name]} {ANSWERS[name]}",
        ):
            assert verify(BODY, signed(name) | {SIGNATURE: listed}, SECRETS[name]) == PAYLOAD

    @each_scheme
    def test_signatures_in_repeated_headers(self, name: str) -> None:
        headers = signed(name, SIGNING[name][OLD])
        for pairs in (
            [*headers.items(), (SIGNATURE, ANSWERS[name])],
            [(SIGNATURE.title(), ANSWERS[name]), *headers.items()],
        ):
            assert verify(BODY, pairs, SECRETS[name]) == PAYLOAD

    def test_the_id_is_any_text_without_a_dot(self) -> None:
        for message_id in ("a", "550e8400-e29b-41d4-a716-446655440000", "!~", "x" * 255):
            assert verify(BODY, forged(message_id), SHARED) == PAYLOAD


@pytest.mark.usefixtures("clock")
class TestRefused:
    @each_scheme
    @pytest.mark.parametrize("position", range(len(BODY)))
    def test_body_with_one_bit_changed(self, name: str, position: int) -> None:
        body = bytearray(BODY)
        body[position] ^= 1
        assert refusal(signed(name), SECRETS[name], bytes(body)) == "signature does not match"

    @each_scheme
    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("webhook-id", ID.lower()),
            ("webhook-id", ID[:-1]),
            ("webhook-timestamp", str(NOW + 1)),
            ("webhook-timestamp", f"0{NOW}"),
        ],
    )
    def test_a_header_that_was_changed(self, name: str, header: str, value: str) -> None:
        assert refusal(signed(name) | {header: value}, SECRETS[name]) == "signature does not match"

    @each_scheme
    def test_every_character_of_the_signature_counts(self, name: str) -> None:
        # The last letter before the padding has bits that most decoders ignore.
        genuine = ANSWERS[name]
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=, \n\xff"
        for position, right in enumerate(genuine):
            for letter in letters:
                if letter != right:
                    listed = genuine[:position] + letter + genuine[position + 1 :]
                    assert refusal(signed(name) | {SIGNATURE: listed}, SECRETS[name])

    @each_scheme
    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda right: "", id="empty"),
            pytest.param(lambda right: right.partition(",")[2], id="no version"),
            pytest.param(lambda right: right.replace(",", "="), id="another sign"),
            pytest.param(lambda right: right.rstrip("="), id="no padding"),
            pytest.param(lambda right: right + "=", id="more padding"),
            pytest.param(lambda right: right[:-4], id="too short"),
            pytest.param(lambda right: right + "AAAA", id="too long"),
            pytest.param(lambda right: right + "\n", id="line end"),
            pytest.param(lambda right: right.upper(), id="upper case"),
            pytest.param(lambda right: "v2," + right.partition(",")[2], id="another kind"),
            pytest.param(
                lambda right: ("v1," if "a," in right[:4] else "v1a,") + right.partition(",")[2],
                id="the other kind",
            ),
            pytest.param(lambda right: f"{right},{right}", id="commas between"),
            pytest.param(lambda right: None, id="none"),
            pytest.param(lambda right: [right], id="list"),
        ],
    )
    def test_malformed_signature(self, name: str, change: Any) -> None:
        headers: dict[str, Any] = {**signed(name), SIGNATURE: change(ANSWERS[name])}
        assert refusal(headers, SECRETS[name]) == "signature does not match"

    def test_no_more_signatures_are_tried_than_a_sender_makes(self) -> None:
        zero = text("v1a,", bytes(64))
        for count, accepted in ((15, True), (16, False)):
            headers = signed("standard-ed25519")
            headers[SIGNATURE] = " ".join([zero] * count + [headers[SIGNATURE]])
            if accepted:
                assert verify(BODY, headers, PUBLIC) == PAYLOAD
            else:
                assert refusal(headers, PUBLIC) == "signature does not match"

    @each_scheme
    @pytest.mark.parametrize("header", ["webhook-id", "webhook-timestamp"])
    def test_a_missing_or_repeated_header(self, name: str, header: str) -> None:
        headers = signed(name)
        again = [*headers.items(), (header, headers[header])]
        assert refusal(again, SECRETS[name]).startswith("malformed ")
        del headers[header]
        assert refusal(headers, SECRETS[name]) == f"no {header} header"

    @each_scheme
    def test_no_signature(self, name: str) -> None:
        headers = signed(name)
        del headers[SIGNATURE]
        assert refusal(headers, SECRETS[name]) == "no signature header"
        assert refusal(headers, SECRETS[name], scheme=name) == "no webhook-signature header"

    @pytest.mark.parametrize("message_id", ["a.b", ".", f"{ID}.", "", "a b", "a\n", "x" * 256])
    def test_malformed_id(self, message_id: str) -> None:
        assert refusal(forged(message_id), SHARED) == "malformed delivery id"

    @pytest.mark.parametrize("timestamp", ["", f"{NOW}.0", f" {NOW}", f"+{NOW}", "nan", "9" * 13])
    def test_malformed_timestamp(self, timestamp: str) -> None:
        headers = forged(timestamp=timestamp)
        assert refusal(headers, SHARED, tolerance=math.inf) == "malformed timestamp"

    @each_scheme
    @pytest.mark.parametrize(("off", "fresh"), [(-301, 0), (-300, 1), (300, 1), (301, 0)])
    def test_300_seconds_either_way(self, name: str, off: int, fresh: bool) -> None:
        headers = signed(name, timestamp=NOW + off)
        if fresh:
            assert verify(BODY, headers, SECRETS[name]) == PAYLOAD
        else:
            assert refusal(headers, SECRETS[name]) == "timestamp is too old or in the future"

    @pytest.mark.parametrize("secret", ["a text", PUBLIC[:-1], shared(b"k", 8), [SHARED[6:]]])
    def test_no_usable_secret(self, secret: Any) -> None:
        for name in SCHEMES:
            for scheme in (name, None):
                assert refusal(signed(name), secret, scheme=scheme).startswith(
                    "no usable secret (must be 'wh"
                )

    def test_a_secret_of_the_other_scheme(self) -> None:
        assert refusal(signed("standard-ed25519"), SHARED) == "signature does not match"
        assert refusal(signed("standard"), PUBLIC) == "signature does not match"
        assert refusal(signed("standard"), PUBLIC, scheme="standard") == (
            "no usable secret (must be 'whsec_' and the Base64 of 24 to 64 bytes)"
        )

    def test_a_secret_is_used_beside_one_of_no_use(self) -> None:
        assert verify(BODY, signed("standard"), ["a text", PUBLIC, SHARED]) == PAYLOAD
        assert refusal(signed("standard"), ["", SHARED]) == "no usable secret"


class TestTheOtherImplementation:
    """What the PyPI package ``standardwebhooks`` says."""

    def test_accepts_what_is_signed(self) -> None:
        receiver, now = standardwebhooks.Webhook(SHARED), int(time.time())
        for headers in (
            signed("standard", timestamp=now),
            signed("standard", SIGNING["standard"][NEW], SHARED, timestamp=now),
        ):
            assert receiver.verify(BODY, headers) == PAYLOAD

    @pytest.mark.parametrize(
        ("header", "value"),
        [
            ("webhook-id", "msg_other"),
            ("webhook-timestamp", None),
            ("webhook-signature", text("v1,", bytes(32))),
        ],
    )
    def test_refuses_what_was_changed(self, header: str, value: str | None) -> None:
        receiver, now = standardwebhooks.Webhook(SHARED), _now()
        headers = signed("standard", timestamp=now)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verify(BODY, headers | {header: value or str(now - 1)})
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verify(BODY + b" ", headers)

    @RELAXED
    @given(st.binary(min_size=24, max_size=64), st.dictionaries(st.text(), st.integers()))
    def test_agrees_with_it_both_ways(self, key: bytes, payload: dict[str, int]) -> None:
        secret, now = text("whsec_", key), _now()
        body = json.dumps(payload).encode()
        receiver = standardwebhooks.Webhook(secret)
        assert (
            receiver.verify(body, signed("standard", secret, body=body, timestamp=now)) == payload
        )
        moment = standardwebhooks.webhooks.datetime.fromtimestamp(
            now, tz=standardwebhooks.webhooks.timezone.utc
        )
        headers = {
            "webhook-id": ID,
            "webhook-timestamp": str(now),
            SIGNATURE: receiver.sign(ID, moment, body.decode()),
        }
        assert verify(body, headers, secret) == payload


def _now() -> int:
    return int(time.time())


class TestTheExtra:
    @pytest.fixture
    def missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)

    @pytest.mark.usefixtures("missing")
    def test_is_named_where_it_is_missing(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Endpoint(url="https://a.example/", secret=PRIVATE, scheme="standard-ed25519")
        assert caught.value.problems == ("secret: needs: pip install 'cubehook[ed25519]'",)
        headers = {
            "webhook-id": ID,
            "webhook-timestamp": str(_now()),
            SIGNATURE: KNOWN_ED25519,
        }
        for secret in (PUBLIC, PRIVATE):
            assert refusal(headers, secret, scheme="standard-ed25519") == (
                "no usable secret (needs: pip install 'cubehook[ed25519]')"
            )
            assert "needs: pip install 'cubehook[ed25519]'" in refusal(headers, secret)

    @pytest.mark.usefixtures("missing", "clock")
    def test_is_not_needed_for_the_other_kind(self) -> None:
        headers = signed("standard") | {SIGNATURE: f"{KNOWN_ED25519} {KNOWN}"}
        assert verify(BODY, headers, [SHARED, PUBLIC]) == PAYLOAD

    def test_is_imported_with_the_first_key(self) -> None:
        code = f"""if True:
            import sys
            from cubehook import Endpoint
            Endpoint(url="https://a.example/", secret={SHARED!r}, scheme="standard")
            Endpoint(url="https://a.example/", scheme="standard-ed25519")
            assert "cryptography" not in sys.modules
            Endpoint(url="https://a.example/", secret={PRIVATE!r}, scheme="standard-ed25519")
            assert "cryptography" in sys.modules
        """
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


class TestAnything:
    ids = st.from_regex(r"\A[A-Za-z0-9_:~-]{1,128}\Z")

    @settings(RELAXED, max_examples=50)
    @each_scheme
    @given(
        payload=st.dictionaries(st.text(), st.integers() | st.text(), max_size=3),
        seeds=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3),
        message_id=ids,
        timestamp=st.integers(0, 2**35),
    )
    def test_what_is_signed_verifies(
        self,
        name: str,
        payload: dict[str, Any],
        seeds: list[bytes],
        message_id: str,
        timestamp: int,
    ) -> None:
        body = json.dumps(payload).encode()
        secrets = [_secret(name, seed) for seed in seeds]
        headers = signed(name, *secrets, body=body, message_id=message_id, timestamp=timestamp)
        for secret in secrets:
            assert verify(body, headers, secret, tolerance=math.inf) == payload

    @settings(RELAXED, max_examples=100)
    @each_scheme
    @given(data=st.data())
    def test_any_byte_changed_is_noticed(self, name: str, data: st.DataObject) -> None:
        request = {**signed(name), "body": BODY.decode()}
        part = data.draw(st.sampled_from(sorted(request)))
        position = data.draw(st.integers(0, len(request[part]) - 1))
        letter = data.draw(st.characters(max_codepoint=255))
        changed = request[part][:position] + letter + request[part][position + 1 :]
        if changed != request[part]:
            body = (request | {part: changed}).pop("body").encode("latin-1")
            headers = {key: value for key, value in request.items() if key != "body"}
            if part != "body":
                headers[part] = changed
            assert refusal(headers, SECRETS[name], body, tolerance=math.inf)


def _secret(name: str, seed: bytes) -> str:
    if name == "standard":
        return text("whsec_", seed)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return text("whsk_", seed + public)
