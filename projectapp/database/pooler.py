"""Whether a pooler stands before PostgreSQL, and for how long it lends a session."""

import random
from collections.abc import Callable

import psycopg2

from projectapp.database.connection import PROBE_SECONDS, Connection, watchdog

_LOOKS = 24  # chance alone would have to hide a pooler that often


def pool_mode(connect: Callable[[], Connection]) -> str:
    """How a pooler lends sessions, as two connections see it: "transaction", "session" or "".

    A pooler makes up the process id that it tells. In transaction mode it lends whichever session
    is free, so in time two connections meet in one, or one is moved. They ask in no order: whatever
    a queue of others or a pooler that lends in turn has would give each its own again and again.
    Raises psycopg2.Error, also where a pooler has no two sessions to lend.
    """
    links = [connect(), connect()]
    try:
        for link in links:
            link.autocommit = True
        own = [_session(link) for link in links]
        if own == [link.pid for link in links]:
            return ""
        order = random.choices((0, 1), k=_LOOKS)  # noqa: S311 - nobody guesses it
        moved = own[0] == own[1] or any(_session(links[one]) != own[one] for one in order)
        return "transaction" if moved else "session"
    finally:
        for link in links:
            link.close()


def _session(link: Connection) -> int:
    try:
        with watchdog.limit(link, PROBE_SECONDS), link.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])
    except psycopg2.Error as error:
        said = str(error).partition("\n")[0]
        raise psycopg2.OperationalError(
            f"no answer, as from a pooler that has no session left to lend: {said}"
        ) from error
