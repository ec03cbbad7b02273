"""Numbers for operators: how often something happened, how long it took, and how much is in use.

`definitions` has every metric. The code that knows an event changes its metric there:
`RATE_LIMITED.increase("requests")`. `recording` has the kinds of metrics, and writes the values of
this process. `slots` keeps the values of all processes of the host in files of shared memory.
http/prometheus.py renders them for GET /metrics.
"""

from projectapp.metrics.recording import (
    read_values,
    record_nothing,
    sample_regularly,
    use_slots,
)

__all__ = ["read_values", "record_nothing", "sample_regularly", "use_slots"]
