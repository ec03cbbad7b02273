"""Numbers for Prometheus, of all processes of this host.

The setting METRICS decides who may read them.
"""

from collections.abc import Iterator
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, current_app

from projectapp.auth import METRICS_SCOPE
from projectapp.http.endpoint import Endpoint
from projectapp.metrics import read_values, record_nothing, use_slots
from projectapp.metrics.recording import BUCKETS, Metric, all_metrics
from projectapp.problems import ServiceUnavailable

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT = "text/plain"

_BOUNDS = (*map(str, BUCKETS), "+Inf")


def init_app(app: Flask) -> None:
    """Add GET /metrics, unless METRICS is off."""
    mode = app.config["METRICS"]
    if mode == "off":
        record_nothing()
        return
    use_slots(app.config["PORT"], (app.root_path, app.config["APP_ENV"]))
    scope = METRICS_SCOPE if mode == "on" else None
    declaration = Endpoint(
        scope=scope, responses={200: None}, content_types=(TEXT,), error_statuses=[503]
    )
    bp = Blueprint("metrics", __name__)
    bp.add_url_rule("/metrics", view_func=declaration(metrics))
    app.register_blueprint(bp)


def metrics() -> Response:
    """Get the metrics.

    The response has the text format of Prometheus. It includes all processes of this host, also
    those that have ended. Counters continue when a process is replaced.
    """
    # Imported here, because only this view needs it.
    from prometheus_client import generate_latest

    text = generate_latest(_Collector())
    return Response(text, headers={"Cache-Control": "no-store"}, content_type=CONTENT_TYPE)


class _Collector:
    """What generate_latest expects of a registry."""

    def collect(self) -> "Iterator[Family]":
        from prometheus_client.metrics_core import GaugeMetricFamily

        recorded = read_values()
        if recorded is None:
            raise ServiceUnavailable("The metrics need write access to /dev/shm or TMPDIR.", 30)
        info = GaugeMetricFamily(
            "projectapp_info", "The release of the service.", None, ["version"]
        )
        info.add_metric([current_app.config["VERSION"]], 1)
        yield info
        for metric in all_metrics.values():
            yield _family(metric, {k[1]: v for k, v in recorded.items() if k[0] == metric.name})


def _family(metric: Metric, values_by_labels: dict[tuple[str, ...], list[float]]) -> "Family":
    from prometheus_client import metrics_core

    family_class: Any = {
        "counter": metrics_core.CounterMetricFamily,
        "gauge": metrics_core.GaugeMetricFamily,
        "histogram": metrics_core.HistogramMetricFamily,
    }[metric.kind]
    family = family_class(metric.name, metric.help, labels=[*metric.labels])
    # Labels that are known begin with 0: Prometheus cannot see that a new number has grown.
    known_values = [possible for possible in metric.labels.values() if possible is not None]
    if len(known_values) == len(metric.labels):
        zeros = dict.fromkeys(product(*known_values), [0.0] * metric.size)
        values_by_labels = zeros | values_by_labels
    for labels, numbers in sorted(values_by_labels.items()):
        if metric.kind == "histogram":
            *counts, total = numbers
            family.add_metric(labels, [*zip(_BOUNDS, accumulate(counts), strict=True)], total)
        else:
            family.add_metric(labels, numbers[0])
    return family
