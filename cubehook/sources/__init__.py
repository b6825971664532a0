"""Events from beside the application's own log: a file, a stream. Each feeds handlers."""

from __future__ import annotations

from cubehook.sources._feed import Feed, SourceEvent

__all__ = ["Feed", "SourceEvent"]
