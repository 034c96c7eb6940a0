# SPDX-License-Identifier: Apache-2.0
"""`/v1/models` as callers see it."""

import pytest

from firstkit.core.reasons import Reason
from firstkit.core.topology import Heat, ModelStatus, Snapshot
from firstkit.ports.store import Demand, StoreUnavailable

pytestmark = pytest.mark.anyio


async def test_a_caller_sees_the_models_it_may_use_and_no_others(world) -> None:
    answer = await world.client.get("/v1/models", headers=world.user())
    assert answer.status_code == 200
    assert answer.json()["object"] == "list"
    assert [item["id"] for item in answer.json()["data"]] == ["org/Small-1B"]
    insider = await world.client.get("/v1/models", headers=world.user(groups=("insiders",)))
    assert [item["id"] for item in insider.json()["data"]] == ["org/Small-1B", "org/Secret-70B"]
    confined = await world.client.get("/v1/models", headers=world.user(models=("other",)))
    assert confined.json()["data"] == []


async def test_before_the_first_revision_nobody_is_told_that_there_are_no_models(new_world) -> None:
    for path in ("/v1/models", "/v1/models/org/Small-1B", "/api/v1/models"):
        answer = await new_world.client.get(path, headers=new_world.user())
        assert answer.status_code == 503, path
        assert answer.json()["error"]["code"] == "not_ready"
        assert "first deploy apply" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"


async def test_the_first_revision_can_be_applied_and_its_models_are_there_at_once(new_world) -> None:
    done = await new_world.client.post("/api/v1/revisions", content=new_world.document, headers=new_world.operator)
    assert done.status_code == 200, done.text
    answer = await new_world.client.get("/v1/models", headers=new_world.user())
    assert [item["id"] for item in answer.json()["data"]] == ["org/Small-1B"]


async def test_operators_see_all_models(world) -> None:
    answer = await world.client.get("/v1/models", headers=world.operator)
    assert len(answer.json()["data"]) == 2


async def test_a_cold_model_tells_its_length_and_that_it_is_cold(world) -> None:
    answer = await world.client.get("/v1/models/org/Small-1B", headers=world.user())
    model = answer.json()
    assert (model["object"], model["owned_by"]) == ("model", "firstkit")
    assert model["max_model_len"] == model["context_length"] == 2048
    assert model["first"]["state"] == "cold"
    assert model["first"]["time_to_hot_s"] is None
    assert model["first"]["aliases"] == ["small", "Small-1B"]
    assert model["created"] > 0


async def test_what_the_controller_published_is_told(world) -> None:
    await world.publish(
        Snapshot(
            version=1,
            epoch=world.term.epoch,
            revision=1,
            models=(
                ModelStatus(
                    model="org/Small-1B",
                    heat=Heat.WARM,
                    reason=Reason.LOADING,
                    for_s=3.0,
                    to_hot_s=20.0,
                    fraction=0.4,
                    text="loading weights",
                    clusters=("here",),
                    max_model_len=4096,
                    paths=frozenset({"/v1/chat/completions"}),
                ),
            ),
        )
    )
    model = (await world.client.get("/v1/models/small", headers=world.user())).json()
    assert model["id"] == "org/Small-1B"
    assert model["max_model_len"] == 2048
    first = model["first"]
    assert (first["state"], first["reason"], first["clusters"]) == ("warm", "LOADING", ["here"])
    assert (first["fraction"], first["progress"]) == (0.4, "loading weights")
    assert first["endpoints"] == ["/v1/chat/completions"]
    assert 0 < first["time_to_hot_s"] <= 20
    assert first["for_s"] >= 3


async def test_how_many_wait_for_a_model_at_all_gateways_is_told(world) -> None:
    async def waiting() -> int:
        return (await world.client.get("/v1/models/small", headers=world.user())).json()["first"]["waiting"]

    assert await waiting() == 0
    for gateway, count in (("gw-1", 2), ("gw-2", 3)):
        demand = Demand(
            gateway=gateway,
            model="org/Small-1B",
            waiting=count,
            oldest_wait_s=1.0,
            in_flight={},
            wanted_ago_s=0.0,
            lost=(),
        )
        world.store.write_demand(gateway=gateway, acked=0, demand=[demand])
    await world.api.memory.refresh()
    assert await waiting() == 5
    for gateway in ("gw-1", "gw-2"):
        world.store.write_demand(gateway=gateway, acked=0, demand=[])
    await world.api.memory.refresh()
    assert await waiting() == 0


async def test_a_held_model_says_so_in_a_notice(world) -> None:
    status = ModelStatus(
        model="org/Small-1B", heat=Heat.COLD, reason=Reason.OUT_OF_MEMORY, detail="4 starts failed", held=True
    )
    await world.publish(Snapshot(version=1, epoch=world.term.epoch, models=(status,)))
    first = (await world.client.get("/v1/models/small", headers=world.user())).json()["first"]
    assert first["held"] is True
    assert "OUT_OF_MEMORY" in first["notices"][0]
    assert "4 starts failed" in first["notices"][0]


async def test_paths_on_a_cluster_are_shown_to_operators_alone(world) -> None:
    detail = "no weights at '/lus/secret/x.gguf' (see ~/run/j-1/engine.log, 3/4 tries)"
    status = ModelStatus(
        model="org/Small-1B", heat=Heat.COLD, reason=Reason.WEIGHTS_MISSING, detail=detail, text=detail, held=True
    )
    await world.publish(Snapshot(version=1, epoch=world.term.epoch, models=(status,)))
    for path in ("/v1/models", "/v1/models/small", "/api/v1/models", "/api/v1/why/small"):
        told = (await world.client.get(path, headers=world.user())).text
        assert "/lus" not in told
        assert "engine.log" not in told
        assert "no weights at '…' (see ~…, 3/4 tries)" in told
        assert detail in (await world.client.get(path, headers=world.operator)).text


async def test_an_unknown_model_names_the_nearest_that_the_caller_may_use(world) -> None:
    answer = await world.client.get("/v1/models/smal", headers=world.user())
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "small" in error["message"]


async def test_a_hidden_model_is_as_if_it_were_not_there(world) -> None:
    answer = await world.client.get("/v1/models/org/Secret-70B", headers=world.user())
    assert answer.status_code == 404
    assert "did you mean org/Secret" not in answer.json()["error"]["message"]


async def test_a_model_that_the_key_is_not_for_is_forbidden(world) -> None:
    answer = await world.client.get("/v1/models/small", headers=world.user(models=("other",)))
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "model_not_allowed"


async def test_nobody_is_answered_without_a_credential(world) -> None:
    answer = await world.client.get("/v1/models")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "missing_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_models_are_answered_while_the_store_is_away(world) -> None:
    world.store.away = StoreUnavailable("gone")
    await world.api.memory.refresh()
    answer = await world.client.get("/v1/models", headers=world.user())
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 1
    assert (await world.client.get("/healthz")).json() == {"status": "ok", "store": "away"}


async def test_a_new_revision_shows_at_the_next_look(world) -> None:
    document = world.store.current_revision().document.replace("aliases: [small]", "aliases: [tiny]")
    world.store.add_revision(document=document, by="test")
    await world.api.memory.refresh()
    assert (await world.client.get("/v1/models/tiny", headers=world.user())).status_code == 200
    assert (await world.client.get("/v1/models/small", headers=world.user())).status_code == 404


async def test_a_revision_that_cannot_be_read_leaves_the_last_one_in_place(world) -> None:
    world.store.add_revision(document="models: [", by="a newer firstkit")
    await world.api.memory.refresh()
    answer = await world.client.get("/v1/models", headers=world.user())
    assert [item["id"] for item in answer.json()["data"]] == ["org/Small-1B"]
