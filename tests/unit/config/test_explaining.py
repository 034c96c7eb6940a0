# SPDX-License-Identifier: Apache-2.0
"""What `explain`, the schema, the reference page and the comparison of settings say."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from firstkit.config.changes import restarts, settings_changes
from firstkit.config.disk import Disk
from firstkit.config.environment import VARIABLES, read_environment
from firstkit.config.explaining import explain
from firstkit.config.keys import all_keys
from firstkit.config.loading import Loaded, load
from firstkit.config.reference import EXAMPLE
from firstkit.config.schema import json_schema
from firstkit.core.errors import ConfigError
from firstkit.core.settings import Listen, TlsFiles
from firstkit.ports.engine import Engine

VALID = Path(__file__).parent / "valid"


@pytest.fixture
def everything(engines: Mapping[str, Engine], disk: Disk) -> Loaded:
    text = (VALID / "everything.yaml").read_text()
    environ = {"FIRST_LISTEN": "127.0.0.1:9999"}
    return load(text, data_dir=Path("/state"), environ=environ, engines=engines, disk=disk)


def test_a_key_is_explained_with_type_default_example_and_present_value(everything: Loaded) -> None:
    lines = (VALID / "everything.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.startswith("    scaling: {min: 1, max: 4, "))
    assert explain("deployments.llama-70b-here.scaling.max", loaded=everything).splitlines() == [
        "deployments.NAME.scaling.max",
        "  most serving instances, a successor not counted",
        "  type      whole number",
        "  default   1",
        "  example   max: 4",
        "  applies   at once, in place",
        f"  now       deployments.llama-70b-here.scaling.max: 4  (first.yaml:{line}:28)",
    ]


def test_a_present_value_says_where_it_comes_from(everything: Loaded) -> None:
    assert 'gateway.listen: "127.0.0.1:9999"  (FIRST_LISTEN)' in explain("gateway.listen", loaded=everything)
    running = explain("scaling.max", loaded=everything)
    assert "deployments.running.scaling.max: 1  (default)" in running
    assert "models.running.max_model_len: none  (default)" in explain("max_model_len", loaded=everything)
    short = load("store: sqlite:///x.db\n", data_dir=Path("/state"))
    assert "store.url: sqlite:///x.db  (first.yaml:1:8)" in explain("store.url", loaded=short)


def test_every_key_can_be_explained_whole_and_by_its_end(everything: Loaded, engines: Mapping[str, Engine]) -> None:
    for key in all_keys():
        for name in (key.dotted, key.name):
            text = explain(name, loaded=everything, engines=engines)
            assert key.about in text


def test_a_key_of_some_engines_says_of_which(engines: Mapping[str, Engine]) -> None:
    assert explain("engine.venv", engines=engines).endswith("a key of the engines llamacpp, transformers, vllm")
    assert explain("deployments.NAME.engine.url", engines=engines).endswith("a key of the engine external")


def test_no_key_lists_all_keys() -> None:
    assert len(explain("").splitlines()) == len(all_keys()) + 1


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("idel", "did you mean `idle`"),
        ("scaling.mx", "did you mean `max`"),
        ("vnev", "did you mean `venv`"),
        ("a..b", "no path of keys"),
        ("xyzzy", "lists all keys"),
    ],
)
def test_an_unknown_key_gets_the_nearest(key: str, words: str, engines: Mapping[str, Engine]) -> None:
    with pytest.raises(ConfigError, match=words):
        explain(key, engines=engines)


def test_every_key_has_a_meaning_and_what_has_no_default_an_example() -> None:
    assert not [key.dotted for key in all_keys() if len(key.about) < 10]
    assert not [key.dotted for key in all_keys() if not key.section and not key.example]


# -------------------------------------------------------------------------------------------------------- the schema


def test_the_schema_describes_every_key(engines: Mapping[str, Engine]) -> None:
    schema = json_schema(engines)
    described = json.dumps(schema)
    assert not [key.dotted for key in all_keys() if json.dumps(key.about)[1:-1] not in described]
    engine = schema["$defs"]["Engine"]
    assert engine["properties"]["kind"]["enum"] == ["command", "external", "llamacpp", "transformers", "vllm"]
    assert "url" in engine["properties"]
    assert engine["additionalProperties"] is False
    assert json_schema()["$defs"]["Engine"]["additionalProperties"] is True
    assert schema["$defs"]["Deployment"]["required"] == ["model", "engine"]
    assert "title" not in schema["$defs"]["Gateway"]


def test_the_example_of_the_reference_page_loads(engines: Mapping[str, Engine], disk: Disk) -> None:
    text = EXAMPLE.replace("/models/llama-3.3-70b", "/models/llama").replace("/var/lib/first", "/srv")
    assert not load(text, data_dir=Path("/state"), engines=engines, disk=disk).warnings


# ------------------------------------------------------------------------------------------------ changes, environment


def test_a_changed_setting_says_who_must_be_started_anew(everything: Loaded) -> None:
    old = everything.settings
    gateway = dataclasses.replace(old.gateway, listen=Listen(port=7), queue=5, drain_s=5400.0, tls=None)
    new = dataclasses.replace(
        old,
        gateway=gateway,
        store=dataclasses.replace(old.store, url="sqlite:////x.db"),
        controller=dataclasses.replace(old.controller, tick_s=2.0),
        api_keys=False,
        data_dir="/elsewhere",
    )
    found = {change.key: change for change in settings_changes(old, new)}
    assert {key: change.restart for key, change in found.items()} == {
        "data": ("gateway", "api", "controller"),
        "gateway.listen": ("gateway",),
        "gateway.queue": (),
        "gateway.drain": (),
        "gateway.tls.certificate": ("gateway",),
        "gateway.tls.key": ("gateway",),
        "store.url": ("gateway", "api", "controller"),
        "identity.api_keys": ("gateway", "api"),
        "controller.tick": ("controller",),
    }
    assert str(found["gateway.queue"]) == "gateway.queue: 100 → 5 (at once)"
    assert str(found["gateway.drain"]) == "gateway.drain: 2m → 1h30m (at once)"
    assert (
        str(found["gateway.tls.key"])
        == "gateway.tls.key: /tls/good.key → none (takes effect when gateway is started anew)"
    )
    assert str(found["identity.api_keys"]).endswith("(takes effect when gateway and api are started anew)")
    assert restarts(found.values()) == ("gateway", "api", "controller")
    assert restarts([found["gateway.queue"]]) == ()


def test_the_same_settings_have_no_changes(everything: Loaded) -> None:
    assert settings_changes(everything.settings, everything.settings) == ()
    tls = TlsFiles(certificate="/tls/good.crt", key="/tls/good.key")
    same = dataclasses.replace(everything.settings, gateway=dataclasses.replace(everything.settings.gateway, tls=tls))
    assert settings_changes(everything.settings, same) == ()
    renewed = dataclasses.replace(
        same, gateway=dataclasses.replace(same.gateway, tls=dataclasses.replace(tls, key="k"))
    )
    (change,) = settings_changes(everything.settings, renewed)
    assert change.restart == ()


def test_every_change_of_a_setting_is_seen(everything: Loaded) -> None:
    """A setting that were compared with nothing would change unseen."""
    old = everything.settings
    for part in ("gateway", "controller", "store"):
        section = getattr(old, part)
        for field in dataclasses.fields(section):
            if field.name == "uploads":
                continue
            other = dataclasses.replace(section, **{field.name: _another(getattr(section, field.name))})
            assert settings_changes(old, dataclasses.replace(old, **{part: other})), f"{part}.{field.name}"


def _another(value: object) -> object:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case Listen():
            return dataclasses.replace(value, port=value.port + 1)
        case TlsFiles():
            return dataclasses.replace(value, key="other")
        case tuple():
            return (*value, "https://other")
        case _:
            return {"/other": 1}


def test_only_the_listed_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("FIRST_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("FIRST_STORE", "")
    monkeypatch.setenv("FIRST_UNHEARD_OF", "x")
    assert read_environment() == {"FIRST_LISTEN": "127.0.0.1:1"}
