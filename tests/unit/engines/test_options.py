# SPDX-License-Identifier: Apache-2.0
"""What stands below `engine` becomes flags, or a sentence about what is wrong with it."""

import pytest

from firstkit.adapters.engines.options import argument_mistakes, environment_mistakes, flags


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ({"tensor-parallel-size": 8, "enforce-eager": True}, ["--tensor-parallel-size", "8", "--enforce-eager"]),
        ({"max_model_len": 4096}, ["--max-model-len", "4096"]),
        ({"--dtype": "auto"}, ["--dtype", "auto"]),
        ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
        ({"gpu-memory-utilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
        ({"lora-modules": ["a=/x", "b=/y"]}, ["--lora-modules", "a=/x", "b=/y"]),
        ({"hf-overrides": {"rope": [1, None]}}, ["--hf-overrides", '{"rope":[1,null]}']),
        ({"swap-space": -1}, ["--swap-space=-1"]),
        ({"chat-template": "-x"}, ["--chat-template=-x"]),
        ({"seed": 0}, ["--seed", "0"]),
        ({}, []),
    ],
)
def test_args_are_written_as_on_a_command_line(args: dict[str, object], argv: list[str]) -> None:
    assert flags(args) == argv


def test_a_switch_without_a_negative_form_is_left_out_when_false() -> None:
    assert flags({"headless": False, "other": False}, switches={"headless"}) == ["--no-other"]


@pytest.mark.parametrize(
    ("args", "key", "says"),
    [
        ({"port": 8000}, "args.port", "must not be set: it is ours"),
        ({"PORT": 1, "port_": 1}, "", ""),
        ({"no-port": True}, "args.no-port", "it is ours"),
        ({"max_len": 1, "max-len": 2}, "args.max-len", "given twice"),
        ({"dtype": None}, "args.dtype", "has no value"),
        ({"a b": 1}, "args.a b", "no name of a flag"),
        ({"a=b": 1}, "args.a=b", "no name of a flag"),
        ({"": 1}, "args.", "no name of a flag"),
        ({"paths": []}, "args.paths", "empty list"),
        ({"paths": [[1]]}, "args.paths", "texts, numbers and mappings"),
        ({"paths": [None]}, "args.paths", "texts, numbers and mappings"),
    ],
)
def test_args_that_cannot_be_passed_on_are_named_with_the_reason(args: dict[str, object], key: str, says: str) -> None:
    found = argument_mistakes(args, {"port": "it is ours"})
    if not key:
        assert found == []
    else:
        assert [name for name, _ in found] == [key]
        assert says in found[0][1]


def test_a_variable_that_undoes_a_protection_is_refused() -> None:
    assert environment_mistakes({"A": "1", "B": "2"}, {"B": "it opens routes"}) == [
        ("env.B", "must not be set: it opens routes")
    ]
