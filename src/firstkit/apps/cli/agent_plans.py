# SPDX-License-Identifier: Apache-2.0
"""What each coding agent must be told to use a service: its files as they should be, and how it is started then.

Pure: the present text of a file goes in, the wanted text comes out; what is not ours in it is kept. The formats are
those of Claude Code 2.1, Codex 0.169, opencode 1.18, Continue 1.5 and aider 0.86, tried with the programs themselves.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from firstkit.core.errors import ConfigError

BEGIN = "# >>> firstkit: written by `first agent configure`; what is between these lines is replaced"
END = "# <<< firstkit"
OUTPUT_SHARE = 4
OUTPUT_MOST = 8192
DEFAULT_CONTEXT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRef:
    """Where an agent finds the key: a variable of its environment, or a file. Never the key itself."""

    variable: str = ""
    file: str = ""

    @property
    def command(self) -> str:
        """Return a shell command that prints the key."""
        return f"cat {shlex.quote(self.file)}" if self.file else f"printenv {self.variable}"

    @property
    def shell(self) -> str:
        """Return what stands for the key in a shell."""
        return f'"$({self.command})"' if self.file else f'"${self.variable}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentModel:
    """A model with its limits in tokens."""

    id: str
    context: int
    endpoints: frozenset[str] = frozenset()

    @property
    def output(self) -> int:
        """Bound an answer so that most of the context is left for the question."""
        return max(256, min(OUTPUT_MOST, self.context // OUTPUT_SHARE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What an agent is to use: the base URL without /v1, the key, the models, and which of them first."""

    base_url: str
    key: KeyRef
    models: tuple[AgentModel, ...]
    model: AgentModel
    home: str = "~"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A file below the home folder and how its text changes; None: it is not there yet."""

    path: str
    change: Callable[[str | None], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is written, how the agent is started afterwards, and what else its user should know."""

    files: tuple[PlannedFile, ...]
    start: str
    notes: tuple[str, ...] = ()


def merged_json(name: str, addition: dict[str, Any]) -> Callable[[str | None], str]:
    """Make the change that puts an object into a JSON file, key by key, and leaves all others alone."""

    def change(text: str | None) -> str:
        try:
            present: Any = json.loads(text) if text and text.strip() else {}
        except ValueError:
            raise ConfigError(
                f"{name} is no plain JSON (perhaps it has comments), so it is left alone; put in by hand what "
                "`--print` shows"
            ) from None
        if not isinstance(present, dict):
            raise ConfigError(f"{name} holds no JSON object; look at it before anything is put in")
        return json.dumps(_merge(cast("dict[str, Any]", present), addition), indent=2, ensure_ascii=False) + "\n"

    return change


def _merge(present: dict[str, Any], addition: dict[str, Any]) -> dict[str, Any]:
    result = dict(present)
    for key, value in addition.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merge(cast("dict[str, Any]", old), cast("dict[str, Any]", value)) if both else value
    return result


def with_block(block: str) -> Callable[[str | None], str]:
    """Make the change that keeps our lines between two marks at the top of a file, and the rest below them."""

    def change(text: str | None) -> str:
        rest = _without_block(text or "").strip("\n")
        return f"{BEGIN}\n{block.strip()}\n{END}\n" + (f"\n{rest}\n" if rest else "")

    return change


def _without_block(text: str) -> str:
    return re.sub(rf"^[ ]*{re.escape(BEGIN)}\n.*?^[ ]*{re.escape(END)}\n?", "", text, flags=re.DOTALL | re.MULTILINE)


def in_yaml_list(name: str, key: str, items: str) -> Callable[[str | None], str]:
    """Make the change that puts block items (indented by nothing) into a list at the top of a YAML file."""

    def change(text: str | None) -> str:
        lines = _without_block(text or "").splitlines()
        at = next((index for index, line in enumerate(lines) if re.match(rf"{key}\s*:", line)), None)
        if at is None:
            head = lines or ["name: Main Config", "version: 1.0.0", "schema: v1"]
            return "\n".join([*head, f"{key}:", *_indented(items, 2)]) + "\n"
        if not re.fullmatch(rf"{key}\s*:\s*(#.*|\[\]\s*)?", lines[at]):
            raise ConfigError(f"`{key}` in {name} is written in one line; put in by hand what `--print` shows")
        lines[at] = f"{key}:"
        following = next((line for line in lines[at + 1 :] if line.strip() and not line.lstrip().startswith("#")), "")
        indent = len(following) - len(following.lstrip()) if following.lstrip().startswith("-") else 2
        return "\n".join([*lines[: at + 1], *_indented(items, indent), *lines[at + 1 :]]) + "\n"

    return change


def _indented(items: str, indent: int) -> list[str]:
    pad = " " * indent
    return [pad + line for line in (BEGIN, *items.strip("\n").splitlines(), END)]


def quoted(text: str) -> str:
    """Write a string as TOML, YAML and JSON all read it."""
    return json.dumps(text, ensure_ascii=False)


# -------------------------------------------------------------------------------------------------------------- agents
def claude(service: Service) -> Plan:
    """Claude Code: a settings file of its own, given with --settings, so that a login stays as it is."""
    model, path = service.model, ".claude/firstkit.json"
    settings: dict[str, Any] = {
        "apiKeyHelper": service.key.command,
        "model": model.id,
        "env": {
            "ANTHROPIC_BASE_URL": service.base_url,
            "ANTHROPIC_DEFAULT_OPUS_MODEL": model.id,
            "ANTHROPIC_DEFAULT_SONNET_MODEL": model.id,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model.id,
            "CLAUDE_CODE_SUBAGENT_MODEL": model.id,
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(model.output),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    }
    return Plan(
        files=(PlannedFile(path=path, change=merged_json(f"~/{path}", settings)),),
        start=f"claude --settings ~/{path}",
        notes=_endpoint_notes(service, "/v1/messages"),
    )


def codex(service: Service) -> Plan:
    """Codex: a profile, which is a file of its own beside the user's config.toml."""
    auth = (
        f'[model_providers.firstkit.auth]\ncommand = "cat"\nargs = [{quoted(service.key.file)}]'
        if service.key.file
        else f"env_key = {quoted(service.key.variable)}"
    )
    block = f"""\
model = {quoted(service.model.id)}
model_provider = "firstkit"
model_context_window = {service.model.context}
web_search = "disabled"

[model_providers.firstkit]
name = "firstkit"
base_url = {quoted(service.base_url + "/v1")}
wire_api = "responses"
{auth}
"""
    return Plan(
        files=(PlannedFile(path=".codex/firstkit.config.toml", change=with_block(block)),),
        start="codex --profile firstkit",
        notes=_endpoint_notes(service, "/v1/responses"),
    )


def opencode(service: Service) -> Plan:
    """Opencode: a provider beside the others in its configuration."""
    path = ".config/opencode/opencode.json"
    key = service.key
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "firstkit",
        "options": {
            "baseURL": f"{service.base_url}/v1",
            "apiKey": f"{{file:{key.file}}}" if key.file else f"{{env:{key.variable}}}",
        },
        "models": {
            model.id: {"name": model.id, "limit": {"context": model.context, "output": model.output}}
            for model in service.models
        },
    }
    addition = {"$schema": "https://opencode.ai/config.json", "provider": {"firstkit": provider}}
    return Plan(
        files=(PlannedFile(path=path, change=merged_json(f"~/{path}", addition)),),
        start=f"opencode --model {shlex.quote('firstkit/' + service.model.id)}",
        notes=_endpoint_notes(service, "/v1/chat/completions"),
    )


def aider(service: Service) -> Plan:
    """Aider: a configuration file of its own, given with --config, and the models' limits."""
    limits = {
        f"openai/{model.id}": {
            "max_input_tokens": model.context,
            "max_output_tokens": model.output,
            "max_tokens": model.output,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
        for model in service.models
    }
    folder, name = ".aider.firstkit", ".aider.firstkit/models.json"
    block = f"""\
model: {quoted("openai/" + service.model.id)}
weak-model: {quoted("openai/" + service.model.id)}
openai-api-base: {quoted(service.base_url + "/v1")}
model-metadata-file: {quoted(f"{service.home}/{name}")}
analytics-disable: true
check-update: false
"""
    return Plan(
        files=(
            PlannedFile(path=f"{folder}/conf.yml", change=with_block(block)),
            PlannedFile(path=name, change=merged_json(f"~/{name}", limits)),
        ),
        start=f"OPENAI_API_KEY={service.key.shell} aider --config ~/{folder}/conf.yml",
        notes=_endpoint_notes(service, "/v1/chat/completions"),
    )


def continue_(service: Service) -> Plan:
    """Continue: models beside the others in its main configuration, the key from its own secrets."""
    items = "\n".join(
        f"""\
- name: {quoted(f"{PurePosixPath(model.id).name} (firstkit)")}
  provider: openai
  model: {quoted(model.id)}
  apiBase: {quoted(service.base_url + "/v1")}
  apiKey: ${{{{ secrets.FIRST_API_KEY }}}}
  roles: [chat, edit, apply]
  defaultCompletionOptions: {{contextLength: {model.context}, maxTokens: {model.output}}}"""
        for model in service.models
    )
    path = ".continue/config.yaml"
    put = f"(umask 077; echo FIRST_API_KEY={service.key.shell} >> ~/.continue/.env)"
    return Plan(
        files=(PlannedFile(path=path, change=in_yaml_list(f"~/{path}", "models", items)),),
        start=f"cn --config ~/{path}",
        notes=(
            f"Continue takes secrets from ~/.continue/.env alone: {put}",
            *_endpoint_notes(service, "/v1/chat/completions"),
        ),
    )


def _endpoint_notes(service: Service, path: str) -> tuple[str, ...]:
    """Warn of what the agent needs and the model cannot."""
    model = service.model
    notes: list[str] = []
    if model.endpoints and path not in model.endpoints:
        notes.append(f"{model.id} does not serve {path}, which this agent needs; choose another with --model")
    if model.context < 16_384:
        notes.append(
            f"{model.id} has room for {model.context} tokens; the instructions of most agents alone are longer"
        )
    return tuple(notes)


AGENTS: dict[str, Callable[[Service], Plan]] = {
    "claude": claude,
    "codex": codex,
    "opencode": opencode,
    "aider": aider,
    "continue": continue_,
}
