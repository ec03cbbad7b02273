"""docs/monitoring.md, the alert rules and the dashboard name only metrics and labels that exist."""

import json
import re

import pytest
import yaml

import config
from projectapp.metrics.definitions import REQUESTS_REFUSED
from projectapp.metrics.recording import all_metrics

FOLDER = config.ROOT / "docs" / "monitoring"
PAGE = (config.ROOT / "docs" / "monitoring.md").read_text()
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((FOLDER / "dashboard.json").read_text())["panels"]

# What Prometheus adds, and projectapp_info, which has no definition.
LABELS_OF_PROMETHEUS = {"instance", "job"}
INFO = {"projectapp_info": {"version": None}}
SELECTOR = re.compile(r"(projectapp_\w+)(?:\{(.*?)\})?(\[)?")
MATCHER = re.compile(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*(?:,|$)')
BY = re.compile(r"\bby \((.*?)\)\s*\(")


def series_of(name):
    """Return the kind and the labels of a series, such as NAME_bucket."""
    if name in INFO:
        return "gauge", INFO[name]
    if metric := all_metrics.get(name):
        return metric.kind, metric.labels
    base, _, suffix = name.rpartition("_")
    assert all_metrics[base].kind == "histogram", name
    assert suffix in ("bucket", "sum", "count"), name
    return "counter", all_metrics[base].labels | ({"le": None} if suffix == "bucket" else {})


def check_query(query):
    """Check the metrics, labels and values of a query, and that counters are used as counters."""
    assert all(query.count(a) == query.count(b) for a, b in ("()", "{}", "[]"))
    labels_of_all = set(LABELS_OF_PROMETHEUS)
    selectors = SELECTOR.findall(query)
    assert selectors, query
    for name, matchers, bracket in selectors:
        kind, labels = series_of(name)
        labels_of_all |= labels.keys()
        assert (kind == "counter") == bool(bracket), (name, query)
        assert not MATCHER.sub("", matchers), matchers
        for label, operator, value in MATCHER.findall(matchers):
            assert label in labels.keys() | LABELS_OF_PROMETHEUS, (name, label)
            if labels.get(label) is not None:
                values = value.split("|") if "~" in operator else [value]
                assert {*values} <= {*labels[label]}, (name, label, value)
    for names in BY.findall(query):
        assert {*names.split(", ")} <= labels_of_all, query


QUERIES = [
    *(pytest.param(rule["expr"], id=rule["alert"]) for rule in RULES),
    *(
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ),
]


@pytest.mark.parametrize("query", QUERIES)
def test_query_names_only_existing_metrics_labels_and_values(query):
    check_query(query)


@pytest.mark.parametrize(
    "query",
    [
        "rate(projectapp_nothing_total[5m])",
        "projectapp_workers{pid='1'}",
        'projectapp_workers{pid="1"}',
        'rate(projectapp_lost_answers_total{outcome="lost"}[5m])',
        "sum by (reason) (projectapp_workers)",
        "projectapp_idempotent_replays_total",
        "rate(projectapp_thread_wait_seconds[5m])",
        "rate(projectapp_workers_bucket[5m])",
        "sum(projectapp_workers",
        "up",
    ],
)
def test_the_check_finds_wrong_queries(query):
    with pytest.raises((AssertionError, KeyError)):
        check_query(query)


def test_every_metric_is_in_the_dashboard_and_in_the_page():
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    for name in [*all_metrics, *INFO]:
        assert re.search(rf"\b{name}(_bucket|_count|_sum)?\b", queries), name
        assert re.search(rf"`{name}(_count)?`", PAGE), name
    for name in re.findall(r"`(projectapp_\w+)`", PAGE):
        series_of(name)


def test_the_legend_of_a_panel_has_labels_of_its_query():
    for panel in PANELS:
        for target in panel["targets"]:
            labels = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            kept = {n for names in BY.findall(target["expr"]) for n in names.split(", ")} - {"le"}
            assert {*labels} == kept, panel["title"]


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in PANELS]
    assert len({*places}) == len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_each_alert_has_a_severity_a_summary_and_advice_in_the_page():
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        assert f"`{rule['alert']}`" in PAGE
    assert {*re.findall(r"`(Projectapp\w+)`", PAGE)} == {rule["alert"] for rule in RULES}


def test_the_page_has_ten_numbers_and_advice_for_each_reason_of_a_refusal():
    headings = re.findall(r"^### (\d+)\. ", PAGE, re.M)
    assert headings == [str(number) for number in range(1, 11)]
    rows = " ".join(re.findall(r"^\| (`.*?) \|", PAGE, re.M))
    reasons = {*REQUESTS_REFUSED.labels["reason"]} - {"other"}
    assert reasons <= {*re.findall(r"`(\w+)`", rows)}


def test_the_scrape_configuration_is_yaml():
    [block] = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.S | re.M)
    [job] = yaml.safe_load(block)["scrape_configs"]
    assert job["job_name"] == "projectapp"
