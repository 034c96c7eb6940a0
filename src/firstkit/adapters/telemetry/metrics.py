# SPDX-License-Identifier: Apache-2.0
"""Every metric of firstkit: its name, unit, labels and help; and their text for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from firstkit.ports.telemetry import Count, Spread

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


class MetricKind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric. `name` is as scraped, unit at its end; counters end in `_total`."""

    name: str
    kind: MetricKind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, unit: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=MetricKind.COUNTER, unit=unit, help=help_text, labels=labels)


def _gauge(name: str, unit: str, help_text: str, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=MetricKind.GAUGE, unit=unit, help=help_text, labels=labels)


def _histogram(name: str, help_text: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> MetricSpec:
    return MetricSpec(
        name=name, kind=MetricKind.HISTOGRAM, unit="seconds", help=help_text, labels=labels, buckets=buckets
    )


METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        _counter(
            "first_requests_total",
            "requests",
            "Inference requests that have ended, by model, endpoint and how they ended.",
            "model",
            "path",
            "outcome",
        ),
        _counter(
            "first_refusals_total",
            "requests",
            "Requests answered with an error of the gateway's own, by its code.",
            "code",
        ),
        _counter(
            "first_attempts_total",
            "attempts",
            "Attempts of requests at instances, by model, cluster and how they ended.",
            "model",
            "cluster",
            "outcome",
        ),
        _counter(
            "first_tokens_total",
            "tokens",
            "Tokens as engines reported them, by model and kind (input, output, cached).",
            "model",
            "kind",
        ),
        _counter("first_streamed_events_total", "events", "Server-sent events relayed, by model.", "model"),
        _counter("first_request_bytes_total", "bytes", "Bytes of request bodies of inference requests.", "model"),
        _counter("first_response_bytes_total", "bytes", "Bytes of answers of inference requests.", "model"),
        _counter("first_api_requests_total", "requests", "Requests relayed to the api, by status class.", "status"),
        _histogram("first_request_seconds", "Arrival of a request to the end of its answer.", "model"),
        _histogram("first_wait_seconds", "Arrival of a request to its place at an instance.", "model"),
        _histogram(
            "first_time_to_first_token_seconds",
            "Arrival of a streamed request to its first token, at the gateway.",
            "model",
        ),
        _histogram(
            "first_token_gap_seconds",
            "Mean gap between the events of a stream, one value for each stream.",
            "model",
            buckets=_GAPS,
        ),
        _gauge("first_requests_in_flight", "requests", "Requests at instances, as the gateway's leases count them."),
        _gauge("first_requests_waiting", "requests", "Requests that wait for a place."),
        _gauge("first_client_connections", "connections", "Open connections of clients."),
        _gauge("first_upstream_connections", "connections", "Open connections to instances."),
        _gauge(
            "first_parked_connections",
            "connections",
            "Connections that doors have parked (link `reverse`) and no request has used yet.",
        ),
        _gauge("first_body_memory_bytes", "bytes", "Request bodies kept in memory."),
        _gauge("first_body_disk_bytes", "bytes", "Request bodies kept in unlinked files."),
        _gauge(
            "first_unread_requests", "requests", "Requests whose client has left and whose engine could not be stopped."
        ),
        _gauge(
            "first_models",
            "models",
            "Models of the catalog by state: hot, warm, queued, cold, and held ones as held alone.",
            "state",
        ),
        _gauge("first_snapshot_fresh", "", "1 while the controller confirms this gateway's routes."),
        _gauge("first_store_away", "", "1 while this gateway cannot talk to the store."),
        _gauge("first_spool_bytes", "bytes", "Records of finished requests that are not in the store yet, about."),
    )
}


class PrometheusTelemetry(Collector):
    """Keeps the cells of one process; `scrape` writes them out."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[tuple[str, ...], Count]] = {}
        self._spreads: dict[str, dict[tuple[str, ...], Spread]] = {}
        self._gauges: dict[str, dict[tuple[str, ...], Callable[[], float]]] = {}
        self._before: list[Callable[[], None]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, name: str, /, **labels: str) -> Count:
        """Return the cell of a counter."""
        _, key = _find(name, MetricKind.COUNTER, labels)
        return self._counts.setdefault(name, {}).setdefault(key, Count())

    def spread(self, name: str, /, **labels: str) -> Spread:
        """Return the cell of a histogram."""
        spec, key = _find(name, MetricKind.HISTOGRAM, labels)
        return self._spreads.setdefault(name, {}).setdefault(key, Spread(spec.buckets))

    def before_reading(self, bring_up_to_date: Callable[[], None], /) -> None:
        """Have something called before every scrape."""
        self._before.append(bring_up_to_date)

    def gauge(self, name: str, read: Callable[[], float], /, **labels: str) -> None:
        """Have a value read at every scrape."""
        _, key = _find(name, MetricKind.GAUGE, labels)
        self._gauges.setdefault(name, {})[key] = read

    def scrape(self) -> tuple[str, bytes]:
        """Return content type and text of all metrics."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Fold the cells into metric families (called by prometheus_client)."""
        for bring_up_to_date in self._before:
            bring_up_to_date()
        for name, cells in self._counts.items():
            spec = METRICS[name]
            counter = CounterMetricFamily(name, spec.help, labels=spec.labels)
            for key, cell in cells.items():
                counter.add_metric(key, cell.value)
            yield counter
        for name, readers in self._gauges.items():
            spec = METRICS[name]
            gauge = GaugeMetricFamily(name, spec.help, labels=spec.labels)
            for key, read in readers.items():
                gauge.add_metric(key, read())
            yield gauge
        for name, spreads in self._spreads.items():
            spec = METRICS[name]
            histogram = HistogramMetricFamily(name, spec.help, labels=spec.labels)
            for key, spread in spreads.items():
                histogram.add_metric(key, _cumulative(spread), spread.total)
            yield histogram


def _cumulative(spread: Spread) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _find(name: str, kind: MetricKind, labels: dict[str, str]) -> tuple[MetricSpec, tuple[str, ...]]:
    spec = METRICS.get(name)
    if spec is None or spec.kind is not kind:
        raise KeyError(f"{name} is not listed as a {kind.value}")
    if set(labels) != set(spec.labels):
        raise KeyError(f"{name} has the labels {', '.join(spec.labels) or 'none'}, not {', '.join(labels) or 'none'}")
    return spec, tuple(labels[label] for label in spec.labels)
