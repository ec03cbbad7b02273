"""The setting RATE_LIMIT: the maximum number of requests of a caller in a period of time.

`limiter` counts a request and refuses it, `window` has the algorithm, `stores` keep the counters.
"""

from projectapp.rate_limit.limiter import count_failure, count_request, init_app

__all__ = ["count_failure", "count_request", "init_app"]
