"""Authentication and authorization: bearer tokens (RFC 6750), scopes, and owners of rows.

`access` decides on each request; read it first. `tokens` has the API tokens, and `token_admin` and
`cli` the commands for them. `jwt` verifies tokens of an identity provider, with keys from
`verification_keys` and `jwks_client`.
"""

from projectapp.auth.access import (
    authorize,
    current_owner,
    init_app,
    is_visible,
    visible_owner,
)

__all__ = ["authorize", "current_owner", "init_app", "is_visible", "visible_owner"]
