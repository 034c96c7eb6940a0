# SPDX-License-Identifier: Apache-2.0
"""What a model's name means to a caller, and what is told when it means nothing."""

from dataclasses import replace

import pytest

from firstkit.core.catalog import Access, Catalog
from firstkit.core.errors import Forbidden, NotFound, Unavailable
from firstkit.core.topology import Heat
from firstkit.testing.dispatching import CHAT, DispatcherWorld, catalog, principal, route, status

OPEN, SECRET = "org/open-7b", "org/secret-7b"


@pytest.fixture
def world() -> DispatcherWorld:
    world = DispatcherWorld()
    made = catalog(OPEN, SECRET)
    models = {
        OPEN: replace(made.models[OPEN], aliases=("fast",)),
        SECRET: replace(made.models[SECRET], access=Access(groups=frozenset({"insiders"}))),
    }
    world.dispatcher.set_catalog(replace(made, models=models))
    return world


@pytest.mark.parametrize("asked", [OPEN, "fast", "open-7b"])
def test_a_model_is_found_by_each_of_its_names(world: DispatcherWorld, asked: str) -> None:
    assert world.dispatcher.resolve(asked, principal(), None, CHAT).name == OPEN


def test_an_unknown_name_gets_the_nearest_that_the_caller_may_use(world: DispatcherWorld) -> None:
    with pytest.raises(NotFound) as told:
        world.dispatcher.resolve("org/opne-7b", principal(), None, CHAT)
    assert told.value.code == "model_not_found"
    assert told.value.param == "model"
    assert "open-7b" in told.value.message


def test_a_hidden_model_is_no_different_from_one_that_does_not_exist(world: DispatcherWorld) -> None:
    messages = []
    for asked in (SECRET, "org/secreT-7b"):
        with pytest.raises(NotFound) as told:
            world.dispatcher.resolve(asked, principal(), None, CHAT)
        messages.append(told.value.message.replace(repr(asked), "NAME"))
    assert messages[0] == messages[1]
    assert "secret" not in messages[0]
    assert world.dispatcher.resolve(SECRET, principal("ins", groups=["insiders"]), None, CHAT).name == SECRET


def test_a_visible_model_that_the_credential_is_not_for_is_forbidden(world: DispatcherWorld) -> None:
    with pytest.raises(Forbidden) as told:
        world.dispatcher.resolve(OPEN, principal(models=["other"]), None, CHAT)
    assert told.value.code == "model_not_allowed"
    with pytest.raises(NotFound):
        world.dispatcher.resolve(SECRET, principal(models=["other"]), None, CHAT)


def test_a_name_of_any_length_is_answered_briefly(world: DispatcherWorld) -> None:
    with pytest.raises(NotFound) as told:
        world.dispatcher.resolve("x" * 1_000_000, principal(), None, CHAT)
    assert len(told.value.message) < 400


def test_an_unknown_cluster_is_named_beside_those_that_there_are(world: DispatcherWorld) -> None:
    with pytest.raises(NotFound) as told:
        world.dispatcher.resolve(OPEN, principal(), "nowhere", CHAT)
    assert told.value.code == "cluster_not_found"
    assert "here, there" in told.value.message


def test_a_model_that_is_not_at_the_pinned_cluster_says_where_it_is() -> None:
    world = DispatcherWorld()
    made = catalog(OPEN)
    here = {name: item for name, item in made.deployments.items() if item.cluster == "here"}
    world.dispatcher.set_catalog(replace(made, deployments=here))
    assert world.dispatcher.resolve(OPEN, principal(), "here", CHAT).name == OPEN
    with pytest.raises(NotFound) as told:
        world.dispatcher.resolve(OPEN, principal(), "there", CHAT)
    assert "It is at here" in told.value.message


def test_an_endpoint_that_nobody_serves_the_model_at_is_not_found(world: DispatcherWorld) -> None:
    chat = frozenset({CHAT})
    world.tell(route("i-a", model=OPEN, paths=chat), status(Heat.HOT, model=OPEN, paths=chat))
    with pytest.raises(NotFound) as told:
        world.dispatcher.resolve(OPEN, principal(), None, "/v1/embeddings")
    assert told.value.code == "endpoint_not_supported"
    assert CHAT in told.value.message
    assert world.dispatcher.resolve(OPEN, principal(), None, CHAT).name == OPEN


def test_a_cold_models_endpoints_are_known_from_its_state(world: DispatcherWorld) -> None:
    world.tell(status(Heat.COLD, model=OPEN, paths=frozenset({CHAT})))
    with pytest.raises(NotFound):
        world.dispatcher.resolve(OPEN, principal(), None, "/v1/embeddings")


def test_endpoints_that_are_not_known_are_let_through(world: DispatcherWorld) -> None:
    assert world.dispatcher.resolve(OPEN, principal(), None, "/v1/embeddings").name == OPEN
    world.tell(status(Heat.HOT, model=OPEN, paths=frozenset({CHAT})), route("i-a", model=OPEN))
    assert world.dispatcher.resolve(OPEN, principal(), None, "/v1/embeddings").name == OPEN


def test_a_model_that_nothing_serves_is_unavailable(world: DispatcherWorld) -> None:
    made = catalog(OPEN)
    world.dispatcher.set_catalog(Catalog(models=made.models, clusters=made.clusters))
    with pytest.raises(Unavailable):
        world.dispatcher.resolve(OPEN, principal(), None, CHAT)


def test_before_the_catalog_is_read_nothing_is_denied_and_a_retry_is_asked_for() -> None:
    world = DispatcherWorld()
    assert not world.dispatcher.ready
    with pytest.raises(Unavailable) as told:
        world.dispatcher.resolve(OPEN, principal(), None, CHAT)
    assert told.value.code == "not_ready"
    assert told.value.retry_after_s == 1.0


def test_a_new_catalog_changes_what_names_mean_at_once(world: DispatcherWorld) -> None:
    world.dispatcher.set_catalog(catalog("org/new"))
    assert world.dispatcher.resolve("new", principal(), None, CHAT).name == "org/new"
    with pytest.raises(NotFound):
        world.dispatcher.resolve("fast", principal(), None, CHAT)
