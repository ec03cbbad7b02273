"""The process's environment together with `.env`, and the other files that Flask reads."""

import io
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from dotenv import dotenv_values, find_dotenv
from dotenv.parser import parse_stream

from settings.config_error import ConfigError

_TESTING = "testing"  # APP_ENV of the tests


def read_environment(dotenv: Path, setting_names: Collection[str]) -> dict[str, str]:
    """Return the variables of the environment and of the file `dotenv`; the environment wins.

    With APP_ENV=testing, APP_ENV is the only variable that may come from the file. Raises
    ConfigError if the file cannot be read, or if a file that only Flask reads has a setting.
    """
    environ = dict(os.environ)
    if environ.get("APP_ENV", "").strip() != _TESTING:
        own_values = read_dotenv(dotenv)
        values = own_values | environ
        if values.get("APP_ENV", "").strip() != _TESTING:
            _refuse_other_files(own_values, setting_names)
            return values
        environ["APP_ENV"] = _TESTING
    # The flask command has copied its files into the environment. A variable with the same value
    # in a file may come from that file.
    from_files = {
        name
        for values in _read_flask_files().values()
        for name, text in values.items()
        if environ.get(name) == text
    }
    return {
        name: text for name, text in environ.items() if name == "APP_ENV" or name not in from_files
    }


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a `.env` file, or an empty dict if it does not exist.

    Raises ConfigError if the file cannot be read or parsed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(
            f"{path.name} cannot be read ({error.strerror}): it must be a file that this user"
            " may read."
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # for example UTF-16
        raise ConfigError(
            f"{path.name} is not UTF-8 text: save it with the encoding UTF-8"
            " (in PowerShell: Out-File -Encoding utf8)."
        )
    for line in parse_stream(io.StringIO(text)):
        if line.error:
            blank = len(line.original.string) - len(line.original.string.lstrip())
            number = line.original.line + line.original.string[:blank].count("\n")
            raise ConfigError(
                f"{path.name}, line {number}: write NAME=VALUE, and close every quote."
            )
    return {name: text or "" for name, text in dotenv_values(stream=io.StringIO(text)).items()}


def _refuse_other_files(own_values: Mapping[str, str], setting_names: Collection[str]) -> None:
    """Raise ConfigError if the flask command has read a setting that the service does not read."""
    for path, values in _read_flask_files().items():
        for name in {"APP_ENV", *setting_names} & values.keys():
            # APP_ENV is refused even if the environment has another value: its author would wait
            # for an effect.
            has_effect = name == "APP_ENV" or values[name] == os.environ.get(name)
            if own_values.get(name) != values[name] and has_effect:
                raise ConfigError(
                    f"{path} sets {name}. The flask command reads this file, and the service does"
                    " not: move the setting to .env, or set FLASK_SKIP_DOTENV=1."
                )


def _read_flask_files() -> dict[Path, dict[str, str]]:
    """Return the variables of each file that the flask command has copied into the environment.

    Flask reads `.flaskenv` and `.env`, each in the working directory or in its nearest parent that
    has the file.
    """
    if os.environ.get("FLASK_RUN_FROM_CLI") != "true":
        return {}
    paths = [Path(find_dotenv(name, usecwd=True)) for name in (".flaskenv", ".env")]
    files = {path: read_dotenv(path) for path in paths if path.name}
    # In one of the files FLASK_SKIP_DOTENV has no effect: then Flask has already read them.
    is_skipped = not any("FLASK_SKIP_DOTENV" in values for values in files.values()) and (
        os.environ.get("FLASK_SKIP_DOTENV", "").lower() not in ("", "0", "false", "no")
    )
    return {} if is_skipped else files
