"""The sliding window counter: of the window before, the part counts that is not over yet.

Two numbers stand for a list of times, as if what came in the window before had come evenly.
"""

from typing import NamedTuple


class Count(NamedTuple):
    """A caller's counter after a request.

    `elapsed` are the seconds since the current window began, `previous` and `current` the requests
    that passed in the window before and in this one, `refused` those that did not in this one.
    """

    passed: bool
    elapsed: float
    previous: int
    current: int
    refused: int


class Rate(NamedTuple):
    """`quota` requests in `seconds`, as RATE_LIMIT says."""

    quota: int
    seconds: int

    def allows(self, elapsed: float, previous: int, current: int) -> bool:
        """Whether one more request may pass."""
        return int(previous * (1 - elapsed / self.seconds)) + current < self.quota

    def left(self, count: Count) -> tuple[int, int]:
        """How many requests may pass now, and the whole seconds, 1 or more, to one more than that.

        The quota may have been larger when the requests came.
        """
        _, elapsed, previous, current, _ = count
        left = max(0, self.quota - int(previous * (1 - elapsed / self.seconds)) - current)
        used = self.quota - left
        if used > current:
            wait = self.seconds * (1 - (used - current) / previous) - elapsed
        else:  # when this window is the one before
            wait = self.seconds * (1 + max(0, 1 - used / current)) - elapsed
        return left, int(wait) + 1
