"""Authentication and authorization: bearer tokens (RFC 6750), scopes, and owners of rows."""

from projectapp.auth.access import (
    authorize,
    current_owner,
    init_app,
    is_visible,
    visible_owner,
)

__all__ = ["authorize", "current_owner", "init_app", "is_visible", "visible_owner"]
