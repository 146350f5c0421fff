"""A page of figures, read as Prometheus does: by prometheus_client's own parser."""

from __future__ import annotations

import attrs
from prometheus_client.openmetrics.parser import text_string_to_metric_families


@attrs.frozen
class Scrape:
    """The samples of one page."""

    text: str
    samples: tuple[tuple[str, dict[str, str], float], ...]

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _, _ in self.samples}

    def of(self, wanted: str, **labels: str) -> list[float]:
        """Return the values of a name, with these labels."""
        return [
            value
            for name, found, value in self.samples
            if name == wanted and labels.items() <= found.items()
        ]

    def labels(self, wanted: str, **labels: str) -> list[dict[str, str]]:
        """Return the labels of a name's samples, with these among them."""
        return [
            found
            for name, found, _ in self.samples
            if name == wanted and labels.items() <= found.items()
        ]


def parse(text: str) -> Scrape:
    """Return the samples of a page in OpenMetrics' format. Raises ValueError when it is not."""
    samples = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    ]
    assert len({(name, *sorted(labels.items())) for name, labels, _ in samples}) == len(samples)
    return Scrape(text, tuple(samples))
