"""Several schemes and secrets: who signs with what, all on one request, and which one verifies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import responses
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cubehook import ConfigError, Endpoint, VerificationError, signing, verify
from cubehook.attempt import Sender
from cubehook.message import Message
from cubehook.outcome import Reply
from cubehook.signing import _registry

if TYPE_CHECKING:
    from conftest import Receiver

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

URL = "https://a.example/hook"
ID = "550e8400-e29b-41d4-a716-446655440000"
PAYLOAD = {"id": ID, "event": "sandbox.created"}
BODY = json.dumps(PAYLOAD).encode()
MESSAGE = Message(ID, "sandbox.created", None, "application/json", BODY)

TEXT, NEW_TEXT = "test-secret", "new-secret"
SHARED = "whsec_" + base64.b64encode(b"s" * 32).decode()
NEW_SHARED = "whsec_" + base64.b64encode(b"n" * 32).decode()


def pair(seed: bytes) -> tuple[str, str]:
    private = Ed25519PrivateKey.from_private_bytes(seed * 32)
    public = private.public_key().public_bytes_raw()
    return (
        "whsk_" + base64.b64encode(seed * 32 + public).decode(),
        "whpk_" + base64.b64encode(public).decode(),
    )


PRIVATE, PUBLIC = pair(b"s")
NEW_PRIVATE, NEW_PUBLIC = pair(b"n")

CUBE_HEADER = "X-Cube-Webhook-Signature"
GITHUB_HEADER = "X-Hub-Signature-256"
STANDARD_HEADER = "webhook-signature"


def problems(scheme: Any, *secrets: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Endpoint(url=URL, scheme=scheme, secret=secrets)
    for secret in secrets:
        assert secret not in str(caught.value)
    return caught.value.problems


def request(scheme: Any, *secrets: str) -> dict[str, str]:
    """The headers that a real sender puts on a request."""
    return sent(scheme, *secrets)[0]


def sent(scheme: Any, *secrets: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body that a real sender sends."""
    secret = {"secret": secrets} if secrets else {}
    endpoint = Endpoint(url=URL, scheme=scheme, timeout=5.0, connect_timeout=5.0, **secret)
    with responses.RequestsMock() as mock:
        mock.post(URL, status=204)
        sender = Sender(endpoint)
        assert isinstance(sender(MESSAGE), Reply)
        sender.close()
        made = mock.calls[0].request
        return dict(made.headers), made.body


def refusal(headers: Any, secret: Any, **options: Any) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(BODY, headers, secret, **options)
    return str(caught.value)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(_registry, "_SCHEMES", dict(_registry._SCHEMES))


class TestWhichSecretsDo:
    @pytest.mark.parametrize(
        ("scheme", "secrets"),
        [
            ("cube", [TEXT]),
            ("cube", [SHARED]),
            ("cube", [TEXT, SHARED]),
            ("github", [TEXT]),
            ("standard", [SHARED]),
            ("standard", [NEW_SHARED, SHARED]),
            ("standard-ed25519", [PRIVATE]),
            ("standard-ed25519", [NEW_PRIVATE, PRIVATE]),
            (["cube", "github"], [TEXT]),
            (["cube", "standard"], [SHARED]),
            (["cube", "standard"], [TEXT, SHARED]),
            (["cube", "standard-ed25519"], [TEXT, PRIVATE]),
            (["standard", "standard-ed25519"], [SHARED, PRIVATE]),
            (["standard", "standard-ed25519"], [PRIVATE, NEW_SHARED, SHARED, NEW_PRIVATE]),
            (list(signing.known()), [SHARED, PRIVATE]),
            *((name, []) for name in signing.known()),
            (list(signing.known()), []),
        ],
    )
    def test_each_at_least_one_of_the_other(self, scheme: Any, secrets: Sequence[str]) -> None:
        secret = {"secret": secrets} if secrets else {}
        endpoint = Endpoint(url=URL, scheme=scheme, **secret)
        assert [one.value for one in endpoint.secrets] == list(secrets)

    def test_the_error_of_a_single_scheme_is_its_own(self) -> None:
        expected = "secret: must be 'whsec_' and the Base64 of 24 to 64 bytes"
        assert problems("standard", TEXT) == (expected,)
        assert problems("standard", SHARED, TEXT, NEW_TEXT) == (expected,)
        shared = "secret: is an Ed25519 key, and must not be used as a shared secret"
        assert problems("cube", PRIVATE) == problems("github", PRIVATE) == (shared,)

    def test_a_secret_of_no_scheme(self) -> None:
        (problem,) = problems(["standard", "standard-ed25519"], SHARED, TEXT, PRIVATE)
        assert problem == (
            "secret: fits none of the schemes "
            "(standard: must be 'whsec_' and the Base64 of 24 to 64 bytes; "
            "standard-ed25519: must be 'whsk_' and the Base64 of seed and public key (64 bytes))"
        )

    def test_a_scheme_without_a_secret(self) -> None:
        schemes = ["cube", "standard", "standard-ed25519"]
        assert problems(["cube", "standard"], TEXT) == ("secret: has none for scheme 'standard'",)
        assert problems(schemes, TEXT) == (
            "secret: has none for scheme 'standard'",
            "secret: has none for scheme 'standard-ed25519'",
        )
        assert problems(schemes, PRIVATE) == (
            "secret: has none for scheme 'cube'",
            "secret: has none for scheme 'standard'",
        )

    def test_a_key_is_made_inside_a_step(
        self, monkeypatch: pytest.MonkeyPatch, registry: None
    ) -> None:
        free: list[bool] = []

        class Watching(Acme):
            def key(self, secret: str) -> bytes:
                def look() -> None:
                    free.append(signing._keys.forks.kept_out.acquire(blocking=False))

                other = threading.Thread(target=look)
                other.start()
                other.join()
                return super().key(secret)

        signing.register(Watching())
        signing.signing_keys(["acme"], [TEXT])
        assert free == [False]


class TestOneRequest:
    def test_with_all_schemes(self) -> None:
        """The others sign the body that a scheme has put its signature into."""
        headers, body = sent(list(signing.known()), SHARED, PRIVATE)
        payload = json.loads(body)
        assert payload.items() > PAYLOAD.items()
        for secret, options in (
            (SHARED, {"scheme": "cube"}),
            (SHARED, {"scheme": "standard"}),
            (PUBLIC, {"scheme": "standard-ed25519"}),
            (SHARED, {"scheme": "github"}),
            (SHARED, {"scheme": "e2b"}),
            (SHARED, {}),
            (PUBLIC, {}),
        ):
            assert verify(body, headers, secret, **options) == payload
            assert refusal(headers, secret, **options) == "signature does not match"
        assert standardwebhooks.Webhook(SHARED).verify(body, _lower(headers)) == payload

    def test_has_one_id_and_one_time(self) -> None:
        headers = _lower(request(list(signing.known()), SHARED, PRIVATE))
        assert {
            headers[name] for name in ("webhook-id", "x-cube-webhook-delivery", "x-github-delivery")
        } == {ID}
        assert headers["webhook-timestamp"] == headers["x-cube-webhook-timestamp"]
        assert headers["webhook-timestamp"].isdigit()
        assert headers["x-github-event"] == headers["x-cube-webhook-event"] == "sandbox.created"

    @pytest.mark.parametrize(
        ("scheme", "kinds"),
        [
            (["standard", "standard-ed25519"], ["v1", "v1", "v1a", "v1a"]),
            (["standard-ed25519", "cube", "standard"], ["v1a", "v1a", "v1", "v1"]),
            (["standard", "standard-ed25519", "standard"], ["v1", "v1", "v1a", "v1a"]),
        ],
    )
    def test_lists_both_kinds_of_standard(self, scheme: list[str], kinds: list[str]) -> None:
        headers = request(scheme, NEW_PRIVATE, NEW_SHARED, PRIVATE, SHARED)
        listed = headers[STANDARD_HEADER].split(" ")
        assert [one.partition(",")[0] for one in listed] == kinds
        for secret in (SHARED, NEW_SHARED, PUBLIC, NEW_PUBLIC):
            assert verify(BODY, headers, secret) == PAYLOAD
        assert refusal(headers, pair(b"x")[1]) == "signature does not match"

    def test_is_signed_by_each_scheme_with_what_it_can_use(self) -> None:
        headers = request(["cube", "standard", "standard-ed25519"], TEXT, SHARED, PRIVATE)
        # A text of any form is a secret of cube's; a private key is not.
        assert headers[CUBE_HEADER].count("v1=") == 2
        assert headers[STANDARD_HEADER].count("v1,") == headers[STANDARD_HEADER].count("v1a,") == 1
        for secret in (TEXT, SHARED):
            assert verify(BODY, headers, secret, scheme="cube") == PAYLOAD

    def test_is_unsigned_without_secrets(self) -> None:
        headers = _lower(request(list(signing.known())))
        assert not [name for name in headers if "signature" in name]
        assert headers["webhook-id"] == headers["x-cube-webhook-delivery"] == ID

    def test_over_the_wire(self, receiver: Receiver, handler: Any, logger: Any) -> None:
        secrets = [receiver.secret, SHARED, PRIVATE]
        handler([receiver.endpoint(scheme=list(signing.known()), secret=secrets)])
        logger.info("x", extra={"event": "sandbox.created", "sandbox_id": "sb-1"})
        (received,) = receiver.wait_for(1)
        for secret in (receiver.secret, SHARED, PUBLIC):
            assert verify(received.body, received.headers, secret) == received.json
        assert standardwebhooks.Webhook(SHARED).verify(received.body, dict(received.headers))
        mac = hmac.new(receiver.secret.encode(), received.body, hashlib.sha256).hexdigest()
        assert received.headers["x-hub-signature-256"] == f"sha256={mac}"


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class TestWhichSchemeVerifies:
    def test_any_that_is_there_and_has_a_secret(self) -> None:
        # cube is there too, with a secret that this receiver does not have.
        headers = request(["cube", "standard", "standard-ed25519"], TEXT, SHARED, PRIVATE)
        del headers["X-Cube-Webhook-Event"]
        headers[CUBE_HEADER] = headers[CUBE_HEADER].partition(",")[0]
        for secret in (TEXT, SHARED, PUBLIC, [NEW_SHARED, PUBLIC], [NEW_TEXT, SHARED]):
            assert verify(BODY, headers, secret) == PAYLOAD
        assert refusal(headers, [NEW_TEXT, NEW_SHARED, NEW_PUBLIC]) == "signature does not match"

    @pytest.mark.parametrize("broken", ["X-Cube-Webhook-Delivery", "X-Cube-Webhook-Timestamp"])
    def test_another_that_is_malformed_is_no_hindrance(self, broken: str) -> None:
        headers = request(["cube", "standard"], SHARED) | {broken: "a.b"}
        assert verify(BODY, headers, SHARED) == PAYLOAD
        assert refusal(headers, SHARED, scheme="cube").startswith("malformed ")

    def test_a_signature_of_another_scheme_is_none(self) -> None:
        # The same secret, but the signature of one scheme in the header of another.
        cube, github = request("cube", TEXT), request("github", TEXT)
        digest = cube[CUBE_HEADER].removeprefix("v1=")
        assert refusal(github | {GITHUB_HEADER: f"sha256={digest}"}, TEXT, scheme="github")
        digest = github[GITHUB_HEADER].removeprefix("sha256=")
        assert refusal(cube | {CUBE_HEADER: f"v1={digest}"}, TEXT)

    @pytest.mark.parametrize("name", ["cube", "standard", "standard-ed25519"])
    def test_stripped_headers_do_not_make_it_undated(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        secrets = {"cube": TEXT, "standard": SHARED, "standard-ed25519": PRIVATE}
        headers = request([name, "github"], *dict.fromkeys([SHARED, secrets[name]]))
        recorded = time.time()
        monkeypatch.setattr(time, "time", lambda: recorded + 400)
        assert refusal(headers, [*secrets.values()])
        left = {GITHUB_HEADER: headers[GITHUB_HEADER]}
        assert refusal(left, [*secrets.values()]) == "no signature header"
        # Who wants that has to say so.
        assert verify(BODY, left, SHARED, scheme="github") == PAYLOAD


class Acme(signing.Scheme):
    """An application's own scheme, as its documentation has it."""

    name = "acme"
    dated = True
    signature_header = "x-acme"

    def key(self, secret: str) -> bytes:
        return secret.encode()

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[bytes]
    ) -> dict[str, str]:
        return {"X-Acme": _acme(keys[0], body)} if keys else {}

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[bytes],
        now: float,
        tolerance: float,
    ) -> None:
        if not any(hmac.compare_digest(headers["x-acme"], _acme(key, body)) for key in keys):
            raise VerificationError("not by Acme")


def _acme(key: bytes, body: bytes) -> str:
    return hmac.new(key, body, hashlib.sha512).hexdigest()


@pytest.mark.usefixtures("registry")
class TestRegister:
    def test_a_scheme_of_the_applications(self) -> None:
        assert "acme" not in signing.known()
        signing.register(Acme())
        assert signing.known()[-1] == "acme"
        headers = request(["cube", "acme"], TEXT)
        assert headers["X-Acme"] == _acme(TEXT.encode(), BODY)
        assert verify(BODY, headers, TEXT, scheme="acme") == PAYLOAD
        del headers[CUBE_HEADER]
        assert verify(BODY, headers, TEXT) == PAYLOAD
        assert refusal(headers, NEW_TEXT) == "not by Acme"

    def test_one_that_is_not_dated_has_to_be_named(self) -> None:
        scheme = Acme()
        scheme.dated = False
        signing.register(scheme)
        headers = request("acme", TEXT)
        assert refusal(headers, TEXT) == "no signature header"
        assert verify(BODY, headers, TEXT, scheme="acme") == PAYLOAD

    @pytest.mark.parametrize("name", [*signing.known(), "acme"])
    def test_a_name_is_given_once(self, name: str) -> None:
        signing.register(Acme())
        before = {one: signing.find(one) for one in signing.known()}
        other = Acme()
        other.name = name
        with pytest.raises(ValueError, match=f"^there is a scheme '{name}' already$"):
            signing.register(other)
        assert {one: signing.find(one) for one in signing.known()} == before

    def test_the_same_scheme_again_is_no_other(self) -> None:
        scheme = Acme()
        signing.register(scheme)
        signing.register(scheme)
        assert signing.find("acme") is scheme

    @pytest.mark.parametrize(
        "name", ["", "Acme", "ac me", "-acme", ".acme", "acme\n", "\u0430cme", "a,b", "a" * 65]
    )
    def test_a_name_is_a_word_in_lower_case(self, name: str) -> None:
        scheme = Acme()
        scheme.name = name
        with pytest.raises(ValueError, match="name must be lower-case letters, digits"):
            signing.register(scheme)

    @pytest.mark.parametrize("name", ["a", "0", "acme-2", "acme.v2", "acme_hmac", "a" * 64])
    def test_a_good_name(self, name: str) -> None:
        scheme = Acme()
        scheme.name = name
        signing.register(scheme)
        assert Endpoint(url=URL, scheme=name).schemes == (name,)

    @pytest.mark.parametrize("error", [RuntimeError, TypeError, KeyError])
    def test_what_its_check_raises_is_a_refusal(self, error: Callable[[str], Exception]) -> None:
        class Broken(Acme):
            def check(self, *_: object, **__: object) -> None:
                raise error(TEXT)

        headers = request("cube", TEXT) | {"X-Acme": "x"}
        signing.register(Broken())
        told = refusal(headers, TEXT, scheme="acme")
        assert told.startswith("malformed request (")
        assert TEXT not in told


class TestNothingElseIsRaised:
    genuine = request(list(signing.known()), SHARED, PRIVATE)
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
    names = st.sampled_from([*genuine, *_lower(genuine)]) | st.text()
    values = (
        st.sampled_from([*genuine.values(), "v1,", "v1a,", "v1, v1a,", "sha256=", "v1="]) | scalars
    )
    secrets = st.sampled_from([SHARED, PRIVATE, PUBLIC, "whsec_", "whsk_", "whpk_"]) | scalars

    @settings(RELAXED, max_examples=200)
    @given(
        body=st.sampled_from([BODY, BODY[:-1], BODY + b" "]) | st.binary(max_size=40) | scalars,
        given_headers=st.dictionaries(names, values, max_size=4),
        kept=st.booleans(),
        secret=secrets | st.lists(secrets, max_size=3),
        scheme=st.sampled_from([*signing.known(), None]) | scalars,
        tolerance=st.floats() | st.just(1e9),
    )
    def test_whatever_is_given(
        self,
        body: Any,
        given_headers: Any,
        kept: bool,
        secret: Any,
        scheme: Any,
        tolerance: float,
    ) -> None:
        headers = (self.genuine if kept else {}) | given_headers
        try:
            result = verify(body, headers, secret, scheme=scheme, tolerance=tolerance)
        except VerificationError:
            return
        # Then it is what was signed, by a key of the pair.
        assert result == PAYLOAD
        held = secret if isinstance(secret, list) else [secret]
        assert {SHARED, PRIVATE, PUBLIC} & set(filter(lambda one: isinstance(one, str), held))

    @settings(RELAXED, max_examples=100)
    @given(
        secret=st.sampled_from([SHARED, PRIVATE, PUBLIC]),
        scheme=st.sampled_from([*signing.known(), None]),
        position=st.integers(0, len(BODY) - 1),
        bit=st.integers(0, 7),
    )
    def test_any_bit_of_the_body_counts_for_every_scheme(
        self, secret: str, scheme: str | None, position: int, bit: int
    ) -> None:
        body = bytearray(BODY)
        body[position] ^= 1 << bit
        with pytest.raises(VerificationError):
            verify(bytes(body), self.genuine, secret, scheme=scheme, tolerance=1e9)
