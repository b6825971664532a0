"""The redactor under any value: no planted secret comes out, and what is none stays."""

from __future__ import annotations

import json
from collections import UserString, namedtuple
from dataclasses import dataclass, make_dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

from anything import RELAXED, SECRET, anything, containers, keys, texts, wire
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr, create_model
from test_redaction import GOES, SHAPES, SPELLED, SPELLINGS, STAYS, words

from cubehook.redaction import MAX_DEPTH, Redactor

REDACTOR = Redactor()


# --- Planted by name ------------------------------------------------------------------------

# Of all the names, those that can be an attribute's.
ATTRIBUTES = [name for name in GOES if name.isidentifier()]


class Holder(BaseModel):
    """A model whose field hides its value itself."""

    plain: SecretStr = SecretStr(SECRET)
    raw: SecretBytes = SecretBytes(SECRET.encode())


@dataclass(frozen=True)
class Key:
    """A key that shows its fields in its text."""

    password: str = SECRET


def with_attribute(name: str, value: Any) -> list[Any]:
    """Objects of every kind with named parts, one of them sensitive."""
    model = create_model("Made", **{name: (Any, value)})  # type: ignore[call-overload]
    return [
        SimpleNamespace(**{name: value}),
        namedtuple("Made", [name, "x"])(value, 1),
        make_dataclass("Made", [(name, object)])(value),
        model(),
        ValueError({name: value}),
        {Enum("Made", {name: "x"})[name]: value},
    ]


def with_key(name: str, value: Any) -> list[Any]:
    """Mappings with the name for a key, in every form a key may have."""
    return [
        {name: value},
        {name.encode(): value},
        {name.encode("utf-16"): value},
        {UserString(name): value},
        {Enum("Made", {"MEMBER": name}).MEMBER: value},  # type: ignore[attr-defined]
        {("db", name): value},
        {type("Text", (str,), {})(name): value},
        SimpleNamespace(x={name: value}.items()),
    ]


values = st.sampled_from(
    [
        *(SECRET, SECRET.encode(), [SECRET], {SECRET}, {"x": {"y": (SECRET,)}}, {SECRET: 1}),
        *(ValueError(SECRET), UserString(SECRET), SimpleNamespace(x=SECRET), {Key(SECRET): 1}),
    ]
)
planted_by_name = (
    st.builds(with_attribute, st.sampled_from(ATTRIBUTES), values).flatmap(st.sampled_from)
    | st.builds(
        lambda spelled, value: with_key(SPELLINGS[spelled[1]](spelled[0]), value),
        st.sampled_from(SPELLED),
        values,
    ).flatmap(st.sampled_from)
    | st.builds(
        lambda make: make(),
        st.sampled_from([Holder, lambda: {Key(): 1}, lambda: {(1, Key()): 1}, lambda: {Key()}]),
    )
)


@given(st.recursive(planted_by_name, containers, max_leaves=8))
@settings(RELAXED, max_examples=150)
def test_a_secret_under_a_sensitive_name_never_shows(tree: Any) -> None:
    assert SECRET not in wire(REDACTOR.value(tree))
    assert SECRET not in wire(REDACTOR.fields({"a": tree}))


@given(st.recursive(st.just(SECRET), containers), st.text(max_size=12), st.booleans())
@settings(RELAXED, max_examples=60)
def test_a_name_of_the_configuration_goes_in_every_spelling(
    tree: Any, name: str, upper: bool
) -> None:
    redactor = Redactor(redact=[f"customer {name}"])
    spelled = f"Customer-{name}"
    if upper and name.isascii() and name == name.lower():  # else two words become one
        spelled = spelled.upper()
    shown = redactor.fields({spelled: tree})
    assert SECRET not in wire(shown)


# --- Planted by shape -----------------------------------------------------------------------

# What may stand around a secret and is no part of it.
glue = st.text(st.sampled_from(" \n\t,;()<>{}&|é日\u2028\x00"), max_size=3) | st.text(
    st.characters(
        categories=["Po", "Zs", "Sm", "Lo", "So"], exclude_characters="-_/+%\\@:#.*!~?$^"
    ),
    max_size=3,
)
planted_by_shape = st.builds(
    lambda shape, before, after, form: form(f"{before}{shape[0]}{after}"),
    st.sampled_from(SHAPES),
    glue,
    glue,
    st.sampled_from(
        [
            str,
            str.encode,
            lambda text: text.encode("utf-16"),
            lambda text: b"\xff" + text.encode(),
            lambda text: {text: 1},
            lambda text: {text.encode(): 1},
            lambda text: {text.encode("utf-16-le"): 1},
            lambda text: {(1, text): 1},
            lambda text: {Key(text): 1},
            lambda text: frozenset({text}),
            lambda text: SimpleNamespace(**{text: text}),
            UserString,
            ValueError,
            lambda text: KeyError([text]),
            lambda text: Enum("Made", {"x": text}).x,  # type: ignore[attr-defined]
        ]
    ),
)
SHAPED_SECRETS = tuple({secret for _, secret in SHAPES})


@given(st.recursive(planted_by_shape, containers, max_leaves=5))
@settings(RELAXED, max_examples=150)
def test_a_secret_with_a_shape_never_shows(tree: Any) -> None:
    shown = wire(REDACTOR.value(tree))
    assert [secret for secret in SHAPED_SECRETS if secret in shown] == []


# --- What stays -----------------------------------------------------------------------------

stays = st.builds(
    lambda name, spelling: SPELLINGS[spelling](name),
    st.sampled_from(STAYS),
    st.sampled_from(sorted(SPELLINGS)),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc äö", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(stays, inner, max_size=4),
    max_leaves=12,
)


@given(plain, stays, st.integers(0, MAX_DEPTH - 1))
@settings(RELAXED, max_examples=100)
def test_what_is_harmless_stays_as_it_is(tree: Any, name: str, depth: int) -> None:
    assert REDACTOR.value(tree) == tree
    nested: Any = {name: "x"}
    for level in range(depth):
        nested = {name: nested} if level % 2 else [nested]
    assert REDACTOR.value(nested) == nested


@given(st.sampled_from(SPELLED), st.dictionaries(keys, plain, max_size=3))
@settings(RELAXED, max_examples=60)
def test_what_is_to_be_kept_is_kept(spelled: tuple[str, str], others: dict[Any, Any]) -> None:
    name, spelling = spelled
    redactor = Redactor(keep=[SPELLINGS[spelling](name)])
    assert redactor.fields(others | {name: "kept"})[name] == "kept"


# --- Any value, any text --------------------------------------------------------------------

fragments = st.lists(
    st.sampled_from(
        [
            *(text for text, _ in SHAPES),
            *words("Bearer bearer: basic Basic= bearer= eyJ eyJhbGciOi . .. ---- :// http:// @ /"),
            *words(": AKIA ghp_ glpat- xoxb- sk- sk_live_ whsec_ e2b_ 0 a1b2c3d4e5 plan %20 \\n"),
            *words("[redacted] = é \ud800 hooks.slack.com/services/ authorization: ://u:a/ ' \""),
            *("-----BEGIN ", "-----", "-----END X-----", " ", "\n", "a" * 99),
        ]
    ),
    max_size=9,
).map("".join)
leaves = anything | fragments


@given(st.recursive(leaves, containers, max_leaves=4))
@settings(RELAXED, max_examples=150)
def test_anything_becomes_json_and_a_second_time_changes_nothing(tree: Any) -> None:
    once = REDACTOR.value(tree)
    assert json.loads(wire(once)) == once
    assert REDACTOR.value(once) == once


@given(st.dictionaries(keys, leaves, max_size=4))
@settings(RELAXED, max_examples=100)
def test_any_fields_become_json(fields: dict[Any, Any]) -> None:
    once = REDACTOR.fields(fields)
    assert json.loads(wire(once)) == once
    assert REDACTOR.fields(once) == once


@given(texts | fragments)
@example("bearer=" * 9 + "eyJa.eyJa.")
@example("-----BEGIN " * 6 + "A" + "-----\n-----END B-----" * 6)
@settings(RELAXED, max_examples=300)
def test_text_a_second_time_changes_nothing(text: str) -> None:
    once = REDACTOR.text(text)
    once.encode()
    assert REDACTOR.text(once) == once


@given(st.recursive(leaves, containers, max_leaves=6))
@settings(RELAXED, max_examples=60)
def test_what_is_given_is_left_as_it_was(tree: Any) -> None:
    before = shown(tree)
    REDACTOR.value(tree)
    assert shown(tree) == before


def shown(tree: Any) -> str:
    try:
        return repr(tree)
    except Exception:  # one of those that raise
        return ""
