"""Checks the text of the database URLs, before anything connects."""

import re
from collections.abc import Iterator

from config import setting_source
from projectapp.doctor.finding import FAIL, OK, WARN, Finding
from settings.database_url import parse_database_url

_ENCODE_COMMAND = (
    """python3 -c 'import getpass, urllib.parse as u; print(u.quote(getpass.getpass(), safe=""))'"""
)
_NO_URL = "DATABASE_URL is not set: development and tests run their own PostgreSQL."
_OPTIONS_WITH_DEFAULTS = ("sslmode", "sslrootcert", "target_session_attrs")


def check_urls() -> Iterator[Finding]:
    """Report the source of each URL, the values in it, and the errors in its text."""
    for name in ("DATABASE_URL", "MIGRATIONS_DATABASE_URL"):
        text, source = setting_source(name)
        if text:
            yield Finding(OK, "settings", f"{name} comes from {source}.")
            yield from _check_url(name, text)
        elif name == "DATABASE_URL":
            yield Finding(OK, "settings", _NO_URL)


def _check_url(name: str, text: str) -> Iterator[Finding]:
    try:
        parameters = parse_database_url(text)
    except ValueError as error:
        yield _find_mistake(name, text) or Finding(FAIL, "url", f"{name} must be {error}.")
        return
    password = parameters.get("password", "")
    if "#" in password and "#" in text:
        summary = f"The password in {name} contains an unescaped #."
        reason = "It works here, but for other tools the URL ends there. Encode the password:"
        yield Finding(WARN, "url", summary, reason, _ENCODE_COMMAND)
    if re.fullmatch(r"\[.*\]", password):
        summary = f"The password in {name} is in square brackets."
        reason = "In Supabase's templates the brackets are part of the placeholder: remove them."
        remedy = f"{name}=postgresql://USER:PASSWORD@HOST/DATABASE"
        yield Finding(WARN, "url", summary, reason, remedy)
    user = parameters.get("user", "(that of the operating system)")
    database = parameters.get("dbname", "(the user's name)")
    host, port = parameters.get("host", "(the local socket)"), parameters.get("port", "5432")
    yield Finding(OK, "url", f"Host {host}, port {port}, database {database}, user {user}.")
    if changes := list(_list_changes(text, parameters)):
        yield Finding(OK, "url", f"Changes to this URL: {'; '.join(changes)}.")


def _list_changes(text: str, parameters: dict[str, str]) -> Iterator[str]:
    """List how `parameters`, which the service uses, differ from the text of the URL."""
    scheme, query = text.partition("://")[0], text.partition("?")[2]
    keys = [pair.partition("=")[0] for pair in query.split("&") if pair]
    if scheme != "postgresql":
        yield f"{scheme}:// is read as postgresql://"
    if dropped := [key for key in keys if key not in parameters and key != "ssl"]:
        # If a password is in the query, such a key may be the rest of it.
        names = "keys" if any("password" in key for key in keys) else ", ".join(dropped)
        yield f"{names} dropped (unknown to libpq)"
    own_keys = {"sslmode" if key == "ssl" else key for key in keys}
    added = [key for key in _OPTIONS_WITH_DEFAULTS if key in parameters and key not in own_keys]
    if added:
        yield f"{', '.join(f'{key}={parameters[key]}' for key in added)} added"


def _find_mistake(name: str, text: str) -> Finding | None:
    """Return a finding about a common mistake in an invalid URL, or None."""
    scheme, _, rest = text.partition("://")
    form = f"{name}=postgresql://USER:PASSWORD@HOST/DATABASE"
    if re.match(r"(psql\s|['\"])", text):
        summary = f"{name} has quotes or a command around the URL."
        return Finding(FAIL, "url", summary, "The value must be only the URL.", form)
    if re.match(r"(mysql|mariadb)", scheme):
        summary = f"{name} is the URL of a MySQL database."
        reason = "This service needs PostgreSQL. Without a URL, development runs its own."
        return Finding(FAIL, "url", summary, reason, form)
    password = rest.rpartition("@")[0].partition(":")[2]
    unescaped = [sign for sign in "@/?#" if sign in password]
    if re.search(r"%(?![0-9A-Fa-f]{2})", password):
        unescaped.append("%")
    if unescaped in ([], ["#"]):  # a # is valid here
        return None
    summary = f"The password in {name} contains an unescaped {' and '.join(unescaped)}."
    reason = "These characters have a meaning in a URL. This command prints the encoded password:"
    return Finding(FAIL, "url", summary, reason, _ENCODE_COMMAND)
