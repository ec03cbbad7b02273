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

# The function has the rights of its owner, so the role that serves needs no right to write history.
# The caller's search_path must have no effect: all names have their schemas, and there are no
# operators. SET search_path would have the same effect, but costs each write 10 us.
#
# A change that does not raise the version by 1, such as one made with psql, gets its version by a
# second UPDATE. A BEFORE trigger could do it in the first one, but with such a trigger PostgreSQL
# computes the generated columns at each UPDATE, which takes 240 us.
RECORD_CHANGE = """
DO $do$
BEGIN
  EXECUTE replace($create$
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $function$
DECLARE
  -- Caller, credential, request id, operation. Empty texts are null. The setting is '' after the
  -- first transaction of a session that has set it.
  source CONSTANT pg_catalog.text[] := pg_catalog.string_to_array(
    pg_catalog.current_setting('projectapp.change', true), E'\\n', '');
  is_restore CONSTANT boolean := pg_catalog.texteq(source[4], 'restore');
  changed_at pg_catalog.timestamptz := pg_catalog.clock_timestamp();
  is_second_update boolean;
  new_version pg_catalog.int4;
  new_updated_at pg_catalog.timestamptz;
  old_values pg_catalog.jsonb;
  new_values pg_catalog.jsonb;
BEGIN
  -- The service sets updated_at in the statement. Then it is the time of the change, so that
  -- as_of=updated_at returns this state. Imports may set older times.
  IF pg_catalog.timestamptz_ge(NEW.updated_at, pg_catalog.statement_timestamp())
     AND pg_catalog.timestamptz_le(NEW.updated_at, changed_at) THEN
    changed_at := NEW.updated_at;
  END IF;
  IF OLD IS NULL THEN
    INSERT INTO {schema}.changes
      (xid, at, row_id, version, resource, operation, owner, caller, credential, request_id)
    VALUES (pg_catalog.pg_current_xact_id(), changed_at, NEW.id, NEW.version,
      TG_TABLE_NAME, CASE WHEN is_restore THEN 'restore' ELSE 'create' END, NEW.owner,
      source[1], coalesce(source[2], pg_catalog.concat('role ', session_user)), source[3]);
    RETURN NULL;
  END IF;
  -- Otherwise to_jsonb would convert each bigram, which takes long.
  IF pg_catalog.array_position(TG_ARGV, 'bigrams') IS NOT NULL THEN
    OLD.bigrams := NULL;
    NEW.bigrams := NULL;
  END IF;
  old_values := pg_catalog.jsonb_delete(pg_catalog.to_jsonb(OLD), VARIADIC TG_ARGV);
  new_version := pg_catalog.int4pl(OLD.version, 1);
  -- Whether this is the UPDATE below. The depth alone does not say it: a trigger of another table
  -- may change the row, too.
  is_second_update := coalesce(pg_catalog.int4gt(pg_catalog.pg_trigger_depth(), 1)
    AND pg_catalog.texteq(pg_catalog.current_setting('projectapp.second_update_of', true),
      NEW.id::pg_catalog.text), false);
  IF is_second_update OR pg_catalog.int4ne(NEW.version, new_version) THEN
    -- A change by hand, or the UPDATE below.
    IF pg_catalog.uuid_ne(NEW.id, OLD.id) THEN
      RAISE EXCEPTION 'The id of a row cannot change. Delete the row and insert another one.'
        USING ERRCODE = 'restrict_violation';
    END IF;
    new_values := pg_catalog.jsonb_delete(pg_catalog.to_jsonb(NEW), VARIADIC TG_ARGV);
    new_updated_at := NEW.updated_at;
    -- As texts: 1 and 1.0 are equal as jsonb.
    IF pg_catalog.texteq(
      pg_catalog.jsonb_build_array(old_values, OLD.created_at, OLD.owner)::pg_catalog.text,
      pg_catalog.jsonb_build_array(new_values, NEW.created_at, NEW.owner)::pg_catalog.text)
    THEN
      IF is_second_update THEN
        RETURN NULL;
      END IF;
      IF pg_catalog.timestamptz_eq(NEW.updated_at, OLD.updated_at) THEN
        new_version := OLD.version;
      END IF;
    ELSIF pg_catalog.timestamptz_eq(NEW.updated_at, OLD.updated_at) THEN
      new_updated_at := changed_at;
    END IF;
    IF pg_catalog.int4ne(NEW.version, new_version) THEN
      PERFORM pg_catalog.set_config('projectapp.second_update_of', NEW.id::pg_catalog.text, true);
      EXECUTE pg_catalog.format('UPDATE %s SET version = $1, updated_at = $2'
        ' WHERE id OPERATOR(pg_catalog.=) $3', TG_RELID::pg_catalog.regclass)
        USING new_version, new_updated_at, NEW.id;
      PERFORM pg_catalog.set_config('projectapp.second_update_of', '', true);
    END IF;
    IF pg_catalog.int4eq(new_version, OLD.version) THEN
      RETURN NULL;
    END IF;
  END IF;
  INSERT INTO {schema}.changes (xid, at, row_id, version, created_at, old_updated_at, resource,
    operation, owner, old_owner, caller, credential, request_id, old_values)
  VALUES (pg_catalog.pg_current_xact_id(), changed_at, OLD.id, new_version, OLD.created_at,
    OLD.updated_at, TG_TABLE_NAME,
    CASE WHEN NEW IS NULL THEN 'delete' WHEN is_restore THEN 'restore' ELSE 'update' END,
    CASE WHEN NEW IS NULL THEN OLD.owner ELSE NEW.owner END, OLD.owner,
    source[1], coalesce(source[2], pg_catalog.concat('role ', session_user)), source[3],
    old_values);
  RETURN NULL;
END
$function$
  $create$, '{schema}', quote_ident(current_schema()));
END
$do$
"""

REFUSE_TRUNCATE = """
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'TRUNCATE would leave no history of the rows of %. Use DELETE.', TG_TABLE_NAME
    USING ERRCODE = 'restrict_violation';
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

# Call it again after a generated column was added: the triggers then omit the column. If a trigger
# did not exist or was disabled, changes are missing, so the history starts again. The new
# `restored_seq` ends all cursors of the change feed.
KEEP_HISTORY = """
CREATE FUNCTION keep_history(name_of_table text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
  table_id CONSTANT regclass := quote_ident(name_of_table)::regclass;
  -- What old_values does not have: columns of `changes`, and columns that PostgreSQL computes.
  omitted CONSTANT text := (SELECT string_agg(quote_literal(attname), ', ') FROM pg_attribute
    WHERE attrelid = table_id AND NOT attisdropped AND (attgenerated <> ''
      OR attname IN ('id', 'version', 'created_at', 'updated_at', 'owner')));
  is_complete boolean;
  event text;
BEGIN
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', table_id);
  is_complete := (SELECT count(*) = 4 FROM pg_trigger
    WHERE tgrelid = table_id AND tgname ~ '^history_' AND tgenabled IN ('O', 'A'));
  FOREACH event IN ARRAY ARRAY[
    'AFTER INSERT ON %1$s FOR EACH ROW EXECUTE FUNCTION record_change()',
    'AFTER UPDATE ON %1$s FOR EACH ROW'
      ' WHEN (NEW.version = OLD.version + 1 OR OLD.* *<> NEW.*)'
      ' EXECUTE FUNCTION record_change(%2$s)',
    'AFTER DELETE ON %1$s FOR EACH ROW EXECUTE FUNCTION record_change(%2$s)',
    'BEFORE TRUNCATE ON %1$s EXECUTE FUNCTION refuse_truncate()'
  ] LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER history_%3$s ' || event, table_id, omitted,
      lower(replace(substring(event FROM '^\\w+ \\w+'), ' ', '_')));
  END LOOP;
  EXECUTE format('ALTER TABLE %s ENABLE TRIGGER history_after_insert,'
    ' ENABLE TRIGGER history_after_update, ENABLE TRIGGER history_after_delete,'
    ' ENABLE TRIGGER history_before_truncate', table_id);
  INSERT INTO histories AS h (resource, starts_at, database_id)
  VALUES (name_of_table, clock_timestamp(), history_database_id())
  ON CONFLICT (resource) DO UPDATE SET starts_at = EXCLUDED.starts_at,
    restored_seq = nextval(pg_get_serial_sequence('changes', 'seq'))
  WHERE NOT is_complete;
END
$function$
"""

END_HISTORY = """
CREATE FUNCTION end_history(name_of_table text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  table_id CONSTANT regclass := to_regclass(quote_ident(name_of_table));
  name_of_trigger name;
BEGIN
  FOR name_of_trigger IN SELECT tgname FROM pg_trigger
    WHERE tgrelid = table_id AND tgname ~ '^history_'
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', name_of_trigger, table_id);
  END LOOP;
  DELETE FROM changes WHERE resource = name_of_table;
  DELETE FROM histories WHERE resource = name_of_table;
END
$$
"""

# The default privileges of docs/roles.md give every role that serves the right to write to each new
# table and to execute each new function. A role that may execute record_change() could make it the
# trigger of a table of its own, and so write changes that did not happen.
PROTECT = """
DO $$
DECLARE
  privilege text;
BEGIN
  FOR privilege IN
    SELECT DISTINCT format('%s FROM %s', object,
      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
    FROM (
      SELECT 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON ' || oid::regclass AS object,
        relowner AS owner, relacl AS acl
      FROM pg_class WHERE oid IN ('changes'::regclass, 'histories'::regclass)
      UNION ALL
      SELECT 'EXECUTE ON FUNCTION ' || oid::regprocedure, proowner,
        coalesce(proacl, acldefault('f', proowner))
      FROM pg_proc WHERE oid IN ('record_change'::regproc, 'keep_history'::regproc,
        'end_history'::regproc)
    ) AS objects, aclexplode(acl) WHERE grantee <> owner
  LOOP
    EXECUTE 'REVOKE ' || privilege;
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
        *(RECORD_CHANGE, REFUSE_TRUNCATE, DATABASE_ID, KEEP_HISTORY, END_HISTORY),
        *(LOCK_NEWEST_CHANGE, PROTECT, "SELECT keep_history('projects')"),
    ):
        op.execute(statement)


def downgrade() -> None:
    for function in (
        *("keep_history(text)", "end_history(text)", "history_database_id()"),
        *("record_change()", "refuse_truncate()"),
    ):
        op.execute(f"DROP FUNCTION {function} CASCADE")  # with its triggers
    op.execute("DROP FUNCTION lock_newest_change(text, uuid)")
    op.drop_table("histories")
    op.drop_table("changes")
