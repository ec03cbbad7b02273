"""Protects our tables from Supabase's public API.

The API acts as one of two roles, and anyone with the public key of the Supabase project can use it.
Supabase grants these roles access to each table in the schema public. Row level security denies
them every row, even if they are granted access again. All other roles keep their access: their
policy is `true`, which PostgreSQL's planner removes.
"""

from sqlalchemy import Connection, text

from projectapp.database.models import db

_IS_SUPABASE_ROLE = "rolname IN ('anon', 'authenticated')"
_UNPROTECTED_TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname = current_schema() AND tablename IN ({our_tables}) AND NOT rowsecurity
  AND EXISTS (SELECT FROM pg_roles WHERE {is_supabase_role})
"""
_TABLES_TO_PROTECT = _UNPROTECTED_TABLES + "AND pg_has_role(tableowner, 'USAGE')"
_PROTECT_TABLES = """
DO $$
DECLARE
  web text := (
    SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles WHERE {is_supabase_role});
  name text;
BEGIN
  FOR name IN {tables} LOOP
    EXECUTE 'ALTER TABLE ' || name || ' ENABLE ROW LEVEL SECURITY';
    EXECUTE 'DROP POLICY IF EXISTS everybody ON ' || name;
    EXECUTE 'DROP POLICY IF EXISTS web ON ' || name;
    EXECUTE 'CREATE POLICY everybody ON ' || name || ' USING (true)';
    EXECUTE 'CREATE POLICY web ON ' || name || ' AS RESTRICTIVE TO ' || web || ' USING (false)';
    EXECUTE 'REVOKE ALL ON ' || name || ' FROM ' || web;
  END LOOP;
END
$$
"""


def find_unprotected_tables(connection: Connection) -> list[str]:
    """Return the names of our tables that Supabase's public API can use."""
    return list(connection.scalars(text(_for_our_tables(_UNPROTECTED_TABLES))))


def has_tables_to_protect(connection: Connection) -> bool:
    """Whether there are unprotected tables that the role may alter. Ends the transaction."""
    name = connection.scalar(text(_for_our_tables(_TABLES_TO_PROTECT)))
    connection.rollback()
    return name is not None


def protect_tables_sql() -> str:
    """Return the statement that protects the unprotected tables that the role may alter."""
    tables = _for_our_tables(_TABLES_TO_PROTECT)
    return _PROTECT_TABLES.format(is_supabase_role=_IS_SUPABASE_ROLE, tables=tables)


def _for_our_tables(query: str) -> str:
    our_tables = ", ".join(f"'{name}'" for name in ("alembic_version", *db.metadata.tables))
    return query.format(our_tables=our_tables, is_supabase_role=_IS_SUPABASE_ROLE)
