"""The triggers of migration 0014 record every change, by every role and every statement."""

import gc
import uuid

import psycopg2
import pytest
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from psycopg2.errors import RestrictViolation

from projectapp.database import db
from projectapp.resources.history_migrations import find_incomplete_histories
from projectapp.resources.models import ResourceColumns, resource_constraints
from tests.conftest import PROJECTS, parameters_of

INSERT = "INSERT INTO projects (id, name, description, owner) VALUES (%s, 'A', 'ab', 'alice')"
COLUMNS = "operation, version, owner, old_owner, caller, credential, request_id, old_values"


@pytest.fixture
def row_id(sql):
    row_id = str(uuid.uuid4())
    sql(INSERT, row_id)
    return row_id


def changes_of(sql, row_id):
    return sql(f"SELECT {COLUMNS} FROM changes WHERE row_id = %s ORDER BY seq", row_id)  # noqa: S608


def test_changes_by_hand_are_recorded_with_the_row_before(sql, row_id):
    [(user,)] = sql("SELECT session_user")
    [before] = sql("SELECT created_at, updated_at FROM projects")
    sql("UPDATE projects SET name = 'B', owner = 'bob'")
    [(version, updated_at)] = sql("SELECT version, updated_at FROM projects")
    assert (version, updated_at > before[1]) == (2, True)
    sql("DELETE FROM projects")
    values = {"name": "A", "description": "ab", "is_active": True, "attributes": {}}
    source = (None, f"role {user}", None)
    assert changes_of(sql, row_id) == [
        ("create", 1, "alice", None, *source, None),
        ("update", 2, "bob", "alice", *source, values),
        ("delete", 3, "bob", "bob", *source, {**values, "name": "B"}),
    ]
    times = sql(
        "SELECT created_at, old_updated_at, at >= coalesce(old_updated_at, at) FROM changes"
    )
    assert sorted(times, key=str) == sorted(
        [(None, None, True), (*before, True), (before[0], updated_at, True)], key=str
    )


@pytest.mark.parametrize(
    ("assignment", "version"),
    [
        ("name = name", 1),
        ("version = 9", 1),
        ("version = 1", 1),
        ("name = 'B', version = 9", 2),
        ("attributes = '{\"a\": 1.0}'", 2),
        ("updated_at = '2026-01-01'", 2),
        ("name = 'B', version = version + 1", 2),
    ],
)
def test_version_rises_by_1_if_and_only_if_an_update_changes_a_value(
    sql, row_id, assignment, version
):
    sql("UPDATE projects SET attributes = '{\"a\": 1}', version = 2")
    sql(f"UPDATE projects SET {assignment}")  # noqa: S608
    assert sql("SELECT version FROM projects") == [(version + 1,)]
    assert [change[1] for change in changes_of(sql, row_id)] == [*range(1, version + 2)]


def test_update_of_an_id_is_refused(sql, row_id):
    with pytest.raises(RestrictViolation, match="The id of a row cannot change"):
        sql("UPDATE projects SET id = gen_random_uuid()")
    assert len(changes_of(sql, row_id)) == 1


@pytest.fixture
def families(sql):
    """Two tables, one of which needs quotes. Deleting a row of the first deletes its children."""
    columns = (
        "id uuid PRIMARY KEY, version integer NOT NULL DEFAULT 1, owner text,"
        " created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()"
    )
    sql(f"CREATE TABLE parents ({columns})")
    sql(
        f"""CREATE TABLE "Child's ""table" ({columns}, "a'b" integer DEFAULT 1,
        parent uuid REFERENCES parents ON DELETE CASCADE)"""
    )
    sql("SELECT keep_history(name) FROM unnest(ARRAY['parents', 'Child''s \"table']) AS name")
    yield
    sql("SELECT end_history(name) FROM unnest(ARRAY['parents', 'Child''s \"table']) AS name")
    assert sql("SELECT count(*) FROM changes") == [(0,)]
    assert sql("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^history_'") == [(4,)]
    sql("""DROP TABLE parents, "Child's ""table" """)


def test_deletion_of_a_parent_also_records_its_children(sql, families):
    parent, child = (str(uuid.uuid4()) for _ in range(2))
    sql("INSERT INTO parents (id) VALUES (%s)", parent)
    sql("""INSERT INTO "Child's ""table" (id, parent) VALUES (%s, %s)""", child, parent)
    sql("DELETE FROM parents")
    assert sql(
        "SELECT resource, operation, version, old_values FROM changes ORDER BY seq OFFSET 2"
    ) == [
        ("parents", "delete", 2, {}),
        ("Child's \"table", "delete", 2, {"a'b": 1, "parent": parent}),
    ]


def test_truncate_is_refused_also_from_a_parent(sql, families):
    for statement in ("TRUNCATE projects", 'TRUNCATE "Child\'s ""table"'):
        with pytest.raises(RestrictViolation, match="TRUNCATE would leave no history"):
            sql(statement)
    sql("ALTER TABLE parents DISABLE TRIGGER USER")
    with pytest.raises(RestrictViolation, match="no history of the rows of Child's"):
        sql("TRUNCATE parents CASCADE")


def test_source_of_a_change_is_of_its_transaction_only(sql, row_id):
    sql(
        "SELECT set_config('projectapp.change', E'alice\\nCI\\nr-1\\nrestore', true);"
        "UPDATE projects SET name = 'B'"
    )
    sql("UPDATE projects SET name = 'C'")
    sql(
        "SELECT set_config('projectapp.change', E'alice\\nCI\\n\\n', true);"
        "UPDATE projects SET name = 'D'"
    )
    [(user,)] = sql("SELECT session_user")
    assert [(c[0], *c[4:7]) for c in changes_of(sql, row_id)[1:]] == [
        ("restore", "alice", "CI", "r-1"),
        ("update", None, f"role {user}", None),
        ("update", "alice", "CI", None),
    ]


def test_search_path_of_the_caller_has_no_effect_on_what_is_recorded(sql, direct_url, families):
    """The trigger has the rights of the owner, so it must not use what a caller has made."""
    parent = str(uuid.uuid4())
    sql("INSERT INTO parents (id) VALUES (%s)", parent)
    sql("CREATE SCHEMA mine")
    connection = psycopg2.connect(**parameters_of(direct_url))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in (
                "CREATE TABLE mine.changes (LIKE changes)",
                "CREATE DOMAIN mine.text AS integer",
                *(
                    f"CREATE FUNCTION mine.{name} RETURNS {type_} LANGUAGE plpgsql AS"
                    " $$ BEGIN RAISE 'called'; END $$"
                    for name, type_ in (
                        (
                            "string_to_array(pg_catalog.text, pg_catalog.text, pg_catalog.text)",
                            "pg_catalog.text[]",
                        ),
                        ("array_position(pg_catalog.text[], pg_catalog.text)", "integer"),
                        ("clock_timestamp()", "timestamptz"),
                        ("pg_current_xact_id()", "xid8"),
                        ("to_jsonb(parents)", "jsonb"),
                        ("concat(pg_catalog.text, name)", "pg_catalog.text"),
                        ("minus(jsonb, pg_catalog.text[])", "jsonb"),
                        ("plus(integer, integer)", "integer"),
                        ("join_texts(pg_catalog.text, name)", "pg_catalog.text"),
                    )
                ),
                "CREATE OPERATOR mine.- (FUNCTION = mine.minus, LEFTARG = jsonb,"
                " RIGHTARG = pg_catalog.text[])",
                "CREATE FUNCTION mine.equals(pg_catalog.text, pg_catalog.text) RETURNS boolean"
                " LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$",
                "CREATE OPERATOR mine.= (FUNCTION = mine.equals, LEFTARG = pg_catalog.text,"
                " RIGHTARG = pg_catalog.text)",
                "CREATE OPERATOR mine.+ (FUNCTION = mine.plus, LEFTARG = integer,"
                " RIGHTARG = integer)",
                "CREATE OPERATOR mine.|| (FUNCTION = mine.join_texts, LEFTARG = pg_catalog.text,"
                " RIGHTARG = name)",
                "SET search_path = mine, pg_catalog",
                # These raise the version themselves, so that only record_change() runs.
                "UPDATE public.parents SET owner = 'B', version = version OPERATOR(pg_catalog.+) 1",
                "DELETE FROM public.parents",
            ):
                cursor.execute(statement)
    finally:
        connection.close()
        sql("DROP SCHEMA mine CASCADE")
    assert [change[:2] for change in changes_of(sql, parent)] == [
        ("create", 1),
        ("update", 2),
        ("delete", 3),
    ]


def test_no_row_trigger_runs_before_an_update(sql):
    """With one, PostgreSQL would compute the search columns of a row at each update."""
    assert sql("SELECT tgname FROM pg_trigger WHERE tgtype & 3 = 3 AND NOT tgisinternal") == []


def test_a_column_that_is_added_later_is_recorded(sql, row_id):
    sql("ALTER TABLE projects ADD colour text DEFAULT 'red'")
    try:
        sql("UPDATE projects SET colour = 'blue'")
    finally:
        sql("ALTER TABLE projects DROP colour")
    assert changes_of(sql, row_id)[1][-1]["colour"] == "red"


def test_history_starts_again_only_if_triggers_were_missing(sql, row_id):
    [before] = sql("SELECT starts_at, restored_seq FROM histories")
    sql("SELECT keep_history('projects')")
    assert sql("SELECT starts_at, restored_seq FROM histories") == [before]
    sql("ALTER TABLE projects DISABLE TRIGGER history_after_update")
    sql("UPDATE projects SET name = 'B'")
    sql("SELECT keep_history('projects')")
    assert sql(
        "SELECT starts_at > %s, restored_seq > (SELECT max(seq) FROM changes) FROM histories",
        before[0],
    ) == [(True, True)]
    sql("UPDATE projects SET name = 'C'")
    assert [change[1] for change in changes_of(sql, row_id)] == [1, 2]
    sql("UPDATE histories SET restored_seq = 0")


def test_api_changes_have_the_same_form(sql, client, make_project):
    project = make_project(description="ab")
    client.patch(f"{PROJECTS}/{project['id']}", json={"name": "B"})
    client.patch(f"{PROJECTS}/{project['id']}", json={"name": "B"})
    client.delete(f"{PROJECTS}/{project['id']}")
    assert [(c[0], c[1]) for c in changes_of(sql, project["id"])] == [
        ("create", 1),
        ("update", 2),
        ("delete", 3),
    ]


@pytest.fixture
def compare(app, direct_url):
    """Return a function that returns what `flask db migrate` would write: upgrade, downgrade."""
    engine = sa.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(**parameters_of(direct_url)),
        poolclass=sa.NullPool,
    )

    def run():
        with engine.connect() as connection:
            context = MigrationContext.configure(connection)
            script = produce_migrations(context, db.metadata)
            containers = (script.upgrade_ops, script.downgrade_ops)
            is_kept = KEEP in str([getattr(op, "sqltext", "") for op in script.upgrade_ops.ops])
            assert is_kept == (find_incomplete_histories(connection) == ["scratch"])
            return [
                [getattr(op, "sqltext", type(op).__name__) for op in container.ops]
                for container in containers
            ]

    return run


@pytest.fixture
def scratch(sql):
    """A new resource. Its model does not exist after the test."""
    models = [
        type(
            "Scratch",
            (ResourceColumns, db.Model),
            {
                "__tablename__": "scratch",
                "__table_args__": (*resource_constraints("scratch", ("created_at",)),),
            },
        )
    ]
    table = models[0].__table__
    yield table
    sql("DROP TABLE IF EXISTS scratch")
    db.metadata.remove(table)
    models.clear()
    gc.collect()
    assert "Scratch" not in {mapper.class_.__name__ for mapper in db.Model.registry.mappers}


KEEP, END = (f"SELECT {name}_history('scratch')" for name in ("keep", "end"))


def test_migrate_writes_the_calls_for_a_new_resource(compare, scratch):
    upgrade, downgrade = compare()
    assert (upgrade[0], upgrade[-1]) == ("CreateTableOp", KEEP)
    assert (downgrade[0], downgrade[-1]) == (END, "DropTableOp")


def test_check_reports_missing_disabled_and_outdated_triggers(sql, compare, scratch):
    dialect = sa.dialects.postgresql.dialect()
    for ddl in (sa.schema.CreateTable(scratch), *map(sa.schema.CreateIndex, scratch.indexes)):
        sql(str(ddl.compile(dialect=dialect)))
    assert compare() == [[KEEP], [END]]
    sql(KEEP)
    assert compare() == [[], []]
    sql("ALTER TABLE scratch DISABLE TRIGGER history_after_delete")
    assert compare() == [[KEEP], [KEEP]]
    sql(KEEP)
    assert compare() == [[], []]
    scratch.append_column(sa.Column("size", sa.Integer, sa.Computed("1", persisted=True)))
    sql("ALTER TABLE scratch ADD size integer GENERATED ALWAYS AS (1) STORED")
    assert compare() == [[KEEP], [KEEP]]
    sql(KEEP)
    assert compare() == [[], []]
    sql(END)


def test_migrate_writes_the_calls_for_a_removed_resource(sql, compare):
    assert compare() == [[], []]
    sql("CREATE TABLE scratch (id uuid, version integer)")
    try:
        sql(KEEP)
        upgrade, downgrade = compare()
        assert upgrade == [END, "DropTableOp"]
        assert downgrade == ["CreateTableOp", KEEP]
    finally:
        sql(END)
        sql("DROP TABLE scratch")
