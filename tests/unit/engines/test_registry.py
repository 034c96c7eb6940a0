# SPDX-License-Identifier: Apache-2.0
"""Adapters are found by their entry points; one that cannot be used is named."""

from importlib.metadata import EntryPoint

import pytest

from firstkit.adapters.engines import registry
from firstkit.core.errors import ConfigError


def test_the_five_kinds_are_found() -> None:
    assert set(registry.load_engines()) >= {"command", "external", "llamacpp", "transformers", "vllm"}


def test_a_site_can_add_one_and_it_is_found_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EntryPoint(name="vllm", value="firstkit.adapters.engines.vllm:ADAPTER", group=registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [mine])
    assert list(registry.load_engines()) == ["vllm"]


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([("x", "no.such.module:ADAPTER")], "cannot be loaded: ModuleNotFoundError"),
        ([("x", "firstkit.adapters.engines.vllm:NOTHING")], "cannot be loaded: AttributeError"),
        ([("x", "firstkit.adapters.engines.vllm:NO_MEDIA")], "lacks check, launch"),
        ([("x", "firstkit.adapters.engines.vllm:ADAPTER")], "says that its kind is vllm"),
        ([("vllm", "firstkit.adapters.engines.vllm:ADAPTER")] * 2, "Two installed packages"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_named(
    points: list[tuple[str, str]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [EntryPoint(name=name, value=value, group=registry.GROUP) for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda **_: found)
    with pytest.raises(ConfigError, match=says):
        registry.load_engines()
