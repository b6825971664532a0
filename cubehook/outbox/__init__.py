"""The durable outbox: what is stored here is delivered, whatever becomes of the process.

It needs SQLAlchemy (the extra ``outbox``); on a server also a driver (``postgres``, ``mysql``).
"""

from cubehook.outbox._adding import enqueue
from cubehook.outbox._failures import OutboxUnavailableError
from cubehook.outbox.store import Outbox
from cubehook.outbox.values import (
    AttemptRecord,
    DeliveryDetails,
    DeliveryRecord,
    Filter,
    Lease,
    Result,
    Status,
    Target,
)

__all__ = [
    "AttemptRecord",
    "DeliveryDetails",
    "DeliveryRecord",
    "Filter",
    "Lease",
    "Outbox",
    "OutboxUnavailableError",
    "Result",
    "Status",
    "Target",
    "enqueue",
]
