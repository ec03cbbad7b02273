"""What the URLs of the database say, before anybody tries them."""

import re
from collections.abc import Iterator

import config as settings
from projectapp.doctor.finding import FAIL, OK, WARN, Finding

_ENCODE = (
    """python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=""))'"""
)
_NONE = "No DATABASE_URL is set: development and tests have a PostgreSQL of their own."
_ADDED = ("sslmode", "sslrootcert", "target_session_attrs")


def examine() -> Iterator[Finding]:
    """Say where each URL comes from, what it means, and what is wrong with its text."""
    for name in ("DATABASE_URL", "MIGRATIONS_DATABASE_URL"):
        text, source = settings.setting_source(name)
        if text:
            yield Finding(OK, "setting", f"{name} comes from {source}.")
            yield from _explain(name, text)
        elif name == "DATABASE_URL":
            yield Finding(OK, "setting", _NONE)


def _explain(name: str, text: str) -> Iterator[Finding]:
    try:
        found = settings.parse_database_url(text)
    except ValueError as error:
        yield _trouble(name, text) or Finding(FAIL, "url", f"{name} must be {error}.")
        return
    password = found.get("password", "")
    if "#" in password and "#" in text:
        what = f"The password in {name} has an unescaped #."
        yield Finding(WARN, "url", what, "It works here, but other tools end there.", _ENCODE)
    if re.fullmatch(r"\[.*\]", password):
        what = f"The password in {name} stands in square brackets."
        why = "In the templates of Supabase they are to be replaced, too."
        yield Finding(WARN, "url", what, why, f"{name}=postgresql://USER:PASSWORD@HOST/DATABASE")
    user, database = found.get("user", "the system's"), found.get("dbname", "the user's")
    host, port = found.get("host", "the local socket"), found.get("port", "5432")
    yield Finding(OK, "url", f"Host {host}, port {port}, database {database}, user {user}.")
    if changes := list(_normalised(text, found)):
        yield Finding(OK, "url", f"Normalised: {'; '.join(changes)}.")


def _normalised(text: str, found: dict[str, str]) -> Iterator[str]:
    scheme, _, query = text.partition("://")[0], *text.partition("?")[1:]
    keys = [pair.partition("=")[0] for pair in query.split("&") if pair]
    if scheme != "postgresql":
        yield f"{scheme}:// is read as postgresql://"
    if dropped := [key for key in keys if key not in found and key != "ssl"]:
        # Behind a password they might be the rest of it.
        names = "keys" if any("password" in key for key in keys) else ", ".join(dropped)
        yield f"left out {names}, which libpq does not know"
    given = {"sslmode" if key == "ssl" else key for key in keys}
    if added := [f"{key}={found[key]}" for key in _ADDED if key in found and key not in given]:
        yield f"added {', '.join(added)}"


def _trouble(name: str, text: str) -> Finding | None:
    """What is wrong with the text, where that can be told more plainly than the parser can."""
    scheme, _, rest = text.partition("://")
    if re.match(r"(psql\s|['\"])", text):
        what = f"{name} has quotes, or a command, around the URL."
        return Finding(FAIL, "url", what, "The URL alone is the value.", f"{name}=postgresql://...")
    if re.match(r"(mysql|mariadb)", scheme):
        what = f"{name} is the URL of a MySQL database."
        why = "This service needs PostgreSQL 15 or newer. Without a URL, development has its own."
        return Finding(FAIL, "url", what, why, f"{name}=postgresql://USER:PASSWORD@HOST/DATABASE")
    password = rest.rpartition("@")[0].partition(":")[2]
    ends = [sign for sign in "@/?#" if sign in password]
    if re.search(r"%(?![0-9A-Fa-f]{2})", password):
        ends.append("%")
    if ends in ([], ["#"]):
        return None
    what = f"The password in {name} has an unescaped {' and '.join(ends)}."
    why = "In a URL these signs have meanings of their own. This prints the password encoded:"
    return Finding(FAIL, "url", what, why, _ENCODE)
