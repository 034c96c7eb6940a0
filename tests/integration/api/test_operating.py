# SPDX-License-Identifier: Apache-2.0
"""`/api/v1` as operators and users see it."""

import json
import re
from typing import Any

import anyio
import pytest

from firstkit.core.instance.record import InstanceState
from firstkit.core.job.record import JobState
from firstkit.core.reasons import Reason
from firstkit.core.request import AttemptRecord, Outcome, RequestClass, Usage, UsageSource
from firstkit.core.topology import Heat, ModelStatus, Snapshot
from firstkit.ports.store import Demand, EventRow, StoreUnavailable
from firstkit.testing.records import settle

pytestmark = pytest.mark.anyio
OPERATOR_ROUTES = [
    ("GET", "/api/v1/deployments"),
    ("GET", "/api/v1/jobs"),
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("DELETE", "/api/v1/keys/x"),
    ("GET", "/api/v1/revisions"),
    ("GET", "/api/v1/revisions/current"),
    ("POST", "/api/v1/revisions"),
    ("POST", "/api/v1/diff"),
    ("GET", "/api/v1/overrides"),
    ("PUT", "/api/v1/overrides/cordon/small-here"),
    ("DELETE", "/api/v1/overrides/cordon/small-here"),
    ("GET", "/api/v1/history/small-here"),
    ("GET", "/api/v1/instances/i-000000000001/log"),
]


async def get(world, path: str, headers: dict[str, str] | None = None) -> Any:
    answer = await world.client.get(path, headers=world.operator if headers is None else headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("method", "path"), OPERATOR_ROUTES)
async def test_operators_routes_are_closed_to_users_and_to_strangers(world, method: str, path: str) -> None:
    answer = await world.client.request(method, path, headers=world.user())
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operator_only")
    answer = await world.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


async def test_every_route_of_the_api_is_tried_above_or_open_to_users(world) -> None:
    described = (await world.client.get("/api/openapi.json")).json()["paths"]
    tried = {(method, re.sub(r"\{[^}]*\}", "*", path)) for method, path in OPERATOR_ROUTES}
    users = set[tuple[str, str]]()
    for path, methods in described.items():
        for method, about in methods.items():
            if "(operator)" not in about["summary"]:
                users.add((method.upper(), path))
            elif not any(
                method.upper() == one and re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", path), other)
                for one, other in tried
            ):
                pytest.fail(f"{method} {path} is for operators and not tried")
    assert users == {
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("GET", "/api/v1/whoami"),
        ("GET", "/api/v1/models"),
        ("GET", "/api/v1/models/{model}"),
        ("GET", "/api/v1/clusters"),
        ("GET", "/api/v1/instances"),
        ("GET", "/api/v1/usage"),
        ("GET", "/api/v1/requests/{request}"),
        ("GET", "/api/v1/why/{model}"),
        ("GET", "/api/v1/events"),
    }


async def test_an_operators_key_opens_the_same_as_the_admin_listener(world, operator_principal) -> None:
    assert (await get(world, "/api/v1/jobs", operator_principal))["data"] == []


async def test_callers_are_told_who_they_are(world) -> None:
    me = await get(world, "/api/v1/whoami", world.user(groups=("insiders",), models=("small",)))
    assert (me["name"], me["roles"], me["groups"]) == ("ada", ["user"], ["insiders"])
    assert (me["models"], me["confined"], me["installation"]) == (["org/Small-1B"], True, None)
    admin = await get(world, "/api/v1/whoami")
    assert "operator" in admin["roles"]
    assert admin["installation"] == world.store.installation()


async def test_a_caller_that_no_gateway_wrote_is_our_own_fault(world) -> None:
    answer = await world.client.get("/api/v1/whoami", headers={"x-first-principal": "!!"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bad_principal")


# ---------------------------------------------------------------------------------------------------------------- keys
async def make_key(world, **wanted: Any) -> Any:
    return await world.client.post("/api/v1/keys", json=wanted, headers=world.operator)


async def test_a_key_is_shown_once_and_stored_hashed(world) -> None:
    made = (await make_key(world, name="ada", requests_per_minute=5, models=["small"], groups=["g"])).json()
    assert re.fullmatch(r"fk-[0-9a-z]{8}-[0-9a-z]{40}", made["key"])
    assert world.nudges.sent == ["keys"]
    listed = await get(world, "/api/v1/keys")
    assert made["key"] not in json.dumps(listed)
    (key,) = listed["data"]
    assert (key["name"], key["state"], key["prefix"]) == ("ada", "valid", made["key"][:11])
    assert (key["requests_per_minute"], key["models"], key["groups"]) == (5, ["small"], ["g"])
    (row,) = world.store.keys()
    assert row.principal.subject == f"key:{key['id']}"
    secret = made["key"].encode()
    files = [path.read_bytes() for path in world.folder.glob("first.db*")]
    assert not any(secret in data or secret[12:] in data for data in files)


async def test_a_revoked_key_is_no_longer_among_the_living(world) -> None:
    await make_key(world, name="ada")
    answer = await world.client.delete("/api/v1/keys/ada", headers=world.operator)
    assert answer.json()["state"] == "revoked"
    assert world.store.keys() == []
    assert world.nudges.sent == ["keys", "keys"]
    again = await world.client.delete("/api/v1/keys/ada", headers=world.operator)
    assert again.status_code == 404


@pytest.mark.parametrize(
    ("wanted", "code", "param"),
    [
        ({}, "invalid_request", "name"),
        ({"name": ""}, "invalid_request", "name"),
        ({"name": " x"}, "invalid_request", "name"),
        ({"name": "x", "roles": ["god"]}, "invalid_request", "roles.0"),
        ({"name": "x", "requests_per_minute": 0}, "invalid_request", "requests_per_minute"),
        ({"name": "x", "expires_in_s": -1}, "invalid_request", "expires_in_s"),
        ({"name": "x", "colour": "red"}, "invalid_request", "colour"),
        ({"name": "x", "models": ["smal"]}, "model_not_found", "models"),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(world, wanted: dict[str, Any], code: str, param: str) -> None:
    answer = await make_key(world, **wanted)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert world.store.key_list() == []


async def test_two_living_keys_have_different_names(world) -> None:
    assert (await make_key(world, name="ada")).status_code == 201
    answer = await make_key(world, name="ada")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_name_taken")


# ------------------------------------------------------------------------------------------------------------- catalog
async def send(world, path: str, document: str | bytes) -> Any:
    return await world.client.post(path, content=document, headers=world.operator, params={"name": "mine.yaml"})


async def test_applying_makes_a_revision_and_says_what_changes(world) -> None:
    document = world.store.current_revision().document.replace("max: 2", "max: 3")
    compared = (await send(world, "/api/v1/diff", document)).json()
    assert [change["text"] for change in compared["changes"]] == [
        "deployment small-here: changed (in place): scaling.max 2 → 3"
    ]
    assert world.store.current_revision().number == 1
    applied = (await send(world, "/api/v1/revisions", document)).json()
    assert (applied["changed"], applied["revision"]["number"]) == (True, 2)
    assert applied["changes"] == compared["changes"]
    assert world.nudges.sent == ["catalog"]
    again = (await send(world, "/api/v1/revisions", document)).json()
    assert (again["changed"], again["revision"]["number"], again["changes"]) == (False, 2, [])
    whole = await get(world, "/api/v1/revisions/current")
    assert (whole["document"], whole["applied_by"]) == (document, "admin listener (mine.yaml)")
    assert [row["number"] for row in (await get(world, "/api/v1/revisions"))["data"]] == [2, 1]
    assert (await get(world, "/api/v1/revisions/1"))["number"] == 1


async def test_a_broken_file_is_refused_whole_with_all_its_mistakes(world) -> None:
    document = world.store.current_revision().document.replace("max: 2", "max: -2, inflight: 4")
    answer = await send(world, "/api/v1/revisions", document)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid_config"
    assert len(error["findings"]) == 2
    assert {finding["source"] for finding in error["findings"]} == {"mine.yaml"}
    assert all(finding["line"] > 0 for finding in error["findings"])
    assert any("in_flight" in finding["text"] for finding in error["findings"])
    assert world.store.current_revision().number == 1


async def test_a_file_that_is_no_text_or_too_long_is_refused(world) -> None:
    assert (await send(world, "/api/v1/revisions", b"\xff\xfe")).status_code == 400
    assert (await send(world, "/api/v1/revisions", "#" * 1_000_001)).status_code == 413


# ----------------------------------------------------------------------------------------------------------- overrides
async def override(world, kind: str, subject: str, **wanted: Any) -> Any:
    return await world.client.put(f"/api/v1/overrides/{kind}/{subject}", json=wanted, headers=world.operator)


async def test_an_override_is_set_shown_and_cleared(world) -> None:
    made = await override(world, "scale", "small-here", value={"min": 1, "max": 4}, for_s=60, note="workshop")
    assert made.status_code == 200
    (listed,) = (await get(world, "/api/v1/overrides"))["data"]
    assert (listed["value"], listed["note"], listed["by"]) == ({"min": 1, "max": 4}, "workshop", "admin listener")
    assert listed["until"] > listed["at"]
    small = next(row for row in (await get(world, "/api/v1/deployments"))["data"] if row["name"] == "small-here")
    assert (small["min"], small["max"], small["catalog_max"], small["overrides"]) == (1, 4, 2, ["scale"])
    cleared = await world.client.delete("/api/v1/overrides/scale/small-here", headers=world.operator)
    assert cleared.json() == {"data": []}
    again = await world.client.delete("/api/v1/overrides/scale/small-here", headers=world.operator)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "override_not_found")
    assert world.nudges.sent == ["catalog", "catalog"]


async def test_a_maintenance_is_announced_in_durations_and_kept_in_the_stores_clock(world) -> None:
    async def put(**wanted: Any) -> Any:
        return await world.client.put("/api/v1/overrides/maintenance/here", json=wanted, headers=world.operator)

    answer = await put(value={"starts_in_s": 3600, "lasts_s": 7200}, note="new racks")
    assert answer.status_code == 200, answer.text
    row = answer.json()
    assert row["value"]["ends_at"] - row["value"]["starts_at"] == 7200
    assert row["until"] > row["at"]
    for wrong in (
        {"value": {"starts_in_s": 5}},
        {"value": {"starts_in_s": -5, "lasts_s": 5}},
        {"value": {"starts_in_s": 5, "lasts_s": 5}, "for_s": 9},
        {"value": {"min": 1}},
    ):
        assert (await put(**wrong)).status_code == 400
    unknown = await world.client.put(
        "/api/v1/overrides/maintenance/nowhere",
        json={"value": {"starts_in_s": 5, "lasts_s": 5}},
        headers=world.operator,
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "subject_not_found")
    deployments = (await get(world, "/api/v1/deployments"))["data"]
    assert not any(row["overrides"] for row in deployments)


async def test_a_stopped_cluster_shows_as_stopped(world) -> None:
    await override(world, "stop", "here", note="maintenance")
    (cluster,) = (await get(world, "/api/v1/clusters"))["data"]
    assert (cluster["stopped"], cluster["stop_note"]) == (True, "maintenance")
    assert cluster["run_dir"] is not None
    (seen,) = (await get(world, "/api/v1/clusters", world.user()))["data"]
    assert (seen["stopped"], seen["run_dir"], seen["models"]) == (True, None, ["org/Small-1B"])


async def test_nodes_that_are_left_out_are_shown_with_why_until_an_operator_readmits_them(world) -> None:
    for number in (1, 2):
        world.job(f"j-{number}", state=JobState.ENDED, nodes=("n1",))
        world.instance(
            id=f"i-{number}",
            job=f"j-{number}",
            state=InstanceState.ENDED,
            reason=Reason.NODE_UNFIT,
            detail="n1: 8 GPUs were asked for and 7 can be used",
            ended_at=world.store.now(),
        )
    await world.publish(
        Snapshot(
            version=1,
            epoch=world.term.epoch,
            models=(ModelStatus(model="org/Small-1B", heat=Heat.COLD, reason=Reason.NODE_UNFIT),),
        )
    )
    (cluster,) = (await get(world, "/api/v1/clusters"))["data"]
    [left_out] = cluster["excluded"]
    assert (left_out["node"], left_out["detail"]) == ("n1", "n1: 8 GPUs were asked for and 7 can be used")
    assert left_out["left_s"] > 3600
    assert (cluster["jobs"], cluster["instances"]) == ({}, {}), "what has ended is not counted"
    why = (await get(world, "/api/v1/why/small"))["sentence"]
    assert "New jobs are kept off the node n1 of here for another " in why
    assert "`first deploy readmit here` ends that" in why
    (seen,) = (await get(world, "/api/v1/clusters", world.user()))["data"]
    assert seen["excluded"] == []
    assert "n1" not in (await get(world, "/api/v1/why/small", world.user()))["sentence"]
    assert (await override(world, "readmit", "here")).status_code == 200
    (cluster,) = (await get(world, "/api/v1/clusters"))["data"]
    assert cluster["excluded"] == []


@pytest.mark.parametrize(
    ("kind", "subject", "wanted", "status", "words"),
    [
        ("scale", "small-here", {}, 400, "min, max or both"),
        ("scale", "small-here", {"value": {"min": 3}}, 400, "above max 2"),
        ("scale", "small-here", {"value": {"max": -1}}, 400, "zero or more"),
        ("scale", "small-here", {"value": {"most": 1}}, 400, "value"),
        ("scale", "smal-here", {"value": {"max": 1}}, 404, "did you mean small-here?"),
        ("cordon", "small-here", {"value": {"max": 1}}, 400, "no value"),
        ("cordon", "i-000000000009", {}, 404, "no deployment or instance"),
        ("stop", "there", {}, 404, "did you mean here?"),
        ("stop", "small-here", {}, 404, "no cluster"),
        ("release", "i-000000000001", {}, 404, "no deployment"),
        ("readmit", "there", {}, 404, "did you mean here?"),
        ("dance", "small-here", {}, 400, "kind"),
        ("drain", "small-here", {"for_s": 0}, 400, "for_s"),
    ],
)
async def test_an_override_of_nothing_is_refused(
    world, *, kind: str, subject: str, wanted: dict[str, Any], status: int, words: str
) -> None:
    answer = await override(world, kind, subject, **wanted)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert world.store.overrides() == []


async def test_an_instance_can_be_drained_by_its_id(world) -> None:
    world.job()
    world.instance(state=InstanceState.READY, reason=Reason.SERVING)
    assert (await override(world, "drain", "i-000000000001")).status_code == 200


# --------------------------------------------------------------------------------------------------------------- fleet
async def test_instances_show_their_progress_and_what_is_in_flight(world) -> None:
    world.job()
    world.instance(fraction=0.5, progress="loading weights", detail="/secret/path")
    world.instance(
        "i-000000000002", state=InstanceState.READY, reason=Reason.SERVING, ready_at=world.store.now(), load_s=3.0
    )
    demand = Demand(
        gateway="gw-1",
        model="org/Small-1B",
        waiting=1,
        oldest_wait_s=1.0,
        in_flight={"i-000000000002": 7},
        wanted_ago_s=0.0,
    )
    world.store.write_demand(gateway="gw-1", acked=1, demand=[demand])
    loading, ready = (await get(world, "/api/v1/instances"))["data"]
    assert (loading["fraction"], loading["progress"], loading["detail"]) == (0.5, "loading weights", "/secret/path")
    assert (ready["in_flight"], ready["load_s"]) == (7, 3.0)
    seen = (await get(world, "/api/v1/instances", world.user()))["data"]
    assert [row["detail"] for row in seen] == ["", ""]
    (job,) = (await get(world, "/api/v1/jobs"))["data"]
    assert (job["id"], job["state"]) == ("j-000000000001", "RUNNING")


async def test_users_see_no_instances_of_models_they_may_not_use(world) -> None:
    world.instance(deployment="secret-here", model="org/Secret-70B")
    assert (await get(world, "/api/v1/instances", world.user()))["data"] == []
    assert len((await get(world, "/api/v1/instances", world.user(groups=("insiders",))))["data"]) == 1


async def test_ended_ones_are_listed_when_asked_for(world) -> None:
    now = world.store.now()
    world.job(state=JobState.ENDED)
    world.instance(
        state=InstanceState.ENDED,
        reason=Reason.OUT_OF_MEMORY,
        ended_at=now,
        exit_code=1,
        exit_tail=("CUDA out of memory",),
    )
    assert (await get(world, "/api/v1/instances"))["data"] == []
    (ended,) = (await get(world, "/api/v1/instances?ended=true"))["data"]
    assert (ended["reason"], ended["exit_code"], ended["exit_tail"]) == ("OUT_OF_MEMORY", 1, ["CUDA out of memory"])
    (seen,) = (await get(world, "/api/v1/instances?ended=true", world.user()))["data"]
    assert (seen["exit_code"], seen["exit_tail"]) == (None, [])
    assert len((await get(world, "/api/v1/jobs?ended=true"))["data"]) == 1
    log = await get(world, "/api/v1/instances/i-000000000001/log")
    assert (log["source"], log["lines"]) == ("exit report", ["CUDA out of memory"])


async def test_the_end_of_a_running_engines_log_is_read(world) -> None:
    job = world.job()
    world.instance()
    folder = world.folder / "jobs" / job.id / "i-000000000001"
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text("".join(f"line {number}\n" for number in range(50_000)))
    log = await get(world, "/api/v1/instances/i-000000000001/log?lines=3")
    assert log["lines"] == ["line 49997", "line 49998", "line 49999"]
    (folder / "engine.log").write_text("only\n" + "x" * 5000)
    log = await get(world, "/api/v1/instances/i-000000000001/log?lines=10")
    assert log["lines"] == ["only", "x" * 2000]


async def test_a_log_that_is_a_link_is_not_followed(world) -> None:
    job = world.job()
    world.instance()
    folder = world.folder / "jobs" / job.id / "i-000000000001"
    folder.mkdir(parents=True)
    (folder / "engine.log").symlink_to("/etc/passwd")
    answer = await world.client.get("/api/v1/instances/i-000000000001/log", headers=world.operator)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "log_elsewhere")


async def test_health_tells_of_store_controller_and_gateways(world) -> None:
    await world.publish(Snapshot(version=4, epoch=world.term.epoch))
    world.store.write_demand(gateway="gw-1", acked=4, demand=[])
    health = await get(world, "/api/v1/health")
    assert (health["store"], health["revision"], health["snapshot"]) == ("ok", 1, 4)
    assert [row["name"] for row in health["gateways"]] == ["gw-1"]
    assert health["controller_silent_s"] < 60
    world.store.away = StoreUnavailable("the store does not answer")
    health = await get(world, "/api/v1/health")
    assert (health["store"], health["store_detail"]) == ("away", "the store does not answer")


# ----------------------------------------------------------------------------------------------------------- questions
def attempt(**changes: Any) -> AttemptRecord:
    fields: dict[str, Any] = {
        "request": "req-1",
        "attempt": 1,
        "ended": True,
        "at": 1_800_000_000.0,
        "subject": "key:u1",
        "project": "",
        "client_request_id": "mine",
        "path": "/v1/chat/completions",
        "model": "org/Small-1B",
        "asked": "small",
        "deployment": "small-here",
        "cluster": "here",
        "instance": "i-000000000001",
        "stream": True,
        "request_class": RequestClass.INTERACTIVE,
        "outcome": Outcome.COMPLETE,
        "status": 200,
        "error_code": "",
        "decision": "only choice, 0 of 8 in flight",
        "usage": Usage(source=UsageSource.ENGINE, input_tokens=5, output_tokens=7),
        "waited_s": 2.0,
        "first_byte_s": 2.5,
        "first_token_s": 2.6,
        "total_s": 4.0,
        "gap_max_s": 0.2,
        "gap_mean_s": 0.1,
        "chunks": 8,
        "request_bytes": 100,
        "response_bytes": 1000,
    }
    return AttemptRecord(**(fields | changes))


async def test_a_request_is_explained_to_whoever_sent_it(world) -> None:
    settle(
        world.store,
        [
            attempt(ended=False, outcome=Outcome.RETRIED, status=0, error_code="refused", instance="i-000000000009"),
            attempt(attempt=2),
        ],
    )
    explained = await get(world, "/api/v1/requests/req-1", world.user())
    text = " ".join(explained["sentences"])
    for words in ("asked for as small", "tried elsewhere", "i-000000000001", "only choice", "5 in, 7 out", "2.5 s"):
        assert words in text
    assert [row["attempt"] for row in explained["attempts"]] == [1, 2]
    assert (await get(world, "/api/v1/requests/req-1"))["request"] == "req-1"


async def test_somebody_elses_request_is_as_if_it_were_not_there(world) -> None:
    settle(world.store, [attempt(subject="key:other")])
    for request in ("req-1", "req-2"):
        answer = await world.client.get(f"/api/v1/requests/{request}", headers=world.user())
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")


async def test_usage_is_ones_own_unless_an_operator_asks_for_all(world) -> None:
    import time

    settle(world.store, [attempt(at=time.time()), attempt(request="req-2", subject="key:other", at=time.time())])
    (mine,) = (await get(world, "/api/v1/usage", world.user()))["data"]
    assert (mine["requests"], mine["input_tokens"], mine["output_tokens"]) == (1, 5, 7)
    (still_mine,) = (await get(world, "/api/v1/usage?all=true", world.user()))["data"]
    assert still_mine["requests"] == 1
    (everybodys,) = (await get(world, "/api/v1/usage?all=true"))["data"]
    assert everybodys["requests"] == 2


async def test_why_says_it_in_a_sentence_and_tells_operators_what_happened(world) -> None:
    status = ModelStatus(
        model="org/Small-1B", heat=Heat.COLD, reason=Reason.OUT_OF_MEMORY, detail="4 starts failed", held=True
    )
    await world.publish(Snapshot(version=1, epoch=world.term.epoch, models=(status,)))
    event = EventRow(at=1.0, kind="deployment", subject="small-here", state="HELD", reason="OUT_OF_MEMORY", detail="x")
    world.store.save(world.term, events=[event])
    why = await get(world, "/api/v1/why/small")
    assert why["sentence"].startswith("org/Small-1B is cold and held: the engine ran out of memory (4 starts failed)")
    assert [row["subject"] for row in why["events"]] == ["small-here"]
    seen = await get(world, "/api/v1/why/small", world.user())
    assert (seen["sentence"], seen["events"]) == (why["sentence"], [])
    assert (await get(world, "/api/v1/history/small-here"))["data"][0]["detail"] == "x"


# ------------------------------------------------------------------------------------------------------------- watching
async def test_a_watcher_gets_the_listing_at_once_and_whenever_it_changes(world) -> None:
    """Through the stream itself: ASGITransport hands a body on only when it is whole."""
    from firstkit.apps.api.callers import Caller
    from firstkit.core.principal import Principal

    world.job()
    world.instance(fraction=0.1, progress="loading")
    caller = Caller(principal=Principal(subject="x", name="x"), operator=True)
    seen: list[tuple[str, Any]] = []
    async with anyio.create_task_group() as tasks:
        await tasks.start(world.api.run)
        stream = world.api.watch.stream(caller, frozenset({"instances", "jobs"}))
        with anyio.fail_after(20):
            async for block in stream:
                text = block.decode()
                if text.startswith("event:"):
                    kind, data = text.split("\n")[:2]
                    seen.append((kind[7:], json.loads(data[6:])))
                if len(seen) == 2:
                    world.instance(fraction=0.7, progress="loading")
                    world.api.nudged("report")
                if len(seen) == 3:
                    world.api.close()
        tasks.cancel_scope.cancel()
    assert [kind for kind, _ in seen] == ["instances", "jobs", "instances"]
    assert [rows[0]["fraction"] for kind, rows in seen if kind == "instances"] == [0.1, 0.7]
    assert world.api.watch.watchers == 0


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_the_stream_of_a_key_ends_with_the_key(world, how: str) -> None:
    from firstkit.apps.api.callers import Caller
    from firstkit.core.principal import Principal

    much_later = world.store.now() + 7200
    for name in ("mine", "other"):
        principal = Principal(subject=f"key:{name}", name=name)
        world.store.key_add(
            name=name, digest=name.encode(), prefix=name, principal=principal, expires_at=world.store.now() + 3600
        )
    caller = Caller(principal=Principal(subject="key:mine", name="mine"), operator=False)
    events = 0
    async with anyio.create_task_group() as tasks:
        await tasks.start(world.api.run)
        with anyio.fail_after(20):
            async for block in world.api.watch.stream(caller, frozenset({"models"})):
                if block.startswith(b"event:"):
                    events += 1
                    if how == "expired":
                        world.store._store.now = lambda: much_later
                    else:
                        world.store.key_revoke("mine")
                    world.api.nudged("report")
        tasks.cancel_scope.cancel()
    assert events == 1
    assert world.api.watch.watchers == 0


async def test_jobs_are_watched_by_operators_alone_and_only_known_listings(world) -> None:
    answer = await world.client.get("/api/v1/events?watch=jobs", headers=world.user())
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operator_only")
    for query in ("", "?watch=moon"):
        answer = await world.client.get(f"/api/v1/events{query}", headers=world.operator)
        assert answer.status_code == 400


# ---------------------------------------------------------------------------------------------------------------- pages
async def test_the_reference_page_needs_no_other_machine(world) -> None:
    page = await world.client.get("/api/docs")
    assert page.status_code == 200
    assert "://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for link in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text):
        part = await world.client.get(f"/api/{link}")
        assert part.status_code == 200, link
        assert len(part.content) > 100
    plain = await world.client.get("/api/docs/swagger-ui.css", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text.lstrip().startswith((".", "/", "@", "*", ":"))
    assert (await world.client.get("/api/docs/other.js")).status_code == 404


async def test_what_is_not_there_is_said_in_the_surfaces_error_body(world) -> None:
    for method, path, status, code in (
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/control/v1/jobs/x/status", 405, "method_not_allowed"),
    ):
        answer = await world.client.request(method, path, headers=world.operator)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == code


async def test_an_unforeseen_failure_is_a_500_that_shows_nothing(world) -> None:
    world.store.away = RuntimeError("secret detail")
    answer = await world.client.get("/api/v1/jobs", headers=world.operator)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
