# SPDX-License-Identifier: Apache-2.0
"""Agents' settings: what is written, and what of the user's is kept."""

import json
import tomllib

import pytest

from firstkit.apps.cli.agent_plans import (
    AGENTS,
    BEGIN,
    AgentModel,
    KeyRef,
    Service,
    in_yaml_list,
    merged_json,
    with_block,
)
from firstkit.core.errors import ConfigError

MODEL = AgentModel(id="org/Model-8B", context=65_536, endpoints=frozenset({"/v1/chat/completions"}))
BY_FILE, BY_VARIABLE = KeyRef(file="/home/ada/my keys/key"), KeyRef(variable="FIRST_API_KEY")


def service(key: KeyRef = BY_VARIABLE) -> Service:
    return Service(base_url="https://first.example.org", key=key, models=(MODEL,), model=MODEL, home="/home/ada")


def texts(agent: str, key: KeyRef = BY_VARIABLE) -> dict[str, str]:
    return {file.path: file.change(None) for file in AGENTS[agent](service(key)).files}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("key", [BY_FILE, BY_VARIABLE], ids=["file", "variable"])
def test_doing_it_again_changes_nothing(agent: str, key: KeyRef) -> None:
    plan = AGENTS[agent](service(key))
    for file in plan.files:
        once = file.change(None)
        assert file.change(once) == once


@pytest.mark.parametrize("agent", AGENTS)
def test_url_and_model_are_in_the_settings(agent: str) -> None:
    text = "".join(texts(agent).values())
    assert "https://first.example.org" in text
    assert "org/Model-8B" in text


def test_claude_asks_a_command_for_the_key() -> None:
    by_file = json.loads(texts("claude", BY_FILE)[".claude/firstkit.json"])
    assert by_file["apiKeyHelper"] == "cat '/home/ada/my keys/key'"
    assert json.loads(texts("claude")[".claude/firstkit.json"])["apiKeyHelper"] == "printenv FIRST_API_KEY"
    assert by_file["env"]["ANTHROPIC_BASE_URL"] == "https://first.example.org"
    assert by_file["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"


def test_codex_reads_its_profile_as_toml() -> None:
    profile = tomllib.loads(texts("codex", BY_FILE)[".codex/firstkit.config.toml"])
    assert profile["model_context_window"] == 65_536
    provider = profile["model_providers"]["firstkit"]
    assert provider["wire_api"] == "responses"
    assert provider["auth"] == {"command": "cat", "args": ["/home/ada/my keys/key"]}
    profile = tomllib.loads(texts("codex")[".codex/firstkit.config.toml"])
    assert profile["model_providers"]["firstkit"]["env_key"] == "FIRST_API_KEY"


def test_opencode_keeps_its_other_providers_and_settings() -> None:
    (file,) = AGENTS["opencode"](service(BY_FILE)).files
    mine = {"theme": "dark", "provider": {"other": {"name": "x"}, "firstkit": {"name": "old", "options": {"a": 1}}}}
    config = json.loads(file.change(json.dumps(mine)))
    assert config["theme"] == "dark"
    assert config["provider"]["other"] == {"name": "x"}
    firstkit = config["provider"]["firstkit"]
    assert firstkit["options"]["a"] == 1
    assert firstkit["options"]["apiKey"] == "{file:/home/ada/my keys/key}"
    assert firstkit["models"]["org/Model-8B"]["limit"] == {"context": 65_536, "output": 8192}


def test_aider_finds_the_limits_by_an_absolute_path() -> None:
    written = texts("aider")
    assert 'model-metadata-file: "/home/ada/.aider.firstkit/models.json"' in written[".aider.firstkit/conf.yml"]
    limits = json.loads(written[".aider.firstkit/models.json"])["openai/org/Model-8B"]
    assert (limits["max_input_tokens"], limits["max_output_tokens"]) == (65_536, 8192)


def test_a_file_with_comments_is_left_alone() -> None:
    with pytest.raises(ConfigError, match="left alone"):
        merged_json("~/x.json", {"a": 1})('{\n  // mine\n  "b": 2\n}')
    with pytest.raises(ConfigError, match="no JSON object"):
        merged_json("~/x.json", {"a": 1})("[1]")


def test_a_block_is_replaced_and_what_is_below_it_stays() -> None:
    first = with_block("a = 1")(None) + "\n[mine]\nb = 2\n"
    second = with_block("a = 3")(first)
    assert tomllib.loads(second) == {"a": 3, "mine": {"b": 2}}
    assert second.count(BEGIN) == 1


@pytest.mark.parametrize(
    "text",
    [
        None,
        "name: Mine\nversion: 1.0.0\nschema: v1\n",
        "name: Mine\nmodels:\n  - name: other\n    provider: x\nrules: []\n",
        "models:\n- name: other\n  provider: x\n",
        "models:\n    # mine\n    - name: other\n      provider: x\n",
        "models: []\nname: Mine\n",
    ],
)
def test_models_join_a_yaml_list_in_its_own_indentation(text: str | None) -> None:
    from ruamel.yaml import YAML

    change = in_yaml_list("~/c.yaml", "models", "- name: ours\n  provider: openai")
    once = change(text)
    assert change(once) == once
    before = YAML(typ="safe", pure=True).load(text) if text else {"models": []}
    after = YAML(typ="safe", pure=True).load(once)
    assert after["models"][0] == {"name": "ours", "provider": "openai"}
    assert after["models"][1:] == (before.get("models") or [])
    assert {key: value for key, value in before.items() if key != "models"}.items() <= after.items()


def test_a_list_in_one_line_is_left_alone() -> None:
    with pytest.raises(ConfigError, match="one line"):
        in_yaml_list("~/c.yaml", "models", "- name: ours")("models: [{name: other}]\n")


def test_an_agent_that_needs_another_endpoint_says_so() -> None:
    notes = AGENTS["codex"](service()).notes
    assert any("/v1/responses" in note for note in notes)
    assert AGENTS["opencode"](service()).notes == ()
