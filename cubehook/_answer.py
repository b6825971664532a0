"""The answer to one request as libcurl hands it over: the lines of its heads, then its body."""

from __future__ import annotations

from cubehook.transport import MAX_RESPONSE_BYTES

MOST_LINES = 256
"""Of all heads together; ``http.client``, in the other transport, takes 100 of each."""

_REFUSED = 0
"""In the place of the number of bytes taken: libcurl ends the attempt."""


class Answer:
    """Keeps what is needed of an answer, within bounds. Its callbacks never raise.

    body: as far as it came, undecoded; may be a little more than is ever wanted.
    """

    def __init__(self) -> None:
        self.body = bytearray()
        self._lines: list[bytes] = []
        self._heard = 0

    def clear(self) -> None:
        """Another answer is to come."""
        self.body.clear()
        self._lines.clear()
        self._heard = 0

    def hear(self, line: bytes) -> int | None:
        """A line of a head, or of what follows a chunked body; None: it was taken."""
        self._lines.append(line)
        self._heard += len(line)
        if self._heard > MAX_RESPONSE_BYTES or len(self._lines) > MOST_LINES:
            return _REFUSED
        return None

    def take(self, chunk: bytes) -> int | None:
        """A part of the body; None: it was taken."""
        self.body += chunk
        return None if len(self.body) <= MAX_RESPONSE_BYTES else _REFUSED

    @property
    def begun(self) -> bool:
        """Whether a line of it came."""
        return bool(self._lines)

    @property
    def too_long(self) -> bool:
        """Whether more came than is taken in of a head."""
        return self._heard > MAX_RESPONSE_BYTES or len(self._lines) > MOST_LINES

    def head(self) -> list[bytes] | None:
        """The lines of the head that counts, if it has ended: interim ones come before it."""
        head: list[bytes] = []
        for line in self._lines:
            if line not in (b"\r\n", b"\n"):
                head.append(line)
            elif head and _is_interim(head[0]):
                head = []
            else:
                return head
        return None


def status(head: list[bytes]) -> int:
    """The status in a head that libcurl has taken for one."""
    return int(head[0].split(None, 2)[1])


def retry_after(head: list[bytes]) -> str | None:
    """The header ``Retry-After``; what is said twice is a list (RFC 9110 §5.3)."""
    found = [line[12:].strip() for line in head if line[:12].lower() == b"retry-after:"]
    return b", ".join(found).decode("latin-1") if found else None


def _is_interim(first: bytes) -> bool:
    code = first.split(None, 2)[1:2]
    return code != [b"101"] and code[:1] != [] and code[0][:1] == b"1"
