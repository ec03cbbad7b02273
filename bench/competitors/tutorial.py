"""The same API as in tutorials: Flask-SQLAlchemy, marshmallow and jsonify."""

import hashlib
import json
import os
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from flask import Flask, Response, abort, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, ValidationError, fields
from marshmallow.validate import Length
from sqlalchemy import DateTime, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

PROJECTS = "/api/v1/projects"


class Base(DeclarativeBase):
    pass


app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = make_url(os.environ["DATABASE_URL"]).set(
    drivername="postgresql+psycopg2"
)
db = SQLAlchemy(app, model_class=Base)


class Project(db.Model):
    __tablename__ = "projects"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    description: Mapped[str | None]
    is_active: Mapped[bool]
    attributes: Mapped[dict[str, Any]] = mapped_column(JSONB)
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    owner: Mapped[str | None]

    __mapper_args__ = {"version_id_col": version}


class IdempotencyKey(db.Model):
    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    id: Mapped[UUID]
    version: Mapped[int]
    body: Mapped[str]


class Timestamp(fields.Field):
    def _serialize(self, value: datetime, *_: Any, **__: Any) -> str:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class ProjectSchema(Schema):
    id = fields.UUID(dump_only=True)
    name = fields.String(required=True, validate=Length(1, 200))
    description = fields.String(load_default=None, allow_none=True, validate=Length(max=1000))
    is_active = fields.Boolean(load_default=True, truthy={True}, falsy={False})
    attributes = fields.Dict(load_default=dict)
    version = fields.Integer(dump_only=True)
    created_at = Timestamp(dump_only=True)
    updated_at = Timestamp(dump_only=True)
    owner = fields.String(dump_only=True)


schema = ProjectSchema()


def make_response(body: dict[str, Any], status: int = 200) -> Response:
    response = jsonify(body)
    response.status_code = status
    response.headers["ETag"] = f'"{body["version"]}"'
    if status == 201:
        response.headers["Location"] = f"{PROJECTS}/{body['id']}"
    return response


@app.errorhandler(ValidationError)
def handle_validation_error(error: ValidationError) -> tuple[Any, int]:
    return error.messages, 400


@app.errorhandler(StaleDataError)
def handle_stale_data(error: StaleDataError) -> tuple[Any, int]:
    return {"error": "The project has changed."}, 412


@app.get(PROJECTS)
def list_projects() -> Response:
    query = select(Project).order_by(Project.created_at.desc(), Project.id.desc())
    if "is_active" in request.args:
        query = query.where(Project.is_active == (request.args["is_active"] == "true"))
    if q := request.args.get("q"):
        matches = (
            column.icontains(q, autoescape=True) for column in (Project.name, Project.description)
        )
        query = query.where(db.or_(*matches))
    size = request.args.get("page_size", 10, type=int)
    page = db.paginate(query, per_page=size, max_per_page=100, error_out=False)
    items = schema.dump(page.items, many=True)
    return jsonify(items=items, total=page.total, page=page.page, page_size=page.per_page)


@app.post(PROJECTS)
def create_project() -> Response:
    project = Project(**schema.load(request.get_json()))
    db.session.add(project)
    key = request.headers.get("Idempotency-Key")
    if key is None:
        db.session.commit()
        return make_response(schema.dump(project), 201)
    db.session.flush()
    body = schema.dump(project)
    new_key = {
        "scope": "",
        "key": key,
        "fingerprint": hashlib.sha256(request.get_data()).digest(),
        "created_at": project.created_at,
        "id": project.id,
        "version": project.version,
        "body": json.dumps(body),
    }
    statement = insert(IdempotencyKey).values(new_key).on_conflict_do_nothing()
    if db.session.scalar(statement.returning(IdempotencyKey.key)):
        db.session.commit()
        return make_response(body, 201)
    db.session.rollback()
    stored = db.session.get_one(IdempotencyKey, ("", key))
    if stored.fingerprint != new_key["fingerprint"]:
        abort(422)
    return make_response(json.loads(stored.body), 201)


@app.get(f"{PROJECTS}/<uuid:project_id>")
def get_project(project_id: UUID) -> Response:
    return make_response(schema.dump(db.get_or_404(Project, project_id)))


@app.patch(f"{PROJECTS}/<uuid:project_id>")
def patch_project(project_id: UUID) -> Response:
    values = schema.load(request.get_json(), partial=True)
    project = db.get_or_404(Project, project_id)
    if request.headers.get("If-Match", f'"{project.version}"') != f'"{project.version}"':
        abort(412)
    for name, value in values.items():
        setattr(project, name, value)
    db.session.commit()
    return make_response(schema.dump(project))
