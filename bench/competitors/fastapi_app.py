"""The same API with FastAPI, SQLAlchemy's async ORM, asyncpg and pydantic."""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StrictBool
from sqlalchemy import DateTime, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

PROJECTS = "/api/v1/projects"


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True), dict[str, Any]: JSONB}


class Project(Base):
    __tablename__ = "projects"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    description: Mapped[str | None]
    is_active: Mapped[bool]
    attributes: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column()
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=lambda: datetime.now(UTC)
    )
    owner: Mapped[str | None]

    __mapper_args__ = {"version_id_col": version}


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    created_at: Mapped[datetime]
    id: Mapped[UUID]
    version: Mapped[int]
    body: Mapped[str]


def rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Name = Annotated[str, Field(min_length=1, max_length=200)]
Timestamp = Annotated[datetime, PlainSerializer(rfc3339, return_type=str)]


class NewProject(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Annotated[str, Field(max_length=1000)] | None = None
    is_active: StrictBool = True
    attributes: dict[str, Any] = {}


class ProjectChange(NewProject):
    name: Name = ""


class ProjectOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str | None
    is_active: bool
    attributes: dict[str, Any]
    version: int
    created_at: Timestamp
    updated_at: Timestamp
    owner: str | None


class ProjectPage(BaseModel):
    items: list[ProjectOut]
    total: int
    page: int
    page_size: int


engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    pool_size=4,
    max_overflow=0,
)
make_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


async def open_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


@app.exception_handler(RequestValidationError)
async def handle_validation_error(request: Request, error: RequestValidationError) -> Response:
    return JSONResponse({"detail": str(error)}, 400)


@app.exception_handler(StaleDataError)
async def handle_stale_data(request: Request, error: StaleDataError) -> Response:
    return JSONResponse({"detail": "The project has changed."}, 412)


async def get_or_404(session: AsyncSession, project_id: UUID) -> Project:
    project = await session.get(Project, project_id)
    if project is None:
        raise HTTPException(404)
    return project


@app.get(PROJECTS, response_model=ProjectPage)
async def list_projects(
    session: Session,
    page: Annotated[int, Query(ge=1)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 10,
    is_active: bool | None = None,
    q: str | None = None,
) -> Any:
    conditions = []
    if is_active is not None:
        conditions.append(Project.is_active == is_active)
    if q:
        columns = (Project.name, Project.description)
        conditions.append(or_(*(column.icontains(q, autoescape=True) for column in columns)))
    total = await session.scalar(select(func.count()).select_from(Project).where(*conditions))
    items = await session.scalars(
        select(Project)
        .where(*conditions)
        .order_by(Project.created_at.desc(), Project.id.desc())
        .limit(page_size)
        .offset((page - 1) * page_size)
    )
    return {"items": items.all(), "total": total, "page": page, "page_size": page_size}


@app.post(PROJECTS, response_model=ProjectOut, status_code=201)
async def create_project(
    new: NewProject,
    request: Request,
    response: Response,
    session: Session,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Any:
    project = Project(**new.model_dump())
    session.add(project)
    if idempotency_key is None:
        await session.commit()
        response.headers.update({"ETag": '"1"', "Location": f"{PROJECTS}/{project.id}"})
        return project
    await session.flush()
    new_key = {
        "scope": "",
        "key": idempotency_key,
        "fingerprint": hashlib.sha256(await request.body()).digest(),
        "created_at": project.created_at,
        "id": project.id,
        "version": project.version,
        "body": ProjectOut.model_validate(project).model_dump_json(),
    }
    statement = insert(IdempotencyKey).values(new_key).on_conflict_do_nothing()
    stored = await session.scalar(statement.returning(IdempotencyKey))
    if stored:
        await session.commit()
    else:
        await session.rollback()
        stored = await session.get_one(IdempotencyKey, ("", idempotency_key))
    if stored.fingerprint != new_key["fingerprint"]:
        raise HTTPException(422)
    headers = {"ETag": f'"{stored.version}"', "Location": f"{PROJECTS}/{stored.id}"}
    return Response(stored.body, 201, headers, "application/json")


@app.get(PROJECTS + "/{project_id}", response_model=ProjectOut)
async def get_project(project_id: UUID, response: Response, session: Session) -> Any:
    project = await get_or_404(session, project_id)
    response.headers["ETag"] = f'"{project.version}"'
    return project


@app.patch(PROJECTS + "/{project_id}", response_model=ProjectOut)
async def patch_project(
    project_id: UUID,
    change: ProjectChange,
    response: Response,
    session: Session,
    if_match: Annotated[str | None, Header()] = None,
) -> Any:
    project = await get_or_404(session, project_id)
    if if_match not in (None, f'"{project.version}"'):
        raise HTTPException(412)
    for name, value in change.model_dump(exclude_unset=True).items():
        setattr(project, name, value)
    await session.commit()
    response.headers["ETag"] = f'"{project.version}"'
    return project
