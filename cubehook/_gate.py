"""Where libcurl's sockets come from, and what becomes of them in a forked child: `Gate`."""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Collection
from typing import Any

import pycurl

from cubehook.addresses import AddressPolicy


class Gate:
    """Opens libcurl's sockets, to vetted addresses only. Its callbacks never raise.

    vetted: the addresses that may be connected to in this attempt. refused: why one was not; an
    empty text where it was not vetted.
    """

    def __init__(self, guard: AddressPolicy, *, secure: bool) -> None:
        self._guard, self._secure = guard, secure
        self.vetted: Collection[str] = ()
        self.refused: str | None = None
        self._opened: list[tuple[int, int]] = []  # descriptors, and their inodes
        self._process = os.getpid()
        _gates.add(self)

    def refusal(self, address: str) -> str | None:
        """Why this address may not be connected to."""
        return self._guard.refusal(address, secure=self._secure)

    def open(self, purpose: int, address: Any) -> Any:
        """A socket for this address, if that may be connected to."""
        try:
            asked = str(address.addr[0])
            if asked not in self.vetted:
                self.refused = (self.refusal(asked) or "") if self.vetted else ""
                return pycurl.SOCKET_BAD
            return Socket(address.family, address.socktype, address.protocol)
        except Exception:  # too many open files, say; pycurl would print it
            return pycurl.SOCKET_BAD

    def note(self, descriptor: int, purpose: int) -> int:
        """libcurl has this descriptor now, a duplicate of what was opened."""
        try:
            os.set_inheritable(descriptor, False)
            self._opened = [one for one in self._opened if _is_open(*one)]
            self._opened.append((descriptor, os.fstat(descriptor).st_ino))
        except OSError:
            return 1  # no connection, then
        return pycurl.SOCKOPT_OK

    def leave_to_parent(self) -> None:
        """In a forked child, what libcurl still says on the parent's connections goes nowhere."""
        if os.getpid() == self._process:
            return
        self._process = os.getpid()
        for descriptor, inode in self._opened:
            if _is_open(descriptor, inode):
                nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                os.dup2(nowhere, descriptor, inheritable=False)
                os.close(nowhere)
        self._opened.clear()


class Socket(socket.socket):
    """libcurl takes a duplicate; this one is closed when it is dropped."""

    def __del__(self) -> None:
        self.close()


def _is_open(descriptor: int, inode: int) -> bool:
    """Whether the descriptor is still the socket that it was."""
    try:
        return os.fstat(descriptor).st_ino == inode
    except OSError:
        return False


_gates: weakref.WeakSet[Gate] = weakref.WeakSet()


def _after_in_child() -> None:
    for gate in list(_gates):
        gate.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
