"""The exception for a setting that is missing or invalid."""


class ConfigError(SystemExit):
    """A missing or invalid setting.

    It is a SystemExit, so that an uncaught one ends the process with a one-line message.
    """
