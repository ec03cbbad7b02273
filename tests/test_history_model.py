"""Random sequences of operations: the history equals a model that remembers every state."""

import json
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import PROJECTS

DEFAULTS = {"description": None, "is_active": True, "attributes": {}, "owner": None}
# Few values, so that some operations change nothing and some states return.
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "번역"]),
        "description": st.sampled_from([None, "", "x"]),
        "is_active": st.booleans(),
        "attributes": st.sampled_from([{}, {"n": 1}, {"n": 1.0}, {"a": {"b": [None]}}]),
    },
)
BY_HAND = VALUES.flatmap(
    lambda values: st.sampled_from([values, {**values, "owner": "ann"}, {**values, "owner": None}])
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), VALUES),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("restore"), st.one_of(st.none(), st.integers(1, 8))),
    st.tuples(st.just("update by hand"), BY_HAND),
    st.tuples(st.just("two updates in a transaction"), st.tuples(BY_HAND, BY_HAND)),
    st.tuples(st.just("rolled back update"), BY_HAND),
    st.tuples(st.just("delete by hand"), st.none()),
    st.tuples(st.just("insert by hand"), BY_HAND),
)
UPDATE = """
UPDATE projects AS p SET name = n.name, description = n.description, is_active = n.is_active,
  attributes = n.attributes, owner = n.owner
FROM jsonb_populate_record((SELECT old FROM projects AS old WHERE id = %s), %s) AS n
WHERE p.id = n.id
"""
INSERT = """
INSERT INTO projects (id, name, description, is_active, attributes, owner)
SELECT id, name, description, is_active, attributes, owner
FROM jsonb_populate_record(NULL::projects, %s) ON CONFLICT DO NOTHING
"""
NOW = """
SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
"""


class Model:
    """The changes of one project: operation, version, changed fields, and the state after it."""

    def __init__(self, project_id):
        self.project_id = project_id
        self.changes = []

    @property
    def state(self):
        return self.changes[-1][3] if self.changes else None

    def create(self, values, operation, version):
        state = {"id": self.project_id, "name": "new", **DEFAULTS, **values, "version": version}
        self.changes.append((operation, version, [], state))

    def update(self, values, operation="update"):
        old = self.state
        changed = [name for name in old if name in values and differs(values[name], old[name])]
        if old and changed:
            version = old["version"] + 1
            state = {**old, **values, "version": version}
            self.changes.append((operation, version, changed, state))

    def delete(self):
        if self.state:
            self.changes.append(("delete", self.state["version"] + 1, [], None))

    def restore(self, version):
        """Return whether there is such a version."""
        states = [state for *_, state in self.changes if state]
        if version is not None and not (self.state and self.state["version"] == version):
            states = [state for state in states if state["version"] == version]
        if not states:
            return False
        values = {name: states[-1][name] for name in DEFAULTS.keys() - {"owner"} | {"name"}}
        if version is not None and self.state and self.state["version"] == version:
            return True
        if self.state:
            self.update(values if version is not None else {}, "restore")
        else:
            last_owner = [state for *_, state in self.changes if state][-1]["owner"]
            delete = self.changes[-1][1]
            self.create({**values, "owner": last_owner}, "restore", delete + 1)
        return True


def differs(new, old):
    """1 and 1.0 are equal in Python, but differ in JSON."""
    return json.dumps(new) != json.dumps(old)


def execute(client, sql, model, operation, argument):
    path = f"{PROJECTS}/{model.project_id}"
    exists = model.state is not None
    if operation == "put":
        response = client.put(path, json=argument)
        assert response.status_code == (200 if exists else 404)
        if exists:
            model.update(argument)
    elif operation == "delete":
        assert client.delete(path).status_code == (204 if exists else 404)
        model.delete()
    elif operation == "restore":
        body = {} if argument is None else {"version": argument}
        response = client.post(f"{path}/restore", json=body)
        assert response.status_code == (200 if model.restore(argument) else 404), response.text
        if response.status_code == 200:
            assert response.json.items() >= model.state.items()
    elif operation == "delete by hand":
        sql("DELETE FROM projects WHERE id = %s", model.project_id)
        model.delete()
    elif operation == "insert by hand":
        values = {"id": model.project_id, "name": "new", **DEFAULTS, **argument}
        sql(INSERT, json.dumps(values))
        if not exists:
            model.create(argument, "create", 1)
    elif operation == "rolled back update":
        sql("BEGIN")
        sql(UPDATE, model.project_id, json.dumps(argument))
        sql("ROLLBACK")
    else:
        updates = [argument] if operation == "update by hand" else argument
        sql("BEGIN")
        for values in updates:
            sql(UPDATE, model.project_id, json.dumps(values))
            if exists:
                model.update(values)
        sql("COMMIT")


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(operations=st.lists(OPERATIONS, min_size=1, max_size=14))
def test_history_and_as_of_equal_a_model_after_random_operations(client, sql, operations):
    model = Model(str(uuid4()))
    path = f"{PROJECTS}/{model.project_id}"
    sql(INSERT, json.dumps({"id": model.project_id, "name": "new", **DEFAULTS}))
    model.create({}, "create", 1)
    states = []  # at the times between the operations
    for operation, argument in operations:
        execute(client, sql, model, operation, argument)
        response = client.get(path)
        assert response.status_code == (200 if model.state else 404)
        if model.state:
            assert response.json.items() >= model.state.items()
        states.append((sql(NOW)[0][0], response))
    for time, state in states:
        response = client.get(f"{path}?as_of={time}")
        assert response.status_code == state.status_code
        if state.status_code == 200:
            assert (response.text, response.headers["ETag"]) == (state.text, state.headers["ETag"])
    items = client.get(f"{path}/history?page_size=100").json["items"]
    assert len(items) == len(model.changes)
    for item, (operation, version, changed, state) in zip(
        reversed(items), model.changes, strict=True
    ):
        assert (item["operation"], item["version"]) == (operation, version)
        assert sorted(item["changed"]) == sorted(changed)
        project = item["project"]
        expected = project and {**project, **state}
        assert json.dumps(project) == json.dumps(expected)
        assert (project is None) == (state is None)
