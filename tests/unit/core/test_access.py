# SPDX-License-Identifier: Apache-2.0
"""Who may see and use which model, and what a mistaken name was meant to be."""

from dataclasses import replace

import pytest

from firstkit.core.access import NAMES_COMPARED, Directory, bare, may_see, may_use, nearest
from firstkit.core.catalog import Access, Catalog, Model
from firstkit.core.principal import Principal

ANN = Principal(subject="key:1", name="ann", groups=frozenset({"staff", "chem"}), domain="lab.gov")
OPEN = Model(name="org/open", aliases=("easy",))


def closed(*, groups: tuple[str, ...] = (), domains: tuple[str, ...] = ()) -> Model:
    return Model(name="org/closed", access=Access(groups=frozenset(groups), domains=frozenset(domains)))


def test_a_model_without_access_lists_is_everybodys() -> None:
    assert may_see(ANN, OPEN)
    assert may_use(Principal(subject="key:2", name="nobody in particular"), OPEN)


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        (closed(groups=("staff",)), True),
        (closed(groups=("physics",)), False),
        (closed(domains=("lab.gov",)), True),
        (closed(domains=("elsewhere.org",)), False),
        (closed(groups=("chem",), domains=("lab.gov",)), True),
        (closed(groups=("physics",), domains=("lab.gov",)), False),
        (closed(groups=("chem",), domains=("elsewhere.org",)), False),
    ],
)
def test_every_access_list_that_is_given_must_be_met(model: Model, allowed: bool) -> None:
    assert may_see(ANN, model) is allowed
    assert may_use(ANN, model) is allowed


@pytest.mark.parametrize("listed", ["org/open", "easy", "open"])
def test_a_credential_confined_to_some_models_names_them_by_any_of_their_names(listed: str) -> None:
    confined = replace(ANN, models=frozenset({listed}))
    assert may_use(confined, OPEN)
    assert not may_use(confined, closed(groups=("staff",)))
    assert may_see(confined, closed(groups=("staff",)))


def test_a_confined_credential_reaches_no_further_than_its_owner() -> None:
    assert not may_use(replace(ANN, models=frozenset({"org/closed"})), closed(groups=("physics",)))


def test_an_empty_list_of_models_allows_none() -> None:
    assert not may_use(replace(ANN, models=frozenset()), OPEN)


def catalog(*models: Model) -> Catalog:
    return Catalog(models={model.name: model for model in models})


def test_every_model_has_a_name_without_slash() -> None:
    directory = Directory.of(catalog(Model(name="meta-llama/Llama-3.3-70B-Instruct")))
    assert directory.by_name["Llama-3.3-70B-Instruct"].name == "meta-llama/Llama-3.3-70B-Instruct"
    assert bare("a/b/c") == "c"
    assert bare("plain") == "plain"


def test_a_bare_name_of_two_models_leads_nowhere() -> None:
    directory = Directory.of(catalog(Model(name="a/same"), Model(name="b/same")))
    assert "same" not in directory.by_name


def test_an_explicit_name_wins_over_a_bare_one() -> None:
    directory = Directory.of(catalog(Model(name="a/same"), Model(name="b/other", aliases=("same",))))
    assert directory.by_name["same"].name == "b/other"
    directory = Directory.of(catalog(Model(name="a/same"), Model(name="same")))
    assert directory.by_name["same"].name == "same"


def test_the_nearest_names_come_likest_first_whatever_their_case() -> None:
    names = ["Llama-3.3-70B", "llama-3.1-8b", "gemma-2-9b"]
    assert nearest("LLAMA-3.3-70b", names)[0] == "Llama-3.3-70B"
    assert nearest("lama-3.1-8b", names)[0] == "llama-3.1-8b"
    assert nearest("zzzz", names) == []


def test_a_hidden_model_is_never_suggested() -> None:
    directory = Directory.of(catalog(OPEN, Model(name="org/opal", access=Access(groups=frozenset({"physics"})))))
    assert "opal" not in "".join(directory.suggestions("org/opal", ANN))
    assert directory.suggestions("org/opan", ANN)[0] == "org/open"


def test_a_model_that_the_credential_may_not_use_is_not_suggested_either() -> None:
    directory = Directory.of(catalog(OPEN, Model(name="org/opal")))
    suggested = directory.suggestions("org/opal", replace(ANN, models=frozenset({"easy"})))
    assert "org/opal" not in suggested


def test_comparing_names_is_bounded() -> None:
    names = (f"model-{number}" for number in range(10 * NAMES_COMPARED))
    assert nearest("model-1" + "x" * 10_000, names) == []
    assert next(names) == f"model-{NAMES_COMPARED}"
