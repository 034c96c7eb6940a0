# SPDX-License-Identifier: Apache-2.0
"""job.json and desired: what is accepted, and which sentence refuses the rest."""

import json
from typing import Any

import pytest

from firstkit.core import control
from firstkit.launcher.desired import parse_desired
from firstkit.launcher.documents import parse_job
from firstkit.launcher.fields import JobRefused
from firstkit.wire.control import JsonDocuments


def job(**changes: Any) -> dict[str, Any]:
    engine = {"kind": "command", "argv": ["serve", "{socket}"], "listen": "unix", "health": {"path": "/health"}}
    document = {
        "schema": 1,
        "job": "j-1",
        "installation": "abc",
        "door": {"kind": "local"},
        "instances": [{"instance": "i-1", "engine": engine}],
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target: Any = document
        for parent in parents:
            target = target[int(parent[1:])] if parent.startswith("n") and parent[1:].isdigit() else target[parent]
        target[last] = value
    return document


def refusal(document: Any) -> str:
    with pytest.raises(JobRefused) as refused:
        parse_job(document if isinstance(document, bytes) else json.dumps(document).encode())
    return str(refused.value)


def test_what_the_controller_leaves_out_has_a_default() -> None:
    spec = parse_job(json.dumps(job()).encode())
    [instance] = spec.instances
    assert (spec.walltime_s, spec.margin_s, spec.control, spec.fence_s) == (None, 30.0, None, None)
    assert (instance.engine.stop_signal, instance.engine.stop_grace_s) == ("TERM", 20.0)
    assert instance.engine.health == ("/health", 0.1, 5.0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": 2}, "schema must be 0 or 1"),
        ({"schema": True}, "schema must be 0 or 1"),
        ({"job": "../j"}, "job must be a name"),
        ({"walltime_s": -1}, "walltime_s must be a number of 0 or more."),
        ({"walltime_s": "12:00"}, "walltime_s must be a number"),
        ({"door": None}, "door must be an object."),
        ({"door": {"kind": "direct", "host": "", "ports": [9, 1]}}, "door.ports must be the first and the last port"),
        ({"door": {"kind": "reverse", "gateways": []}}, "door.gateways must hold one or more addresses"),
        ({"door": {"kind": "reverse", "gateways": ["https://x:1"]}}, "door.gateways must hold one or more addresses"),
        ({"control": {"urls": ["ftp://x"], "token_file": "t"}}, "control.urls must hold http://"),
        ({"control": {"urls": [], "token_file": "t"}}, "control.urls must name at least one address"),
        ({"instances": {}}, "instances must be a list."),
        ({"instances__n0__instance": "a/b"}, "instances[0].instance must be a name"),
        ({"instances__n0__engine__argv": []}, "instances[0].engine.argv must begin with the program"),
        ({"instances__n0__engine__argv": ["x", "{port}"]}, "instances[0].engine.argv uses {port}"),
        ({"instances__n0__engine__argv": ["x", "{key_file}"]}, "instances[0].engine.argv uses {key_file}"),
        ({"instances__n0__engine__env": {"A=B": "c"}}, "instances[0].engine.env must map names to texts"),
        ({"instances__n0__engine__env": []}, "instances[0].engine.env must be an object."),
        ({"instances__n0__engine__health": {"path": "health"}}, "instances[0].engine.health.path must be an HTTP path"),
        ({"instances__n0__engine__health": {"path": "/a\r\nX: y"}}, "health.path must be an HTTP path"),
        ({"instances__n0__engine__stop_signal": "STOP"}, "instances[0].engine.stop_signal must be one of TERM"),
        ({"instances__n0__engine__key": "two\nlines"}, "instances[0].engine.key must be printable ASCII"),
        ({"instances__n0__engine__causes": [{"match": "(", "reason": "X"}]}, "causes[0].match is not a regular exp"),
        ({"instances__n0__engine__causes": [{"match": "x", "reason": "so?"}]}, "causes[0].reason must be a reason"),
    ],
)
def test_a_mistake_is_refused_with_the_key_that_holds_it(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(job(**changes))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    assert refusal(data)


def test_two_instances_of_one_name_are_refused() -> None:
    document = job()
    document["instances"] *= 2
    assert refusal(document) == "instances must have different names."


def test_what_the_controller_writes_is_what_the_launcher_reads() -> None:
    engine = control.EngineProcess(
        kind="vllm",
        argv=("serve", "{port}", "{key_file}"),
        listen="loopback",
        key="secret",
        health=control.Health(path="/health"),
        serves=control.Serves(path="/v1/models", name="demo"),
        guarded=("/v1/models",),
        progress=(control.Progress(match="x", start=0.1, end=0.2, text="t"),),
        causes=(control.Cause(match="y", reason="OUT_OF_MEMORY"),),
    )
    document = control.JobDocument(
        job="j-1",
        installation="abc",
        control=control.Control(urls=("unix:/api.sock",)),
        door=control.DirectDoor(host="127.0.0.1", ports=(42000, 42099)),
        instances=(control.JobInstance(instance="i-1", engine=engine),),
    )
    spec = parse_job(JsonDocuments().write_job(document))
    assert spec.door == (
        "direct",
        "127.0.0.1",
        (42000, 42099),
        "door.crt",
        "door.key",
        "ca.crt",
        "gateway.firstkit",
        (),
    )
    assert spec.instances[0].engine.progress == (("x", 0.1, 0.2, "t"),)
    assert spec.instances[0].engine.causes == (("y", "OUT_OF_MEMORY"),)


def test_what_the_controller_desires_is_what_the_launcher_follows() -> None:
    document = control.Desired(
        job="j-1",
        version=3,
        instances={"i-1": control.DesiredInstance(want=control.Want("drain"), within_s=30.0)},
        gateways=("gw.example.org:8443", "unix:/what/an/earlier/one/wrote", "[2001:db8::1]:8443"),
    )
    assert parse_desired(JsonDocuments().write_desired(document), "j-1") == (
        3,
        {"i-1": ("drain", 30.0)},
        False,
        ("gw.example.org:8443", "[2001:db8::1]:8443"),
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"job": "j-2"}, "it is for the job j-2."),
        ({"schema": 2}, "schema must be"),
        ({"version": "3"}, "version must be a number"),
        ({"instances": {"i-1": {"want": "explode"}}}, "instances.i-1.want must be one of serve, drain, stop"),
        ({"instances": []}, "instances must be an object"),
    ],
)
def test_a_desired_that_cannot_be_followed_is_refused(changes: dict[str, Any], sentence: str) -> None:
    document = {"schema": 1, "job": "j-1", "version": 1, "instances": {}} | changes
    with pytest.raises(JobRefused) as refused:
        parse_desired(json.dumps(document).encode(), "j-1")
    assert sentence in str(refused.value)
