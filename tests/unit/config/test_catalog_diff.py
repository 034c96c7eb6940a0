# SPDX-License-Identifier: Apache-2.0
"""What a new revision does to running instances: in place, new ones, or drained and gone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from firstkit.core.catalog import (
    Access,
    Catalog,
    Cluster,
    ClusterLimits,
    Deployment,
    EngineSpec,
    LinkSpec,
    Model,
    Resources,
    RunnerSpec,
    Scaling,
    SchedulerSpec,
    UpdateStyle,
)
from firstkit.core.catalog_diff import What, diff, sentence, spec_digest

CLUSTER = Cluster(
    name="here",
    scheduler=SchedulerSpec(kind="local"),
    runner=RunnerSpec(kind="local"),
    link=LinkSpec(kind="direct", ports=(42000, 42099)),
    run_dir="/srv/first",
)
DEPLOYMENT = Deployment(
    name="one",
    model="org/llama",
    engine=EngineSpec(kind="vllm", model="/models/llama", args={"a": 1, "b": [1, {"c": True}]}, env={"X": "1"}),
    cluster="here",
    resources=Resources(gpus=2, walltime_s=3600.0),
)
CATALOG = Catalog(
    revision=1,
    clusters={"here": CLUSTER},
    models={"org/llama": Model(name="org/llama", aliases=("llama",))},
    deployments={"one": DEPLOYMENT},
)

CHANGES: list[tuple[str, bool, Callable[[Deployment, Cluster], tuple[Deployment, Cluster]]]] = []


def engine(deployment: Deployment, **changes: Any) -> Deployment:
    return dataclasses.replace(deployment, engine=dataclasses.replace(deployment.engine, **changes))


def add(name: str, replaces: bool, change: Callable[[Deployment, Cluster], tuple[Deployment, Cluster]]) -> None:
    CHANGES.append((name, replaces, change))


add("model", True, lambda d, c: (dataclasses.replace(d, model="other"), c))
add("kind", True, lambda d, c: (engine(d, kind="command"), c))
add("weights", True, lambda d, c: (engine(d, model="/models/other"), c))
add("an argument", True, lambda d, c: (engine(d, args={"a": 2, "b": [1, {"c": True}]}), c))
add("an argument's type", True, lambda d, c: (engine(d, args={"a": 1, "b": [1, {"c": 1}]}), c))
add("env", True, lambda d, c: (engine(d, env={}), c))
add("engine setup", True, lambda d, c: (engine(d, setup="x"), c))
add("options", True, lambda d, c: (engine(d, options={"venv": "/x"}), c))
add("gpus", True, lambda d, c: (dataclasses.replace(d, resources=Resources(gpus=1, walltime_s=3600.0)), c))
add("walltime", True, lambda d, c: (dataclasses.replace(d, resources=Resources(gpus=2)), c))
add("cluster setup", True, lambda d, c: (d, dataclasses.replace(c, setup="module load x")))
add("link", True, lambda d, c: (d, dataclasses.replace(c, link=LinkSpec(kind="local"))))
add("runner", True, lambda d, c: (d, dataclasses.replace(c, runner=RunnerSpec(kind="local", options={"host": "x"}))))
add("order of arguments", False, lambda d, c: (engine(d, args={"b": [1, {"c": True}], "a": 1}), c))
add("start timeout", False, lambda d, c: (engine(d, start_timeout_s=5.0), c))
add("scaling", False, lambda d, c: (dataclasses.replace(d, scaling=Scaling(max=9)), c))
add("update style", False, lambda d, c: (dataclasses.replace(d, update=UpdateStyle.DRAIN_FIRST), c))
add("limits", False, lambda d, c: (d, dataclasses.replace(c, limits=ClusterLimits(jobs=1))))
add("ports", False, lambda d, c: (d, dataclasses.replace(c, link=LinkSpec(kind="direct", ports=(1, 2)))))
add("account", False, lambda d, c: (d, dataclasses.replace(c, scheduler=SchedulerSpec(kind="local", options={"a": 1}))))


@pytest.mark.parametrize(("name", "replaces", "change"), CHANGES, ids=[name for name, _, _ in CHANGES])
def test_a_change_makes_new_instances_only_where_they_are_made_otherwise(
    name: str, replaces: bool, change: Callable[[Deployment, Cluster], tuple[Deployment, Cluster]]
) -> None:
    deployment, cluster = change(DEPLOYMENT, CLUSTER)
    assert (spec_digest(deployment, cluster) != spec_digest(DEPLOYMENT, CLUSTER)) is replaces
    new = dataclasses.replace(CATALOG, clusters={"here": cluster}, deployments={"one": deployment})
    changes = diff(CATALOG, new)
    replaced = [item.name for item in changes.deployments if item.replaces]
    assert replaced == (["one"] if replaces else [])
    assert bool(changes) is (name != "order of arguments")


def test_the_digest_is_the_same_in_every_process_and_for_ever() -> None:
    """Running instances carry it: another value after an upgrade would replace all of them."""
    assert spec_digest(DEPLOYMENT, CLUSTER) == "6e323dc47dcf78fe"
    assert spec_digest(dataclasses.replace(DEPLOYMENT, cluster=None, resources=None), None) == "0217fe479bcfb1a2"


def test_the_same_catalog_under_another_number_has_no_changes() -> None:
    assert not diff(CATALOG, dataclasses.replace(CATALOG, revision=2))


def test_added_and_removed_parts_are_named() -> None:
    changes = diff(CATALOG, Catalog())
    assert [(item.kind, item.name, item.what, item.replaces) for item in changes.changes] == [
        ("cluster", "here", What.REMOVED, False),
        ("model", "org/llama", What.REMOVED, False),
        ("deployment", "one", What.REMOVED, True),
    ]
    assert [item.what for item in diff(Catalog(), CATALOG).changes] == [What.ADDED] * 3


def test_changes_are_said_in_words() -> None:
    scaling = Scaling(max=4, idle_s=None)
    access = Model(name="org/llama", aliases=("llama", "l"), access=Access(groups=frozenset({"b", "a"})))
    new = dataclasses.replace(
        CATALOG,
        clusters={"here": dataclasses.replace(CLUSTER, setup="module load x")},
        models={"org/llama": access},
        deployments={
            "two": dataclasses.replace(DEPLOYMENT, name="two"),
            "one": dataclasses.replace(DEPLOYMENT, scaling=scaling, resources=Resources(gpus=2, memory_bytes=10**9)),
        },
    )
    one = (
        "deployment one: changed (new instances take over, the old ones are drained): resources.memory none → 1.0 GB, "
        "resources.walltime 1 h → never, scaling.max 1 → 4, scaling.idle 2 h → never, "
        'clusters.here.setup "" → "module load x"'
    )
    assert [sentence(item) for item in diff(CATALOG, new).changes] == [
        'cluster here: changed: setup "" → "module load x"',
        'model org/llama: changed: aliases ["llama"] → ["llama", "l"], access.groups [] → ["a", "b"]',
        "deployment two: added",
        one,
    ]
    in_place = dataclasses.replace(CATALOG, deployments={"one": dataclasses.replace(DEPLOYMENT, scaling=scaling)})
    assert [sentence(item) for item in diff(CATALOG, in_place).changes] == [
        "deployment one: changed (in place): scaling.max 1 → 4, scaling.idle 2 h → never"
    ]
    assert sentence(diff(CATALOG, Catalog()).deployments[0]).endswith("its instances are drained and end")
