"""A PostgreSQL database in place of the SQLite file in a run's folder: a team watches one, and one process writes each study.

The owner's only connection holds an advisory lock on the name of the study. PostgreSQL lets go of it when the process has
ended, however it did, and a minute after its machine or network has gone. A connection that is made anew takes the lock first,
so that who has lost it to another owner cannot write.
Source: https://www.postgresql.org/docs/current/explicit-locking.html, section 13.3.5.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import optuna

from nas.errors import RunError, UsageError
from nas.owner import this_process

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LEASE = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 4}
"""Seconds after which the server looks whether a silent owner is there, how often it repeats that, and after how many times it
takes the owner for dead: 20 + 4 x 10 s."""

_CLIENT = {"connect_timeout": "10", "keepalives_idle": "20", "keepalives_interval": "10", "keepalives_count": "4"}
"""The same seen from the owner, who is not to wait for ever for a server that is gone; what a URL says itself comes first."""

_SECRETS = ("password", "sslpassword")
_WANTED = (
    "allowed: postgresql://USER@HOST:PORT/DATABASE, with @ : / ? # in a password as %40 %3A %2F %3F %23. Leave it out for an "
    "SQLite file in the run's folder."
)


def redacted(text: str) -> str:
    """Return a text without the passwords of the URLs in it, such as a command or an error."""
    return re.sub(r"\w://\S+", _without_secrets, text.replace("postgresql+psycopg://", "postgresql://"))


def _without_secrets(url: re.Match[str]) -> str:
    text = re.sub(r"(://[^/@:]*):\S*@", r"\1@", url[0])
    text = re.sub(rf"([?&])(?:{'|'.join(_SECRETS)})=[^&'\"]*&?", r"\1", text)
    return re.sub(r"[?&](?=['\"]?$)", "", text)


def checked(text: str) -> str:
    """Return the URL of a database as SQLAlchemy takes it.

    Raises:
        UsageError: not a URL of a PostgreSQL database, or its driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # their messages hold the text, and with it the password
        raise UsageError(f"--storage: found {redacted(text)}; {_WANTED}") from None
    known = url.drivername in ("postgres", "postgresql", "postgresql+psycopg")
    if not known or not url.database or "@" in (url.host or ""):
        raise UsageError(f"--storage: found {redacted(text)}; {_WANTED}")
    if find_spec("psycopg") is None:
        raise UsageError("--storage: needs psycopg, which is not installed. Run: pip install 'phinas[postgres]'.")
    return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def new_name(space: str) -> str:
    """Return a name for the study of a new run, which no other run in a database has."""
    return f"search-{space}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def owned(url: str, study: str) -> RDBStorage:
    """Return the storage of a study's owner.

    Raises:
        RunError: another process owns the study; it is named. Exception: whatever SQLAlchemy raises where the database cannot
            be used.
    """
    from sqlalchemy import event

    readable(url).engine.dispose()  # makes the tables and checks their version, which takes two connections at a time
    storage = optuna.storages.RDBStorage(
        _patient(url), {"pool_size": 1, "max_overflow": 0}, skip_compatibility_check=True, skip_table_creation=True
    )

    def take(connection: Any, _: object) -> None:
        _take(connection, url, study)

    event.listen(storage.engine, "connect", take)
    storage.engine.dispose()
    return storage


def readable(url: str) -> RDBStorage:
    """Return the storage for somebody who reads what others write.

    Raises:
        Exception: whatever SQLAlchemy raises where the database cannot be used.
    """
    return optuna.storages.RDBStorage(_patient(url))


def _patient(url: str) -> str:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    return parsed.set(query={**_CLIENT, **parsed.query}).render_as_string(hide_password=False)


def _take(connection: Any, url: str, study: str) -> None:
    """Make a new connection the owner's, with the lock of the study."""
    import psycopg

    key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], "big", signed=True)
    try:
        holder = _held(connection, key)
    except psycopg.Error as error:  # SQLAlchemy would let it pass as it is
        connection.close()
        raise optuna.exceptions.StorageInternalError(str(error)) from error
    if holder is None:
        return
    connection.close()
    raise RunError(
        f"{redacted(url)}: {holder} is working on study {study}. Wait until it has ended, or stop it; then continue. If its "
        f"machine is gone, the database lets go within "
        f"{LEASE['tcp_keepalives_idle'] + LEASE['tcp_keepalives_interval'] * LEASE['tcp_keepalives_count']} s."
    )


def _held(connection: Any, key: int) -> str | None:
    """Take a lock; return who has it if that is not to be had."""
    with connection.cursor() as cursor:
        for name, value in LEASE.items():
            cursor.execute(f"SET {name} = {value}")
        cursor.execute("SELECT set_config('application_name', %s, false)", (this_process(most=63),))
        connection.commit()
        for _ in range(10):  # a moment, for the server to see that an owner was killed
            if cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()[0]:
                connection.commit()
                return None
            time.sleep(0.2)
        holder = cursor.execute(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
            "AND ((classid::bigint << 32) | objid::bigint) = %s",
            (key,),
        ).fetchone()
    return "another process" if holder is None else str(holder[0])


def remedy(cause: str) -> str:
    """Return what to do about an error of a database, as the middle of a sentence."""
    if "password" in cause:
        return "Give the password in PGPASSWORD, in ~/.pgpass or with --storage"
    if any(word in cause for word in ("does not exist", "permission denied", "pg_hba.conf")):
        return "Have the database made, with a user who may make tables in it"
    return "Start the database, or wait until it answers"
