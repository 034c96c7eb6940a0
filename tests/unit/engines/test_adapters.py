# SPDX-License-Identifier: Apache-2.0
"""Each adapter turns a deployment into a launch, and complains of what it could not start."""

from typing import Any

import pytest

from firstkit.adapters.engines.command import ADAPTER as COMMAND
from firstkit.adapters.engines.external import ADAPTER as EXTERNAL
from firstkit.adapters.engines.llamacpp import ADAPTER as LLAMACPP
from firstkit.adapters.engines.transformers import ADAPTER as TRANSFORMERS
from firstkit.adapters.engines.vllm import ADAPTER as VLLM
from firstkit.adapters.engines.vllm import NO_MEDIA
from firstkit.adapters.engines.vocabulary import INFERENCE_PATHS, RESERVED
from firstkit.core.catalog import Deployment, EngineSpec, Resources, Scaling
from firstkit.core.errors import ConfigError
from firstkit.core.topology import Address, AddressKind
from firstkit.ports.engine import Engine

LAUNCHED: list[Engine] = [LLAMACPP, VLLM, TRANSFORMERS, COMMAND]
ALL: list[Engine] = [*LAUNCHED, EXTERNAL]


def deployment(
    kind: str,
    *,
    model: str = "/models/it",
    args: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    in_flight: int = 1,
    resources: Resources | None = None,
    name: str = "lab/model",
    setup: str = "",
    **options: Any,
) -> Deployment:
    engine = EngineSpec(kind=kind, model=model, args=args or {}, env=env or {}, options=options, setup=setup)
    cluster = None if kind == "external" else "here"
    scaling = Scaling(in_flight=in_flight)
    return Deployment(name="it", model=name, engine=engine, cluster=cluster, scaling=scaling, resources=resources)


GOOD: dict[str, dict[str, Any]] = {
    "llamacpp": {},
    "vllm": {},
    "transformers": {},
    "command": {"argv": ["serve", "--socket", "{socket}"]},
    "external": {"url": "http://127.0.0.1:8080"},
}


def good(engine: Engine, **more: Any) -> Deployment:
    return deployment(engine.traits.kind, **(GOOD[engine.traits.kind] | more))


def mistakes(engine: Engine, **more: Any) -> dict[str, str]:
    return dict(engine.check(good(engine, **more)))


# ------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("engine", ALL, ids=lambda engine: engine.traits.kind)
class TestEveryAdapter:
    def test_accepts_a_plain_deployment(self, engine: Engine) -> None:
        assert engine.check(good(engine)) == []

    def test_lists_only_paths_that_firstkit_relays(self, engine: Engine) -> None:
        assert engine.traits.paths <= INFERENCE_PATHS
        assert engine.paths(good(engine)) <= engine.traits.paths
        assert engine.paths(good(engine))

    def test_serves_the_paths_that_a_deployment_lists(self, engine: Engine) -> None:
        path = min(engine.traits.paths)
        assert engine.paths(good(engine, paths=[path])) == {path}

    def test_refuses_a_path_that_it_does_not_serve(self, engine: Engine) -> None:
        found = mistakes(engine, paths=["/v1/chat/completion"])
        assert found == {
            "paths.0": "/v1/chat/completion is no path of this engine (did you mean /v1/chat/completions?)"
        }

    def test_names_a_key_that_it_does_not_know(self, engine: Engine) -> None:
        found = mistakes(engine, path=["/v1/completions"])
        assert list(found) == ["path"]
        assert "did you mean paths?" in found["path"]

    def test_says_what_type_a_key_must_have(self, engine: Engine) -> None:
        assert mistakes(engine, paths="/v1/completions") == {"paths": "must be a list"}

    def test_reserves_what_lets_a_client_interfere(self, engine: Engine) -> None:
        assert engine.traits.reserved >= RESERVED

    def test_tells_the_configuration_which_keys_are_its_own(self, engine: Engine) -> None:
        assert "paths" in engine.traits.option_names

    def test_tries_elsewhere_when_it_is_not_there_and_not_for_a_bad_request(self, engine: Engine) -> None:
        assert engine.retryable(503, b"")
        assert not engine.retryable(400, b"")
        assert not engine.retryable(500, b'{"error":{"message":"float division by zero"}}')


@pytest.mark.parametrize("engine", LAUNCHED, ids=lambda engine: engine.traits.kind)
class TestEveryLaunchedAdapter:
    def test_listens_on_a_socket_without_a_key(self, engine: Engine) -> None:
        spec = engine.launch(good(engine))
        assert (spec.listen, spec.needs_key, spec.guarded) == ("unix", False, ())
        assert "{socket}" in spec.argv
        assert engine.external(good(engine)) is None

    def test_checks_its_weights_before_it_starts(self, engine: Engine) -> None:
        assert [path for path in engine.launch(good(engine)).files if path.startswith("/models/it")]

    def test_passes_on_the_environment_of_the_deployment(self, engine: Engine) -> None:
        assert engine.launch(good(engine, env={"OMP_NUM_THREADS": "4"})).env["OMP_NUM_THREADS"] == "4"

    def test_waits_as_long_as_the_deployment_says(self, engine: Engine) -> None:
        assert engine.launch(good(engine)).start_timeout_s == 1800.0


@pytest.mark.parametrize("engine", [LLAMACPP, VLLM, TRANSFORMERS], ids=lambda engine: engine.traits.kind)
class TestEveryKnownEngine:
    def test_needs_its_weights_by_an_absolute_path(self, engine: Engine) -> None:
        assert "absolute path" in mistakes(engine, model="meta-llama/Llama")["model"]
        assert "is required" in mistakes(engine, model="")["model"]

    def test_needs_an_absolute_virtual_environment(self, engine: Engine) -> None:
        assert "absolute path" in mistakes(engine, venv="venv")["venv"]
        assert engine.launch(good(engine, venv="/opt/v")).argv[0].startswith("/opt/v/bin/")

    def test_does_not_let_its_socket_be_taken_away(self, engine: Engine) -> None:
        found = mistakes(engine, args={"host": "0.0.0.0", "port": 80})
        assert set(found) == {"args.host", "args.port"}
        assert "Unix socket" in found["args.port"]

    def test_tells_progress_up_to_the_end(self, engine: Engine) -> None:
        marks = engine.launch(good(engine)).progress
        assert [mark.start for mark in marks] == sorted(mark.start for mark in marks)
        assert marks[-1].start == 1.0


# ------------------------------------------------------------------------------------------------------------ vllm


def test_vllm_is_started_without_request_logs_on_its_socket_under_the_public_name() -> None:
    argv = VLLM.launch(good(VLLM, args={"tensor-parallel-size": 2}, in_flight=16)).argv
    assert argv[:5] == ("vllm", "serve", "/models/it", "--uds", "{socket}")
    assert argv[argv.index("--served-model-name") + 1] == "lab/model"
    assert argv[argv.index("--max-num-seqs") + 1] == "16"
    assert argv[argv.index("--allowed-media-domains") + 1] == NO_MEDIA
    assert argv[-2:] == ("--tensor-parallel-size", "2")
    assert not [word for word in argv if "log-requests" in word]


def test_vllm_keeps_what_the_operator_chose() -> None:
    argv = VLLM.launch(good(VLLM, args={"max_num_seqs": 32, "allowed-media-domains": ["img.example"]})).argv
    assert argv.count("--max-num-seqs") == 1
    assert NO_MEDIA not in argv


def test_vllm_waits_longer_for_its_end_than_it_drains() -> None:
    spec = VLLM.launch(good(VLLM))
    assert spec.stop_grace_s > float(spec.argv[spec.argv.index("--shutdown-timeout") + 1])


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        ({"args": {"enable-log-requests": True}}, "args.enable-log-requests", "prompts"),
        ({"args": {"served-model-name": "x"}}, "args.served-model-name", "deployment's"),
        ({"args": {"config": "/x.yaml"}}, "args.config", "checked"),
        ({"args": {"max-num-seqs": 4}, "in_flight": 8}, "args.max-num-seqs", "at least scaling.in_flight (8)"),
        ({"env": {"VLLM_SERVER_DEV_MODE": "1"}}, "env.VLLM_SERVER_DEV_MODE", "routes"),
        (
            {"args": {"tensor-parallel-size": 8}, "resources": Resources(gpus=4)},
            "args.tensor-parallel-size",
            "needs 8 GPUs in all, and resources give 4",
        ),
        (
            {"args": {"pipeline-parallel-size": 2, "tensor_parallel_size": 8}, "resources": Resources(gpus=4, nodes=2)},
            "args.tensor_parallel_size",
            "needs 16 GPUs in all, and resources give 2 × 4",
        ),
    ],
)
def test_vllm_complains_of_what_cannot_work(more: dict[str, Any], key: str, says: str) -> None:
    found = mistakes(VLLM, **more)
    assert list(found) == [key]
    assert says in found[key]


def test_vllm_has_as_many_gpus_as_it_is_split_over() -> None:
    assert mistakes(VLLM, args={"tensor-parallel-size": 4}, resources=Resources(gpus=4)) == {}


def test_a_pooling_model_of_vllm_serves_embeddings_and_no_chat() -> None:
    paths = VLLM.paths(good(VLLM, args={"runner": "pooling"}))
    assert "/v1/embeddings" in paths
    assert "/v1/chat/completions" not in paths
    assert "/v1/embeddings" not in VLLM.paths(good(VLLM))


@pytest.mark.parametrize(
    ("status", "body", "elsewhere"),
    [
        (500, b'{"error":{"message":"cannot schedule new futures after shutdown","code":500}}', True),
        (500, b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above)","code":500}}', True),
        (503, b'{"error":{"message":"Service Unavailable"}}', True),
        (500, b'{"error":{"message":"something in the request"}}', False),
        (404, b'{"error":{"message":"cannot schedule new futures after shutdown"}}', False),
        (400, b"", False),
    ],
)
def test_vllm_is_left_for_another_when_it_drains_or_died(status: int, body: bytes, elsewhere: bool) -> None:
    assert VLLM.retryable(status, body) is elsewhere


# -------------------------------------------------------------------------------------------------------- llama.cpp


def settings(deployment: Deployment) -> dict[str, str]:
    argv = LLAMACPP.launch(deployment).argv
    return dict(argv[at + 1].split("=", 1) for at, word in enumerate(argv) if word == "--set")


def test_llamacpp_has_a_slot_with_its_own_context_for_each_request_in_flight() -> None:
    found = settings(good(LLAMACPP, in_flight=4, context=2048))
    assert (found["n_parallel"], found["n_ctx"]) == ("4", "8192")


def test_llamacpp_embeds_a_text_in_one_piece() -> None:
    found = settings(good(LLAMACPP, embeddings=True, context=1024))
    assert (found["embedding"], found["n_ubatch"], found["n_batch"]) == ("true", "1024", "1024")
    assert "/v1/chat/completions" not in LLAMACPP.paths(good(LLAMACPP, embeddings=True))


def test_llamacpp_takes_as_many_threads_as_the_job_has_cores_unless_told_otherwise() -> None:
    resources = Resources(cpus=6)
    assert settings(good(LLAMACPP, resources=resources))["cpuparams.n_threads"] == "6"
    assert settings(good(LLAMACPP, resources=resources, args={"threads": 2}))["cpuparams.n_threads"] == "2"
    assert "cpuparams.n_threads" not in settings(good(LLAMACPP))


def test_llamacpp_is_told_values_by_the_names_of_its_own_enumerations() -> None:
    found = settings(good(LLAMACPP, args={"flash-attn": "on", "cache-type-k": "q8_0", "warmup": False}))
    assert found["flash_attn_type"] == "LLAMA_FLASH_ATTN_TYPE_ENABLED"
    assert found["cache_type_k"] == "GGML_TYPE_Q8_0"
    assert found["warmup"] == "false"


def test_llamacpp_brings_the_program_that_serves_it() -> None:
    spec = LLAMACPP.launch(good(LLAMACPP))
    assert spec.argv[:2] == ("{python}", "{dir}/serve_llamacpp.py")
    assert b"def main()" in (spec.put or {})["serve_llamacpp.py"]


@pytest.mark.parametrize(
    ("args", "key", "says"),
    [
        ({"thread": 2}, "args.thread", "did you mean threads?"),
        ({"threads": "two"}, "args.threads", "must be a whole number"),
        ({"threads": True}, "args.threads", "must be a whole number"),
        ({"warmup": 1}, "args.warmup", "must be true or false"),
        ({"rope-freq-base": "x"}, "args.rope-freq-base", "must be a number"),
        ({"flash-attn": "maybe"}, "args.flash-attn", "must be one of auto, on, off"),
        ({"parallel": 4}, "args.parallel", "scaling.in_flight"),
        ({"ctx-size": 4}, "args.ctx-size", "engine.context"),
        ({"slot-save-path": "/x"}, "args.slot-save-path", "prompts"),
    ],
)
def test_llamacpp_complains_of_arguments_that_it_would_not_take(args: dict[str, Any], key: str, says: str) -> None:
    found = mistakes(LLAMACPP, args=args)
    assert list(found) == [key]
    assert says in found[key]


def test_llamacpp_needs_a_context() -> None:
    assert mistakes(LLAMACPP, context=0) == {"context": "must be at least 1"}


# ----------------------------------------------------------------------------------------------------- transformers


def test_transformers_is_not_asked_for_more_than_it_does_at_once() -> None:
    assert "one request at a time" in mistakes(TRANSFORMERS, in_flight=2)["kind"]
    assert mistakes(TRANSFORMERS, in_flight=2, args={"continuous-batching": True}) == {}


def test_transformers_cannot_serve_a_name_that_means_something_to_it() -> None:
    assert "@ or :" in mistakes(TRANSFORMERS, name="model@main")["kind"]


def test_transformers_gets_its_own_arguments_after_ours() -> None:
    argv = TRANSFORMERS.launch(good(TRANSFORMERS, args={"device": "cpu"})).argv
    assert argv[argv.index("--") :] == ("--", "--device", "cpu")


# ---------------------------------------------------------------------------------------------------------- command


def test_a_command_is_filled_with_what_firstkit_knows_and_the_rest_is_left_to_the_launcher() -> None:
    spec = COMMAND.launch(
        good(COMMAND, argv=["s", "{model}", "{name}", "{in_flight}", "{socket}", '{"a": {}}'], in_flight=3)
    )
    assert spec.argv == ("s", "/models/it", "lab/model", "3", "{socket}", '{"a": {}}')
    assert (spec.health_path, spec.serves_path, spec.serves_name) == ("/health", "/v1/models", "lab/model")


def test_a_command_on_a_port_has_a_key_and_all_its_paths_are_tried_without() -> None:
    spec = COMMAND.launch(
        good(COMMAND, argv=["s", "--port", "{port}", "--keys", "{key_file}"], guarded=["/generate"], health="/up")
    )
    assert (spec.listen, spec.needs_key, spec.health_path) == ("loopback", True, "/up")
    assert set(spec.guarded) == {"/v1/models", "/generate", "/v1/chat/completions", "/v1/completions"}


def test_a_command_may_take_its_key_from_the_environment() -> None:
    assert mistakes(COMMAND, argv=["s", "{port}"], env={"API_KEY": "{key}"}) == {}


def test_a_command_may_have_a_name_of_its_own_for_the_model() -> None:
    found = good(COMMAND, served_name="it", lists_models=False)
    spec = COMMAND.launch(found)
    assert (spec.serves_path, spec.serves_name, COMMAND.served_name(found)) == (None, None, "it")


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        ({"argv": []}, "argv", "is required"),
        ({"argv": [""]}, "argv", "is required"),
        ({"argv": "serve {socket}"}, "argv", "must be a list"),
        ({"argv": ["s"]}, "argv", "must have {socket}"),
        ({"argv": ["s", "{socket}", "{port}"]}, "argv", "not both"),
        ({"argv": ["s", "{port}"]}, "argv", "give the server a key"),
        ({"argv": ["s", "{port}", "{key}"]}, "argv", "other users of the node see command lines"),
        ({"argv": ["s", "{sockte}", "{socket}"]}, "argv", "did you mean socket?"),
        ({"argv": ["s", "{socket}", "{model}"], "model": ""}, "model", "is required, since {model} is used"),
        ({"args": {"a": 1}}, "args", "argv"),
        ({"health": "up"}, "health", "begins with /"),
        ({"guarded": ["up"]}, "guarded.0", "begins with /"),
        ({"stop_grace": 0}, "stop_grace", "at least 1"),
    ],
)
def test_a_command_that_could_not_be_started_safely_is_refused(more: dict[str, Any], key: str, says: str) -> None:
    found = COMMAND.check(good(COMMAND, **more))
    assert [name for name, _ in found] == [key]
    assert says in found[0][1]


# --------------------------------------------------------------------------------------------------------- external


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://node7:8000", Address(kind=AddressKind.TCP, host="node7", port=8000)),
        ("http://node7", Address(kind=AddressKind.TCP, host="node7", port=80)),
        ("http://[::1]:8000/v1", Address(kind=AddressKind.TCP, host="::1", port=8000)),
        ("http://node7:8000/v1/", Address(kind=AddressKind.TCP, host="node7", port=8000)),
        ("http://node7/llm/v1", Address(kind=AddressKind.TCP, host="node7", port=80, base_path="/llm")),
        (
            "https://api.example/llm/",
            Address(kind=AddressKind.TLS, host="api.example", port=443, server_name="api.example", base_path="/llm"),
        ),
        ("unix:/run/e.sock", Address(kind=AddressKind.UNIX, path="/run/e.sock")),
        ("unix:///run/e.sock", Address(kind=AddressKind.UNIX, path="/run/e.sock")),
    ],
)
def test_the_url_of_a_running_engine_becomes_an_address(url: str, address: Address) -> None:
    found = good(EXTERNAL, url=url)
    assert EXTERNAL.check(found) == []
    spec = EXTERNAL.external(found)
    assert spec is not None
    assert spec.address == address


@pytest.mark.parametrize(
    ("more", "key", "says"),
    [
        ({"url": ""}, "url", "is required"),
        ({"url": "node7:8000"}, "url", "must begin with http://"),
        ({"url": "ftp://node7"}, "url", "must begin with http://"),
        ({"url": "http://"}, "url", "name a host"),
        ({"url": "http://h:99999"}, "url", "cannot be read"),
        ({"url": "http://h:0"}, "url", "from 1 to 65535"),
        ({"url": "http://me:secret@h"}, "url", "must not hold a credential"),
        ({"url": "http://h/?key=1"}, "url", "query"),
        ({"url": "http://h /"}, "url", "spaces"),
        ({"url": "unix:e.sock"}, "url", "absolute path"),
        ({"url": "unix:/" + "x" * 107}, "url", "107"),
        ({"key_file": "key"}, "key_file", "absolute path"),
        ({"health": "up"}, "health", "begins with /"),
        ({"args": {"a": 1}}, "args", "already running"),
        ({"env": {"A": "1"}}, "env", "already running"),
        ({"setup": "module load x"}, "setup", "already running"),
    ],
)
def test_a_running_engine_that_could_not_be_reached_is_refused(more: dict[str, Any], key: str, says: str) -> None:
    found = mistakes(EXTERNAL, **more)
    assert list(found) == [key]
    assert says in found[key]


def test_a_running_engine_may_call_the_model_otherwise() -> None:
    found = good(EXTERNAL, model="gpt-4o", key_file="/k")
    spec = EXTERNAL.external(found)
    assert spec is not None
    assert (EXTERNAL.served_name(found), spec.serves_name, spec.key_file) == ("gpt-4o", "gpt-4o", "/k")
    assert EXTERNAL.served_name(good(EXTERNAL, model="")) == "lab/model"


def test_a_running_engine_is_never_launched() -> None:
    with pytest.raises(ConfigError, match="already running"):
        EXTERNAL.launch(good(EXTERNAL))
