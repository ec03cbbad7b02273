"""The sliding window counter, the algorithm of RATE_LIMIT.

Time is divided into windows of fixed length. A caller has two numbers: its requests in the current
window and in the previous one. The second is reduced by the elapsed part of the current window, as
if its requests had been evenly spread. So no list of times is needed.
"""

from typing import NamedTuple


class WindowCount(NamedTuple):
    """A caller's counter after a request, and whether the request is allowed.

    `elapsed_seconds` is the time since the start of the current window. `previous` and `current`
    are the allowed requests in those windows, `refused` the refused requests in the current window.
    """

    is_allowed: bool
    elapsed_seconds: float
    previous: int
    current: int
    refused: int


class Rate(NamedTuple):
    """The value of RATE_LIMIT: `quota` requests in `window_seconds`."""

    quota: int
    window_seconds: int

    def is_below_quota(self, elapsed_seconds: float, previous: int, current: int) -> bool:
        """Whether another request is allowed."""
        return self._weighted(previous, elapsed_seconds) + current < self.quota

    def remaining_and_reset(self, count: WindowCount) -> tuple[int, int]:
        """Return how many requests are allowed now, and the whole seconds (>= 1) to one more."""
        _, elapsed, previous, current, _ = count
        # max(): the difference is negative after the quota was reduced.
        remaining = max(0, self.quota - self._weighted(previous, elapsed) - current)
        used = self.quota - remaining
        if used > current:
            wait = self.window_seconds * (1 - (used - current) / previous) - elapsed
        else:  # one more is allowed only when the current window has become the previous one
            wait = self.window_seconds * (1 + max(0, 1 - used / current)) - elapsed
        return remaining, int(wait) + 1

    def _weighted(self, previous: int, elapsed_seconds: float) -> int:
        return int(previous * (1 - elapsed_seconds / self.window_seconds))
