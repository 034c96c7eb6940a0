# SPDX-License-Identifier: Apache-2.0
"""The official clients for Node, unmodified; one run of tests/node/clients.mjs, whose findings are looked at here."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, environment

pytestmark = [pytest.mark.llamacpp, pytest.mark.node, pytest.mark.timeout(180)]

FOLDER = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="module")
def found(clients: Installation) -> dict[str, Any]:
    node = next(FOLDER.glob("node_modules/node-linux-*/bin/node"), None)
    if node is None:
        pytest.skip("the clients for Node are not installed: make node-clients-if-offered")
    env = environment() | {"BASE_URL": clients.base_url.removesuffix("/v1"), "API_KEY": clients.key}
    done = subprocess.run(
        [str(node), "clients.mjs"], cwd=FOLDER, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai_lists_the_models(found: dict[str, Any]) -> None:
    assert {"SmolLM2-135M-Instruct", "all-MiniLM-L6-v2", "double"} <= set(found["models"]["ids"])


@pytest.mark.parametrize("case", ["chat", "chatStream", "responses", "responsesStream", "messages", "messagesStream"])
def test_text_comes_from_every_route_streamed_or_not(found: dict[str, Any], case: str) -> None:
    assert "raised" not in found[case], found[case]
    assert found[case]["text"].strip()


@pytest.mark.parametrize("kind", ["chat"])
def test_a_stream_says_what_the_plain_answer_says(found: dict[str, Any], kind: str) -> None:
    assert found[f"{kind}Stream"]["text"] == found[kind]["text"]


def test_embeddings_have_their_length(found: dict[str, Any]) -> None:
    assert found["embeddings"] == {"length": 384}


def test_anthropic_counts_tokens(found: dict[str, Any]) -> None:
    assert found["countTokens"]["input_tokens"] > 0


@pytest.mark.parametrize(
    ("case", "raised", "status", "code"),
    [
        ("notFound", "NotFoundError", 404, "model_not_found"),
        ("messagesNotFound", "NotFoundError", 404, None),
        ("unknownKey", "AuthenticationError", 401, "invalid_api_key"),
        ("tooLarge", "APIError", 413, "request_too_large"),
        ("unavailable", "InternalServerError", 503, "model_unavailable"),
    ],
)
def test_errors_are_the_client_s_own(
    found: dict[str, Any], case: str, raised: str, status: int, code: str | None
) -> None:
    assert found[case]["raised"] == raised, found[case]
    assert found[case]["status"] == status
    assert found[case]["code"] == code


@pytest.mark.parametrize("case", ["brokenChat", "brokenResponses", "brokenMessages"])
def test_a_stream_that_breaks_raises_after_the_tokens_that_came(found: dict[str, Any], case: str) -> None:
    assert found[case]["text"] == "w0 w1 w2 "
    assert found[case].get("apiError"), found[case]
    assert "broke off" in found[case]["message"]


def test_a_plain_answer_that_breaks_is_no_answer(found: dict[str, Any]) -> None:
    assert found["brokenPlain"]["raised"] is not None
