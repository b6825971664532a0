"""Which secrets are known by their shape, wherever they stand in a text.

Every pattern here is linear in the text: it fails after a bounded look or consumes what it read.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

REDACTED = "[redacted]"

# A text is fixed once no pass changes it; replacing a secret can uncover another one around it
# (a URL whose password held a slash), but not over and over: a text that goes on is made so.
_MAX_PASSES = 4
_LONGEST_ALNUM = 16  # shorter texts of letters and digits alone match no shape


def redact_text(text: str) -> str:
    """The text with its secrets replaced, in Unicode that UTF-8 can carry."""
    if len(text) < _LONGEST_ALNUM and text.isalnum():
        return text
    if not text.isascii():
        text = _without_surrogates(text)
    for _ in range(_MAX_PASSES):
        if not _MARKS.search(text):
            return text
        before = text
        for apply in _PASSES:
            text = apply(text)
        if text == before:
            return text
    return REDACTED


def _without_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# --- PEM -----------------------------------------------------------------------------------

_PEM_BEGIN = re.compile(r"-?---- ?BEGIN [^\r\n-]{1,64}----")
_PEM_END = re.compile(r"---- ?END [^\r\n-]{0,64}-{4,5}")


def _pem(text: str) -> str:
    out: list[str] = []
    done = 0
    while begin := _PEM_BEGIN.search(text, done):
        out += (text[done : begin.start()], REDACTED)
        end = _PEM_END.search(text, begin.end())
        done = end.end() if end else len(text)
    return "".join(out) + text[done:]


# --- userinfo in a URL ---------------------------------------------------------------------

# The second branch is for passwords that were not percent-encoded (`postgres://u:a/b@host`);
# it looks no further than the next URL, and leaves `host:port/path@x` alone.
_USERINFO = r"""(?!\[redacted\]@)(?:
    [^\s/?#<>"]*@
  | [^\s/?#<>"@:\[\]]*:(?!\d{0,5}(?:[/?#]|$))(?:[^\s<>"@:]|:(?![\\/])){1,128}@ )"""
# `:\/\/` is how some JSON writers spell `://`.
_SLASHES = ("://", r":\/\/")
_URLS = tuple((s, re.compile(re.escape(s) + _USERINFO, re.VERBOSE)) for s in _SLASHES)


def _userinfo(text: str) -> str:
    if "@" in text:
        for slashes, pattern in _URLS:
            # A plain replacement has its backslashes doubled; no group, as that costs ten times.
            text = pattern.sub(slashes.replace("\\", r"\\") + REDACTED + "@", text)
    return text


# --- Bearer and Basic ----------------------------------------------------------------------

# The token is only looked at (no ``:``, ``=`` or ``%`` inside, so that no two schemes share
# one); what is taken for a credential then goes up to the next structural character.
_GAP = r"""(?:[\s:="'\\]+|%20|\+)"""
_SCHEME = re.compile(
    r"(?i:bearer|(?P<basic>basic))"
    + _GAP
    + r"""(?=(?P<token>[^\s"'<>,;&(){}\[\]\\|`=:%]+(?:=+(?![A-Za-z0-9]))?))"""
)
_REST = re.compile(r"""[^\s"'<>,;&(){}\[\]\\|`]*""")
# The look-ahead leaves one way to part gap and token: more would be tried one by one.
_ALONE = re.compile(r"\s*(?i:bearer|basic)" + _GAP + r"(?![\s:=])" + _REST.pattern + r"\s*")
_HEADER = re.compile(r"(?i:authorization)\W{0,6}\Z")
_HEADER_WINDOW = 24

_QUOTES = frozenset("\"'`")
_CLOSING = frozenset("\"'`\\")  # a quote inside a quoted text comes escaped

_WORD_BREAKS = re.compile(r"[-/]")
_PUNCTUATION = ".!?~*"
_LONGEST_WORD = 19
# `Bearer <word>`, all alone or in quotes, is a header's value unless the word is one of these.
_BEARER_NOUNS = {"auth", "authentication", "authorization", "of", "scheme", "token", "tokens"}
_RUN = re.compile(r"[A-Za-z0-9]{6,}")
_WORD_OR_NUMBER = re.compile(r"[A-Za-z]*[0-9]*\Z")


def _credentials(text: str) -> str:
    out: list[str] = []
    done = 0
    alone = _ALONE.fullmatch(text) is not None
    for match in _SCHEME.finditer(text):
        start, end = match.span("token")
        if start < done or not _is_credential(text, match, alone):
            continue
        out += (text[done:start], REDACTED)
        rest = _REST.match(text, end)
        done = rest.end() if rest else end
    return "".join(out) + text[done:]


def _is_credential(text: str, match: re.Match[str], alone: bool) -> bool:
    token = match["token"]
    if token.rstrip("=").lower() in ("bearer", "basic"):
        return False  # `Bearer Bearer x`: the second one's turn comes next
    start = match.start()
    if _HEADER.search(text, max(0, start - _HEADER_WINDOW), start):
        return True
    alone = alone or _is_quoted(text, start, match.end("token"))
    if match["basic"]:
        return _is_basic(token, alone)
    if alone:
        return token.lower() not in _BEARER_NOUNS
    return not _is_prose(token)


def _is_quoted(text: str, start: int, end: int) -> bool:
    return start > 0 and text[start - 1] in _QUOTES and text[end : end + 1] in _CLOSING


def _is_prose(token: str) -> bool:
    """A word or words, as in `bearer of news`: letters only, and no capital after the first."""
    parts = _WORD_BREAKS.split(token.strip(_PUNCTUATION))
    return all(
        len(part) <= _LONGEST_WORD
        and (not part or part.isalpha())
        and part[1:] in (part[1:].lower(), part[1:].upper())
        for part in parts
    )


def _is_basic(token: str, alone: bool) -> bool:
    """Real ones decode to `user:password`; the rest is for cut, padded and invented ones."""
    if token.endswith("="):
        return True
    for run in _RUN.findall(token):
        mixed = not (run.isalpha() or run.isdigit())
        if mixed and (alone or not _WORD_OR_NUMBER.match(run)):
            return True
    return (token.isalpha() and len(token) > _LONGEST_WORD) or _decodes_to_pair(token)


def _decodes_to_pair(token: str) -> bool:
    whole = token.rstrip(_PUNCTUATION).translate(_URL_SAFE)
    try:
        pair = base64.b64decode(whole[: len(whole) // 4 * 4], validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    return ":" in pair and pair.isprintable()


_URL_SAFE = str.maketrans("-_", "+/")


# --- JWT -----------------------------------------------------------------------------------

# The look-ahead stands at the start of a run and makes sure that it ends in a dot: then the
# first `eyJ` in the run matches, and no later one is ever tried in vain.
_JWT = re.compile(
    r"""(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.)
    ([A-Za-z0-9_-]*?)eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_.-]*""",
    re.VERBOSE,
)


def _jwt(text: str) -> str:
    return _JWT.sub(rf"\1{REDACTED}", text) if "eyJ" in text else text


# --- keys known by their prefix ------------------------------------------------------------

# Escapes (`%3D`, `\n`) end in a letter or digit and still are no part of a word.
_BEFORE = (r"(?<![A-Za-z0-9]{0})", r"(?<=%[0-9A-Fa-f]{{2}}{0})", r"(?<=\\[bfnrt]{0})")
_TAIL = r"[A-Za-z0-9_\-]*"  # take all of it: what is left over must not look like a new start


def _starts_word(prefix: str) -> str:
    # Behind the prefix rather than before it: the search then runs on the literal.
    return prefix + "(?:" + "|".join(before.format(prefix) for before in _BEFORE) + ")"


def _opaque(with_digit: int, plain: int, letters: str = "A-Za-z") -> str:
    return (
        rf"(?:(?=[{letters}]{{0,64}}[0-9])[{letters}0-9]{{{with_digit},}}"
        rf"|[{letters}0-9]{{{plain},}})"
    )


_OPENAI = (
    r"(?:(?:proj|svcacct|ant|or)-[A-Za-z0-9_\-]{16}"
    r"|(?=[A-Za-z_\-]{0,40}[0-9])[A-Za-z0-9_\-]{12}|[A-Za-z0-9]{20})"
)

# (what must be in the text for the pattern to be worth a try, the pattern)
_KEYS: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (marks, re.compile(pattern))
    for marks, pattern in (
        (("AKIA", "ASIA"), r"A(?:KIA|SIA)[A-Z0-9]{16}" + _TAIL),
        (("gh",), r"gh[pousr]_[A-Za-z0-9]{30}" + _TAIL),
        (("gh",), _starts_word(r"gh[pousr]_") + r"[A-Za-z0-9]{10}" + _TAIL),
        (("github_pat_",), r"github_pat_" + _opaque(16, 40, "A-Za-z_") + _TAIL),
        (
            ("gl",),
            r"gl(?:pat|ptt|rtr?|dt|cbt|oas|soat|ft|imt|agent|ffct)-[A-Za-z0-9_\-]{16}[A-Za-z0-9_.\-]*",
        ),
        (("GR1348941",), r"GR1348941[A-Za-z0-9_\-]{16}" + _TAIL),
        (("xox",), r"xox[abceprs](?:\.xox[abceprs])?-[A-Za-z0-9\-]{10}" + _TAIL),
        (("xapp-",), r"xapp-[0-9][A-Za-z0-9\-]{8}" + _TAIL),
        (("k_",), _starts_word(r"[rs]k_(?:live|test)_") + _opaque(6, 12) + _TAIL),
        (("whs",), r"whs(?:ec|k)_" + _opaque(6, 16, "A-Za-z+/_\\-") + r"[A-Za-z0-9+/=_\-]*"),
        (("sk-",), _starts_word("sk-") + _OPENAI + _TAIL),
        (("e2b_",), _starts_word("e2b_") + _opaque(12, 20) + _TAIL),
    )
)
_SLACK_HOOK = re.compile(
    r"(\.(?i:slack(?:-gov)?\.com)\\?/(?i:services|workflows|triggers)\\?/)[A-Za-z0-9_\-+/\\]+"
)


def _keys(text: str) -> str:
    for marks, pattern in _KEYS:
        if any(mark in text for mark in marks):
            text = pattern.sub(REDACTED, text)
    return _SLACK_HOOK.sub(rf"\1{REDACTED}", text)


# --- the order -----------------------------------------------------------------------------

# PEM before all (its dashes belong to many keys' alphabets), schemes before keys (a key's tail
# would swallow the word `Bearer` and leave its token).
_PASSES: tuple[Callable[[str], str], ...] = (_pem, _userinfo, _credentials, _jwt, _keys)

# What at least one pass needs to see. Every branch starts with a plain character: the engine
# then skips to those, and a plain text costs a few hundred nanoseconds.
_MARKS = re.compile(
    r"---- ?BEGIN|:\\?/\\?/|b(?i:earer|asic)|B(?i:earer|asic)|eyJ|AKIA|ASIA|gh[pousr]_"
    r"|github_pat_|gl[a-z]{2,5}-|GR1348941|xox[a-z]|xapp-|sk_|rk_|whs[ek]|sk-|e2b_|\.(?i:slack)"
)
