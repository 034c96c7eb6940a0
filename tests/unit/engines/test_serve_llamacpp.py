# SPDX-License-Identifier: Apache-2.0
"""The program that serves llama.cpp keeps requests out of its log and sets attributes by text."""

import enum
from types import SimpleNamespace

import pytest

from firstkit.adapters.engines.programs.serve_llamacpp import Refused, Sieve, assign

LISTENING = b"0.00.640.611 I srv          init: listening on unix:///run/e.sock"


def served(*lines: bytes) -> list[bytes]:
    sieve = Sieve()
    assert sieve.passed(LISTENING) == LISTENING
    return [out for line in lines if (out := sieve.passed(line)) is not None]


def test_everything_is_passed_until_it_listens() -> None:
    lines = [b"gguf_init_from_file: invalid magic", b"Traceback (most recent call last):", b"anything"]
    sieve = Sieve()
    assert [sieve.passed(line) for line in lines] == lines


@pytest.mark.parametrize(
    "line",
    [
        b"0.10.829.927 I slot launch_slot_: id  3 | task 0 | secret",
        b"secret",
        b"parse: error parsing grammar: secret",
        b"  what():  secret",
        b"",
    ],
)
def test_what_may_hold_part_of_a_request_is_not_passed(line: bytes) -> None:
    assert served(line) == []


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (b"0.10.829.927 W srv    operator(): got exception: secret", b"0.10.829.927 W srv    operator():"),
        (b"0.10.836.147 E srv    send_error: task id = 16, error: secret", b"0.10.836.147 E srv    send_error:"),
        (b"0.10.836.147 E slot update_slots: secret: more", b"0.10.836.147 E slot update_slots:"),
    ],
)
def test_a_warning_is_passed_without_its_text(line: bytes, source: bytes) -> None:
    assert served(line) == [source + b" (withheld: it may hold part of a request)"]


@pytest.mark.parametrize(
    "line",
    [
        b"/src/ggml/src/ggml.c:1234: GGML_ASSERT(n > 0) failed",
        b"terminate called after throwing an instance of 'std::bad_alloc'",
        b"  what():  std::bad_alloc",
        b"CUDA error: out of memory",
        b"ggml_gallocr: failed to allocate CPU buffer of size 17179869184",
    ],
)
def test_last_words_of_a_crash_are_passed(line: bytes) -> None:
    assert served(line) == [line]


class Kind(enum.Enum):
    AUTO = -1
    ON = 1


def params() -> SimpleNamespace:
    return SimpleNamespace(n=1, ratio=0.5, on=False, name="", kind=Kind.AUTO, cpu=SimpleNamespace(threads=-1))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n", "8", 8),
        ("ratio", "0.25", 0.25),
        ("on", "true", True),
        ("on", "false", False),
        ("name", "a=b", "a=b"),
        ("kind", "ON", Kind.ON),
        ("cpu.threads", "4", 4),
    ],
)
def test_an_attribute_takes_a_text_as_its_own_type(name: str, text: str, value: object) -> None:
    target = params()
    assign(target, name, text)
    for part in name.split("."):
        target = getattr(target, part)
    assert target == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("missing", "1", "argument missing is unknown"),
        ("cpu.missing", "1", "argument cpu.missing is unknown"),
        ("n", "x", "argument n cannot be x"),
        ("on", "yes", "argument on cannot be yes"),
        ("kind", "MAYBE", "argument kind cannot be MAYBE"),
    ],
)
def test_an_attribute_that_cannot_be_set_is_named(name: str, text: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        assign(params(), name, text)
