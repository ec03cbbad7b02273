"""Record every change of projects: a trigger writes what the row was before.

keep_history('TABLE') adds the triggers to a table of a resource. docs/decisions/0023 explains the
design, docs/history.md what it is for.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from projectapp.database.models import XID8

revision = "0014"
down_revision = "0013"

# The owner of `changes` writes, so the role that serves needs no right to do it. A caller's
# search_path has no effect: the name of the table has its schema.
RECORD_CHANGE = """
DO $do$
BEGIN
  EXECUTE replace($create$
CREATE FUNCTION record_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
  -- Caller, credential, request id, operation. Empty texts are null. The setting is '' after the
  -- first transaction of a session that has set it.
  source CONSTANT text[] := string_to_array(current_setting('projectapp.change', true), E'\\n', '');
BEGIN
  INSERT INTO {schema}.changes (xid, at, row_id, version, created_at, old_updated_at, resource,
    operation, owner, old_owner, caller, credential, request_id, old_values)
  VALUES (pg_current_xact_id(), clock_timestamp(), coalesce(NEW.id, OLD.id),
    coalesce(NEW.version, OLD.version + 1), OLD.created_at, OLD.updated_at, TG_TABLE_NAME,
    CASE TG_OP WHEN 'DELETE' THEN 'delete' WHEN 'UPDATE' THEN coalesce(source[4], 'update')
      ELSE coalesce(source[4], 'create') END,
    CASE TG_OP WHEN 'DELETE' THEN OLD.owner ELSE NEW.owner END, OLD.owner,
    source[1], coalesce(source[2], 'role ' || session_user), source[3],
    CASE TG_OP WHEN 'INSERT' THEN NULL ELSE to_jsonb(OLD) - TG_ARGV END);
  RETURN NULL;
END
$function$
  $create$, '{schema}', quote_ident(current_schema()));
END
$do$
"""

# For changes that do not raise the version by 1 themselves, such as those made with psql. An UPDATE
# that changes no value keeps the version. Generated columns do not count: they have no value yet.
RAISE_VERSION = """
CREATE FUNCTION raise_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  ignored CONSTANT text[] := ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
    WHERE attrelid = TG_RELID AND (attgenerated <> '' OR attname = 'version'));
BEGIN
  IF NEW.id <> OLD.id THEN
    RAISE EXCEPTION 'The id of a row cannot change. Delete the row and insert another one.'
      USING ERRCODE = 'restrict_violation';
  END IF;
  NEW.version := OLD.version;
  IF (to_jsonb(NEW) - ignored)::text <> (to_jsonb(OLD) - ignored)::text THEN
    NEW.version := OLD.version + 1;
    IF NEW.updated_at = OLD.updated_at THEN
      NEW.updated_at := clock_timestamp();
    END IF;
  END IF;
  RETURN NEW;
END
$$
"""

REFUSE_TRUNCATE = """
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'TRUNCATE would leave no history. Use DELETE.' USING ERRCODE = 'restrict_violation';
END
$$
"""

KEEP_HISTORY = """
CREATE FUNCTION keep_history(name_of_table text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
  -- Not in old_values: columns of `changes`, and columns that PostgreSQL computes.
  omitted CONSTANT text := (SELECT string_agg(quote_literal(attname), ', ') FROM pg_attribute
    WHERE attrelid = quote_ident(name_of_table)::regclass AND (attgenerated <> ''
      OR attname IN ('id', 'version', 'created_at', 'updated_at', 'owner')));
  name_of_trigger text;
  event text;
BEGIN
  FOREACH event IN ARRAY ARRAY[
    'AFTER INSERT ON %I FOR EACH ROW EXECUTE FUNCTION record_change()',
    'AFTER UPDATE ON %I FOR EACH ROW WHEN (OLD.version IS DISTINCT FROM NEW.version)'
      ' EXECUTE FUNCTION record_change(%s)',
    'AFTER DELETE ON %I FOR EACH ROW EXECUTE FUNCTION record_change(%s)',
    'BEFORE UPDATE ON %I FOR EACH ROW WHEN (NEW.version <> OLD.version + 1'
      ' OR NEW.id <> OLD.id)'
      ' EXECUTE FUNCTION raise_version()',
    'BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_truncate()'
  ] LOOP
    name_of_trigger := format('%s_history_%s', name_of_table,
      lower(replace(substring(event FROM '^\\w+ \\w+'), ' ', '_')));
    EXECUTE format('CREATE TRIGGER %I ' || event, name_of_trigger, name_of_table, omitted);
  END LOOP;
  INSERT INTO histories (resource, starts_at, database_id)
  VALUES (name_of_table, clock_timestamp(), history_database_id());
END
$function$
"""

END_HISTORY = """
CREATE FUNCTION end_history(name_of_table text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name_of_trigger name;
BEGIN
  FOR name_of_trigger IN SELECT tgname FROM pg_trigger
    WHERE tgrelid = quote_ident(name_of_table)::regclass AND tgname ~ '_history_(after|before)_'
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %I', name_of_trigger, name_of_table);
  END LOOP;
  DELETE FROM changes WHERE resource = name_of_table;
  DELETE FROM histories WHERE resource = name_of_table;
END
$$
"""

# Transaction ids have a meaning only in this database. A restored dump is another database, also on
# the same server.
DATABASE_ID = """
CREATE FUNCTION history_database_id() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT concat_ws('.', (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()), 'changes'::regclass::oid)
$$
"""

# The default privileges of docs/roles.md give every role that serves the right to write to each new
# table.
PROTECT = """
DO $$
DECLARE
  privilege record;
BEGIN
  FOR privilege IN
    SELECT DISTINCT oid::regclass AS name, grantee FROM pg_class, aclexplode(relacl)
    WHERE oid IN ('changes'::regclass, 'histories'::regclass) AND grantee NOT IN (0, relowner)
  LOOP
    EXECUTE format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON %s FROM %s', privilege.name,
      privilege.grantee::regrole);
  END LOOP;
END
$$
"""

# For a restore of a deleted row. It returns the newest change of the row, and no other transaction
# restores the row before this one ends. Each statement of the function has a new snapshot, so the
# second one sees the changes of a transaction for which the first one waited.
LOCK_NEWEST_CHANGE = """
CREATE FUNCTION lock_newest_change(name_of_table text, id uuid) RETURNS SETOF changes
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(name_of_table || id, 0));
  RETURN QUERY SELECT * FROM changes WHERE row_id = id AND resource = name_of_table
    ORDER BY seq DESC LIMIT 1;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("xid", XID8(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("old_updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("old_owner", sa.Text(), nullable=True),
        sa.Column("caller", sa.Text(), nullable=True),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("old_values", JSONB(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("changes_row_id_seq_idx", "changes", ["row_id", "seq"])
    op.create_index("changes_xid_idx", "changes", ["xid"])
    op.create_table(
        "histories",
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("purged_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("purged_xid", XID8(), server_default="0", nullable=False),
        sa.Column("database_id", sa.Text(), nullable=False),
        sa.Column("restored_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("resource"),
    )
    for statement in (
        *(
            RECORD_CHANGE,
            RAISE_VERSION,
            REFUSE_TRUNCATE,
            DATABASE_ID,
            KEEP_HISTORY,
            END_HISTORY,
            PROTECT,
            LOCK_NEWEST_CHANGE,
        ),
        "SELECT keep_history('projects')",
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute("SELECT end_history('projects')")
    for function in (
        *("keep_history(text)", "end_history(text)", "history_database_id()"),
        *("record_change()", "raise_version()", "refuse_truncate()"),
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.execute("DROP FUNCTION lock_newest_change(text, uuid)")
    op.drop_table("histories")
    op.drop_table("changes")
