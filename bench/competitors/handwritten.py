"""The same API by hand: Flask and psycopg2, one statement for a request, JSON by PostgreSQL.

With the environment variable PREPARE, each connection prepares its statements.
"""

import hashlib
import os
import re
import secrets
import time
from typing import Any
from uuid import UUID

from flask import Flask, Response, abort, request
from psycopg2.extras import Json
from psycopg2.pool import ThreadedConnectionPool

PROJECTS = "/api/v1/projects"
PROJECT = """
json_build_object('id', id, 'name', name, 'description', description, 'is_active', is_active,
  'attributes', attributes, 'version', version,
  'created_at', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  'updated_at', to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  'owner', owner)
"""
SELECT = f"SELECT version, {PROJECT}::text FROM projects WHERE id = %s"  # noqa: S608 - constants
LIST = f"""
SELECT json_build_object(
  'items', (
    SELECT coalesce(json_agg({PROJECT}), '[]') FROM (
      SELECT * FROM projects WHERE {{where}}
      ORDER BY created_at DESC, id DESC LIMIT %(size)s::int OFFSET %(skipped)s
    ) AS page),
  'total', (SELECT count(*) FROM projects WHERE {{where}}),
  'page', %(page)s::int, 'page_size', %(size)s::int)::text
"""  # noqa: S608 - constants
INSERT = f"""
INSERT INTO projects (id, name, description, is_active, attributes)
VALUES (%(id)s, %(name)s, %(description)s, %(is_active)s, %(attributes)s)
RETURNING version, {PROJECT}::text
"""  # noqa: S608 - constants
INSERT_WITH_KEY = f"""
WITH new AS (
  SELECT %(id)s::uuid AS id, %(name)s AS name, %(description)s AS description,
    %(is_active)s::boolean AS is_active, %(attributes)s::jsonb AS attributes, 1 AS version,
    now() AS created_at, now() AS updated_at, NULL::text AS owner
), claimed AS (
  INSERT INTO idempotency_keys (scope, key, fingerprint, created_at, id, version, body)
  SELECT '', %(key)s, %(fingerprint)s, created_at, id, version, {PROJECT}::text FROM new
  ON CONFLICT DO NOTHING RETURNING id, body
), inserted AS (
  INSERT INTO projects (id, name, description, is_active, attributes)
  SELECT id, name, description, is_active, attributes FROM new JOIN claimed USING (id)
)
SELECT id, body, %(fingerprint)s::bytea FROM claimed
"""  # noqa: S608 - constants
SELECT_KEY = "SELECT id, body, fingerprint FROM idempotency_keys WHERE scope = '' AND key = %(key)s"
RULES = {
    "name": lambda value: isinstance(value, str) and 1 <= len(value) <= 200,
    "description": lambda value: value is None or (isinstance(value, str) and len(value) <= 1000),
    "is_active": lambda value: isinstance(value, bool),
    "attributes": lambda value: isinstance(value, dict),
}
DEFAULTS = {"name": None, "description": None, "is_active": True, "attributes": {}}

PREPARE = "PREPARE" in os.environ

app = Flask(__name__)
pool = ThreadedConnectionPool(4, 4, os.environ["DATABASE_URL"])  # it keeps the minimum open
prepared: dict[Any, dict[str, str]] = {}  # by connection and statement


def fetch_one(statement: str, values: Any) -> Any:
    connection = pool.getconn()
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            if PREPARE:
                statement = prepare(cursor, statement)
            cursor.execute(statement, values)
            return cursor.fetchone()
    finally:
        pool.putconn(connection)


def prepare(cursor: Any, statement: str) -> str:
    """Prepare the statement if its connection has not; return the EXECUTE for the same values."""
    names = prepared.setdefault(cursor.connection, {})
    if statement not in names:
        parameters = [*dict.fromkeys(re.findall(r"%\(\w+\)s|%s", statement))]
        numbers = {parameter: f"${n}" for n, parameter in enumerate(parameters, 1)}
        sql = re.sub(r"%\(\w+\)s|%s", lambda match: numbers[match[0]], statement)
        name = f"statement_{len(names)}"
        cursor.execute(f"PREPARE {name} AS {sql}")
        names[statement] = f"EXECUTE {name} ({', '.join(parameters)})"
    return names[statement]


def uuid7() -> str:
    bits = secrets.randbits(74)
    high = time.time_ns() // 1_000_000 << 16 | 7 << 12 | bits >> 62
    return str(UUID(int=high << 64 | 2 << 62 | bits & (1 << 62) - 1))


def make_response(body: str, version: int, status: int = 200, **headers: str) -> Response:
    headers["ETag"] = f'"{version}"'
    return Response(body, status, headers, mimetype="application/json")


def validate_body(defaults: dict[str, Any]) -> dict[str, Any]:
    body = request.get_json()
    if not isinstance(body, dict) or not body.keys() <= RULES.keys():
        abort(400)
    values = {**defaults, **body}
    if not all(RULES[name](value) for name, value in values.items()):
        abort(400)
    return {name: Json(v) if name == "attributes" else v for name, v in values.items()}


@app.get(PROJECTS)
def list_projects() -> Response:
    page = request.args.get("page", 1, int)
    size = request.args.get("page_size", 10, int)
    if page < 1 or not 1 <= size <= 100:
        abort(400)
    values = {"page": page, "size": size, "skipped": (page - 1) * size}
    where = ["true"]
    if "is_active" in request.args:
        where.append("is_active = %(is_active)s")
        values["is_active"] = request.args["is_active"] == "true"
    if "q" in request.args:
        where.append("(name ILIKE %(like)s OR description ILIKE %(like)s)")
        values["like"] = "%" + re.sub(r"([\\%_])", r"\\\1", request.args["q"]) + "%"
    [body] = fetch_one(LIST.format(where=" AND ".join(where)), values)
    return Response(body, mimetype="application/json")


@app.post(PROJECTS)
def create_project() -> Response:
    values = validate_body(DEFAULTS) | {"id": uuid7()}
    if key := request.headers.get("Idempotency-Key"):
        fingerprint = hashlib.sha256(request.get_data()).digest()
        values |= {"key": key, "fingerprint": fingerprint}
        row = fetch_one(INSERT_WITH_KEY, values) or fetch_one(SELECT_KEY, values)
        project_id, text, stored_fingerprint = row
        if bytes(stored_fingerprint) != fingerprint:
            abort(422)
        return make_response(text, 1, 201, Location=f"{PROJECTS}/{project_id}")
    version, text = fetch_one(INSERT, values)
    return make_response(text, version, 201, Location=f"{PROJECTS}/{values['id']}")


@app.get(f"{PROJECTS}/<uuid:project_id>")
def get_project(project_id: UUID) -> Response:
    row = fetch_one(SELECT, [str(project_id)])
    if not row:
        abort(404)
    return make_response(row[1], row[0])


@app.patch(f"{PROJECTS}/<uuid:project_id>")
def patch_project(project_id: UUID) -> Response:
    values = validate_body({})
    if_match = request.headers.get("If-Match")
    sets = "".join(f"{name} = %({name})s, " for name in values)
    row = fetch_one(
        f"UPDATE projects SET {sets} version = version + 1, updated_at = now()"  # noqa: S608 - RULES
        " WHERE id = %(id)s AND (%(etag)s::text IS NULL OR '\"' || version || '\"' = %(etag)s)"
        f" RETURNING version, {PROJECT}::text",
        {**values, "id": str(project_id), "etag": if_match},
    )
    if not row:
        abort(412 if fetch_one(SELECT, [str(project_id)]) else 404)
    return make_response(row[1], row[0])
