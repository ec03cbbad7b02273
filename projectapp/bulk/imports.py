"""The table of imports: how far each one has come. It makes an interrupted import continue."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from projectapp.database import db


class Import(db.Model):  # type: ignore[name-defined,misc]
    """An import of a file.

    `id` is the SHA-256 of the file and of the options that change its result. The first
    `processed_items` items of the file are either rows now or rejected. At this point, the file
    with the rejected items had `errors_bytes` bytes with the checksum `errors_crc32`.
    """

    __tablename__ = "imports"

    id: Mapped[str] = mapped_column(sa.Text, primary_key=True)
    resource: Mapped[str] = mapped_column(sa.Text)
    file_name: Mapped[str] = mapped_column(sa.Text)
    processed_items: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    created_rows: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    rejected_items: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    errors_bytes: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    errors_crc32: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")
    started_at: Mapped[datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    finished_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
