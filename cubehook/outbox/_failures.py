"""What a database's errors become: few fixed phrases.

SQLAlchemy's and the drivers' own texts hold SQL, parameters, rows and host names, so nothing of
them is passed on.
"""

from __future__ import annotations

from cubehook.errors import CubehookError

UNREACHABLE = "the database cannot be reached"
LOCKED = "the database is locked"
FULL = "the database is full"
DAMAGED = "the database is damaged"
NO_DATABASE = "the file is no database"
NO_TABLES = "the database has no outbox tables"
READ_ONLY = "the database is read-only"
FAILED = "the database failed"


class OutboxUnavailableError(CubehookError):
    """The outbox's database is down, locked, full or damaged; what was asked for was not done.

    After a connection that broke during a commit it may have been done all the same. ``add`` can
    be repeated then, and a lease that nobody knows of expires.
    """


# sqlite3 tells its codes only from Python 3.11 on.
_SQLITE_PHRASES = (
    ("locked", LOCKED),
    ("busy", LOCKED),
    ("disk is full", FULL),
    ("malformed", DAMAGED),
    ("not a database", NO_DATABASE),
    ("no such table", NO_TABLES),
    ("unable to open", UNREACHABLE),
    ("readonly", READ_ONLY),
)
# https://www.postgresql.org/docs/current/errcodes-appendix.html; beginnings of an SQLSTATE.
_SQLSTATES = (
    ("55P03", LOCKED),
    ("40", LOCKED),
    ("53100", FULL),
    ("53", UNREACHABLE),
    ("57P", UNREACHABLE),
    ("25P03", UNREACHABLE),
    ("25006", READ_ONLY),
    ("08", UNREACHABLE),
    ("28", UNREACHABLE),
    ("3D", UNREACHABLE),
    ("42P01", NO_TABLES),
    ("XX001", DAMAGED),
    ("XX002", DAMAGED),
)
# https://mariadb.com/docs/server/reference/error-codes
_MYSQL_CODES = {
    **dict.fromkeys((1205, 1213, 1020, 3058), LOCKED),
    **dict.fromkeys((1021, 1114, 3019), FULL),
    **dict.fromkeys((1034, 1035, 126, 127, 1877), DAMAGED),
    **dict.fromkeys((1040, 1044, 1045, 1049, 1053, 1129, 1130, 1203, 1927), UNREACHABLE),
    **dict.fromkeys((2002, 2003, 2006, 2013, 2014, 4031, 0), UNREACHABLE),
    **dict.fromkeys((1290, 1792, 1836), READ_ONLY),
    1146: NO_TABLES,
}
# Two transactions in each other's way: the one that lost may try again at once.
_RETRIED_SQLSTATES = ("40001", "40P01")
_RETRIED_CODES = (1213, 1020)


def phrase(error: BaseException) -> str:
    """Which of this module's phrases tells what ``error``, of SQLAlchemy or a driver, is about."""
    cause = getattr(error, "orig", None) or error
    module = type(cause).__module__.partition(".")[0]
    if module == "sqlite3":
        text = str(cause)
        return next((said for part, said in _SQLITE_PHRASES if part in text), FAILED)
    if module == "pymysql":
        return _MYSQL_CODES.get(_code(cause), FAILED)
    if module == "psycopg":
        # What fails before there is a session has no SQLSTATE.
        state = getattr(cause, "sqlstate", None) or "08"
        return next((said for start, said in _SQLSTATES if state.startswith(start)), FAILED)
    return UNREACHABLE if isinstance(cause, OSError) else FAILED


def is_collision(error: BaseException) -> bool:
    """Whether the database broke a deadlock by ending this transaction: it can be repeated."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) in _RETRIED_SQLSTATES:
        return True
    return type(cause).__module__.startswith("pymysql") and _code(cause) in _RETRIED_CODES


def _code(cause: BaseException) -> int:
    code = cause.args[0] if cause.args else 0
    return code if isinstance(code, int) else 0
