"""RATE_LIMIT: how many requests a caller may make, and an address with failed credentials."""

from projectapp.rate_limit.limiter import count_failure, count_request, init_app

__all__ = ["count_failure", "count_request", "init_app"]
