"""The PostgreSQL of development and tests: real, from pip, with its data under `instance/`.

Production never imports this package.
"""

from projectapp.devdb.postgres import DevPostgres, DevPostgresError, find_binaries

__all__ = ["DevPostgres", "DevPostgresError", "find_binaries"]
