"""Read the numbers of GET /metrics in tests."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from projectapp.metrics.recording import SAMPLE_SECONDS
from tests.test_serving import until

__all__ = ["SAMPLE_SECONDS", "Scrape", "scrape", "until_sample"]


class Scrape:
    """The parsed output of a server."""

    def __init__(self, text):
        self.text = text
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name, **labels):
        """Return the sum of the samples with this name and these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def scrape(server):
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as response:
        return Scrape(response.read().decode())


def until_sample(server, is_right, name, **labels):
    """Wait until a number is right: gauges are sampled about every second."""
    until(lambda: is_right(scrape(server).sum(name, **labels)))
