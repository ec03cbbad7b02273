"""Who calls, and what they may do. Read `access` first: it decides on each request.

`session_cookie` has the console's cookie. `tokens` has the API tokens, and `token_admin` and `cli`
have the commands for them. `jwt` verifies tokens of an identity provider, with keys from
`verification_keys` and `jwks_client`.
"""

from projectapp.auth.access import (
    METRICS_SCOPE,
    act_for,
    all_scopes,
    authorize,
    current_caller,
    current_owner,
    find_expiry,
    find_valid_callers,
    init_app,
    is_visible,
    owner_parameter,
    read_bearer_token,
    visible_owner,
)

__all__ = [
    "METRICS_SCOPE",
    "act_for",
    "all_scopes",
    "authorize",
    "current_caller",
    "current_owner",
    "find_expiry",
    "find_valid_callers",
    "init_app",
    "is_visible",
    "owner_parameter",
    "read_bearer_token",
    "visible_owner",
]
