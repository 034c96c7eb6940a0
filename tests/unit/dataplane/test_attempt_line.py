# SPDX-License-Identifier: Apache-2.0
"""The short-lived twin of an attempt's record."""

from dataclasses import fields

import msgspec

from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage, UsageSource
from firstkit.dataplane.books import AttemptLine

LINE = AttemptLine(
    "req-1",
    2,
    True,
    100.5,
    "key:ann",
    "p",
    'mi"ne',
    "/v1/chat/completions",
    "org/demo",
    "demo",
    "d0",
    "here",
    "i-0",
    True,
    RequestClass.INTERACTIVE,
    Outcome.COMPLETE,
    200,
    "",
    "only choice",
    Usage(source=UsageSource.ENGINE, input_tokens=3),
    0.1,
    0.2,
    None,
    0.4,
    None,
    0.03,
    7,
    10,
    20,
)


def test_it_has_the_records_fields_in_the_records_order() -> None:
    assert AttemptLine.__struct_fields__ == tuple(field.name for field in fields(AttemptRecord))


def test_it_encodes_as_the_record_does_and_decodes_into_it() -> None:
    encoded = msgspec.json.encode(LINE)
    assert encoded == msgspec.json.encode(LINE.record())
    assert msgspec.json.decode(encoded, type=AttemptRecord) == LINE.record()
