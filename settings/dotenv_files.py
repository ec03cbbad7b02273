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
    """Return the variables of the file `dotenv` and of the environment, which wins.

    With APP_ENV=testing, no variable of a file is in the result, except APP_ENV of `dotenv`. Raises
    ConfigError if a file cannot be read, or if it is one that only Flask reads.
    """
    environ = dict(os.environ)
    if environ.get("APP_ENV", "").strip() != _TESTING:
        own_values = read_dotenv(dotenv)
        values = own_values | environ
        if values.get("APP_ENV", "").strip() != _TESTING:
            _refuse_other_files(own_values, setting_names)
            return values
        environ["APP_ENV"] = _TESTING
    # The flask command has copied its files into the environment. So a variable that has the same
    # value in a file and in the environment may come from the file.
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
    """Return the variables of a `.env` file; none if it does not exist. Raises ConfigError."""
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
    """Raise ConfigError if the flask command and the service would read different settings.

    The service reads one `.env`, and the flask command also reads other files.
    """
    for path, values in _read_flask_files().items():
        for name in {"APP_ENV", *setting_names} & values.keys():
            # A person who sets APP_ENV there expects an effect, even if another file overrides it.
            is_expected = name == "APP_ENV" or values[name] == os.environ.get(name)
            if own_values.get(name) != values[name] and is_expected:
                raise ConfigError(
                    f"{path} sets {name}. The flask command reads this file, and the service does"
                    " not: move the setting to .env, or set FLASK_SKIP_DOTENV=1."
                )


def _read_flask_files() -> dict[Path, dict[str, str]]:
    """Return the files that the flask command has read into the environment, with their variables.

    Flask reads `.flaskenv` and `.env` in the working directory or, if one does not exist there, in
    the nearest parent directory that has it.
    """
    if os.environ.get("FLASK_RUN_FROM_CLI") != "true":
        return {}
    paths = [Path(find_dotenv(name, usecwd=True)) for name in (".flaskenv", ".env")]
    files = {path: read_dotenv(path) for path in paths if path.name}
    # Inside one of the files FLASK_SKIP_DOTENV has no effect, because Flask reads it too late.
    is_skipped = not any("FLASK_SKIP_DOTENV" in values for values in files.values()) and (
        os.environ.get("FLASK_SKIP_DOTENV", "").lower() not in ("", "0", "false", "no")
    )
    return {} if is_skipped else files
