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

    def remaining(self, count: Count) -> int:
        """The requests that may pass now."""
        used = int(count.previous * (1 - count.elapsed / self.seconds)) + count.current
        return max(0, self.quota - used)

    def wait(self, count: Count) -> int:
        """Whole seconds after which one request more may pass than now: 1 or more."""
        used = self.quota - self.remaining(count)
        if used > count.current:
            seconds = self.seconds * (1 - (used - count.current) / count.previous) - count.elapsed
        else:  # as soon as this window is the one before, unless the quota was larger once
            later = self.seconds * max(0, 1 - used / count.current)
            seconds = self.seconds - count.elapsed + later
        return int(seconds) + 1
