# SPDX-License-Identifier: Apache-2.0
"""Metrics: one list of them all, cells that fold into Prometheus' text."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from firstkit.adapters.telemetry.metrics import METRICS, MetricKind, PrometheusTelemetry


def test_every_metric_is_named_by_the_rules() -> None:
    for name, spec in METRICS.items():
        assert re.fullmatch(r"first_[a-z_]+", name)
        assert name.endswith("_total") == (spec.kind is MetricKind.COUNTER)
        if spec.unit in {"seconds", "bytes"}:
            assert spec.unit in name
        assert spec.help.endswith(".")
        assert bool(spec.buckets) == (spec.kind is MetricKind.HISTOGRAM)
        assert not set(spec.labels) & {"user", "subject", "principal", "key", "request"}


def test_cells_are_the_same_for_the_same_labels_and_fold_into_the_text() -> None:
    telemetry = PrometheusTelemetry()
    telemetry.count("first_refusals_total", code="x").value += 2
    telemetry.count("first_refusals_total", code="x").value += 1
    telemetry.gauge("first_client_connections", lambda: 4)
    for value in (0.004, 0.005, 0.02, 1000.0):
        telemetry.spread("first_request_seconds", model="m").observe(value)
    kind, text = telemetry.scrape()
    assert kind.startswith("text/plain")
    samples = {
        (sample.name, sample.labels.get("le") or sample.labels.get("code", "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert samples["first_refusals_total", "x"] == 3
    assert samples["first_client_connections", ""] == 4
    assert samples["first_request_seconds_bucket", "0.005"] == 2
    assert samples["first_request_seconds_bucket", "0.025"] == 3
    assert samples["first_request_seconds_bucket", "+Inf"] == 4
    assert samples["first_request_seconds_count", ""] == 4
    assert samples["first_request_seconds_sum", ""] == pytest.approx(1000.029)


def test_a_metric_that_is_not_listed_or_has_other_labels_is_refused() -> None:
    telemetry = PrometheusTelemetry()
    with pytest.raises(KeyError, match="not listed"):
        telemetry.count("first_surprises_total")
    with pytest.raises(KeyError, match="not listed as a gauge"):
        telemetry.gauge("first_refusals_total", lambda: 1.0, code="x")
    with pytest.raises(KeyError, match="has the labels code"):
        telemetry.count("first_refusals_total", user="ann")
