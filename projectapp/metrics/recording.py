"""The kinds of metrics, and the values that this process records.

A process takes its slot when it records the first value. If there is no place for slots, it logs a
warning and records nothing: the service works without metrics.
"""

import logging
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from projectapp.metrics.slots import SCRATCH_NUMBERS, Key, Slot, SlotFiles

SAMPLE_SECONDS = 1.0
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)  # upper bounds
_HISTOGRAM_SIZE = len(BUCKETS) + 2  # the number above the last bound, and the sum
_SCRATCH = 1  # the index of the scratch numbers
assert _HISTOGRAM_SIZE <= SCRATCH_NUMBERS  # noqa: S101

log = logging.getLogger(__name__)

all_metrics: dict[str, "Metric"] = {}  # by name, in the order of `definitions`


@dataclass(eq=False)
class Metric:
    """A number with labels. Each label has its possible values, or None if they are not fixed.

    Values that are not fixed must come from a small set, and never from a client. A value that is
    not a possible one counts as `other`.
    """

    name: str
    help: str
    labels: dict[str, tuple[str, ...] | None] = field(default_factory=dict)

    kind = ""
    size = 1  # how many values belong to the same labels

    def __post_init__(self) -> None:
        all_metrics[self.name] = self

    def position(self, slot: Slot, labels: tuple[str, ...]) -> int:
        """Return the index of the first value in the slot. The caller has the slot's lock."""
        return slot.known_positions.get((self, labels)) or self._find_position(slot, labels)

    def _find_position(self, slot: Slot, labels: tuple[str, ...]) -> int:
        possible_values = self.labels.values()
        labels = tuple(
            value if possible is None or value in possible else "other"
            for value, possible in zip(labels, possible_values, strict=True)
        )
        try:
            position = slot.position(Key(self.kind, self.name, labels), self.size)
        except OSError as error:
            if _SCRATCH not in slot.known_positions.values():  # log it once
                log.warning("There is no room for more metrics: %s", error)
            position = _SCRATCH
        slot.known_positions[self, labels] = position
        return position


class Counter(Metric):
    """A number that only grows, such as how often something happened."""

    kind = "counter"

    def increase(self, *labels: str, by: float = 1) -> None:
        if slot := _process.slot or _process.take_slot():
            with slot.lock:
                position = self.position(slot, labels)  # first: it may replace slot.values
                slot.values[position] += by


class Histogram(Metric):
    """How often something took how many seconds."""

    kind = "histogram"
    size = _HISTOGRAM_SIZE

    def observe(self, seconds: float, *labels: str) -> None:
        if slot := _process.slot or _process.take_slot():
            bucket = bisect_left(BUCKETS, seconds)
            with slot.lock:
                position = self.position(slot, labels)  # first: it may replace slot.values
                values = slot.values
                values[position + bucket] += 1
                values[position + _HISTOGRAM_SIZE - 1] += seconds


@dataclass(eq=False)
class Gauge(Metric):
    """A number that rises and falls. That of the host is the sum or the maximum of its processes.

    Set it in a function of `sample_regularly`.
    """

    combine: Callable[[Sequence[float]], float] = sum

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        if slot := _process.slot or _process.take_slot():
            with slot.lock:
                position = self.position(slot, labels)  # first: it may replace slot.values
                slot.values[position] = value


class _Process:
    """The slot of this process, and the thread that samples its gauges."""

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self.files: SlotFiles | None = None  # None: record nothing
        self.samplers: dict[str, Callable[[], None]] = {}
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._leave_slot_of_parent)

    def take_slot(self) -> Slot | None:
        if not self.files:
            return None
        with self._lock:
            if self.files and not self.slot:
                try:
                    self.slot = self.files.take()
                    threading.Thread(target=self._sample, name="metrics", daemon=True).start()
                except (OSError, RuntimeError) as error:  # RuntimeError: no thread could start
                    self.files = None
                    log.warning("There are no metrics. They need /dev/shm or TMPDIR: %s", error)
            return self.slot

    def use(self, files: SlotFiles | None) -> None:
        with self._lock:
            if self.files != files:
                self.files, slot, self.slot = files, self.slot, None
                if slot:
                    with slot.lock:
                        slot.close()

    def _sample(self) -> None:
        slot = self.slot
        while slot and self.slot is slot:
            for name, sampler in [*self.samplers.items()]:
                try:
                    sampler()
                except Exception:
                    log.exception("Error sampling the metrics of %s", name)
                    del self.samplers[name]
            with suppress(OSError):
                slot.touch()
            time.sleep(SAMPLE_SECONDS)

    def _leave_slot_of_parent(self) -> None:
        slot, self.slot, self._lock = self.slot, None, threading.Lock()
        if slot:
            slot.close()


_process = _Process()


def use_slots(port: int, service: object) -> None:
    """Record the values of a service, which its `port` and `service` identify on this host."""
    _process.use(SlotFiles(port, (service, BUCKETS)))


def record_nothing() -> None:
    _process.use(None)


def sample_regularly(name: str, sampler: Callable[[], None]) -> None:
    """Call a function about every second, in a thread. It replaces the one with the same name."""
    _process.samplers[name] = sampler


def read_values() -> dict[tuple[str, tuple[str, ...]], list[float]] | None:
    """Return the values of all processes, by the name of the metric and the labels' values.

    The values of a histogram are the numbers between its bounds, and the sum. None if the values
    are not recorded.
    """
    if not (_process.slot or _process.take_slot()) or not _process.files:
        return None
    rows: dict[tuple[str, tuple[str, ...]], list[Sequence[float]]] = {}
    for key, values in _process.files.read():
        metric = all_metrics.get(key.name)  # another release may have had other metrics
        if metric and (metric.kind, metric.size) == (key.kind, len(values)):
            rows.setdefault((key.name, key.labels), []).append(values)
    return {
        (name, labels): [_combine(name)(column) for column in zip(*processes, strict=True)]
        for (name, labels), processes in rows.items()
        if len(labels) == len(all_metrics[name].labels)
    }


def _combine(name: str) -> Callable[[Sequence[float]], float]:
    metric = all_metrics[name]
    return metric.combine if isinstance(metric, Gauge) else sum
