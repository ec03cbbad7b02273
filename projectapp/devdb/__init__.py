"""A PostgreSQL for development and tests: from pip, with its data in `instance/`.

Production never imports this package.
"""

from projectapp.devdb.postgres import DevPostgres, DevPostgresError, find_binaries

__all__ = ["DevPostgres", "DevPostgresError", "find_binaries"]
