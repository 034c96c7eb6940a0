# SPDX-License-Identifier: Apache-2.0
"""The official clients for Python, unmodified, against the real llama.cpp and against an engine that misbehaves."""

import json
from collections.abc import Generator
from typing import Any

import anthropic
import openai
import pytest
from installation import Installation
from paced import Beside

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(120)]

MODEL = "smollm2"
OCEAN = "Write one sentence about the ocean."


@pytest.fixture
def client(clients: Installation) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=clients.base_url, api_key=clients.key, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(clients: Installation) -> Generator[anthropic.Anthropic]:
    base = clients.base_url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, api_key=clients.key, max_retries=0) as made:
        yield made


# ------------------------------------------------------------------------------------------------ what succeeds


def test_openai_lists_the_models(client: openai.OpenAI) -> None:
    assert {"SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("SmolLM2-135M-Instruct").id == "SmolLM2-135M-Instruct"


def test_openai_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": OCEAN}], temperature=0, max_tokens=20
    )
    assert "ocean" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_openai_chat_streamed_says_the_same_as_not_streamed(client: openai.OpenAI) -> None:
    def ask() -> str:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": OCEAN}], temperature=0, max_tokens=20, stream=True
        )
        with stream:
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    whole = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": OCEAN}], temperature=0, max_tokens=20
    )
    assert ask() == whole.choices[0].message.content


def test_openai_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=8, temperature=0)
    assert answer.choices[0].text.strip()


@pytest.mark.anyio
async def test_openai_async_chat_streamed(clients: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=clients.base_url, api_key=clients.key) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": OCEAN}], temperature=0, max_tokens=20, stream=True
        )
        async with stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert "ocean" in text


@pytest.mark.anyio
async def test_openai_async_chat(clients: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=clients.base_url, api_key=clients.key) as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": OCEAN}], temperature=0, max_tokens=20
        )
    assert "ocean" in (answer.choices[0].message.content or "")


def test_openai_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input=OCEAN, temperature=0, max_output_tokens=20)
    assert "ocean" in answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def test_openai_responses_streamed(client: openai.OpenAI) -> None:
    with client.responses.create(model=MODEL, input=OCEAN, temperature=0, max_output_tokens=20, stream=True) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert "ocean" in text
    assert events[-1].type == "response.completed"


def test_openai_embeddings_tell_near_from_far(client: openai.OpenAI) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose by a quarter point."]
    answer = client.embeddings.create(model="minilm", input=texts)
    cat, kitten, rates = (item.embedding for item in answer.data)
    assert len(cat) == 384

    def alike(one: list[float], other: list[float]) -> float:
        return sum(x * y for x, y in zip(one, other, strict=True))

    assert alike(cat, kitten) > alike(cat, rates) + 0.2
    assert answer.usage.prompt_tokens > 0


def test_openai_embeddings_as_base64_and_as_floats_are_the_same(client: openai.OpenAI) -> None:
    one = client.embeddings.create(model="minilm", input="A cat.", encoding_format="float")
    other = client.embeddings.create(model="minilm", input="A cat.")  # asks for base64 and decodes it
    assert other.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-6)


def test_openai_json_schema_is_kept_to(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer", "maximum": 99}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": OCEAN}],
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}},
    )
    read = json.loads(answer.choices[0].message.content or "")
    assert set(read) == {"city", "people"}


TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def test_openai_tools_are_taken_by_the_real_engine(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "How is the weather in Rome?"}],
        tools=[TOOL],
        temperature=0,
        max_tokens=8,
    )
    assert answer.choices[0].message


def test_openai_tool_calls_come_through_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "double", "messages": [{"role": "user", "content": "call=weather"}], "tools": [TOOL]}
    whole = client.chat.completions.create(**asked)
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model=MODEL, max_tokens=20, messages=[{"role": "user", "content": OCEAN}])
    assert answer.content[0].type == "text"
    assert "ocean" in answer.content[0].text
    assert answer.usage.output_tokens > 0


def test_anthropic_messages_streamed(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model=MODEL, max_tokens=20, messages=[{"role": "user", "content": OCEAN}]) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert "ocean" in text
    assert final.usage.output_tokens > 0


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    few = claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    many = claude.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hello " * 50}])
    assert many.input_tokens > few.input_tokens + 40


# ------------------------------------------------------------------------------------------- what the engine gets


def test_the_engine_gets_the_very_bytes_of_the_client(clients: Installation, double: Beside) -> None:
    body = (
        b'{ "model":"double" ,"messages":[{"role":"user","content":"tokens=1 \\u00e9 \xc3\xa9 1.10"}],\n'
        b'"temperature":1.0,"seed":12345678901234567890,"tools":[{"type":"function","function":{"name":"f",'
        b'"parameters":{"type":"object","properties":{"b":{},"a":{}}}}}],"tool_choice":"auto","response_format":'
        b'{"type":"json_schema","json_schema":{"name":"x","schema":{"z":1,"y":2}}}, "stream" : false}  '
    )
    status, _, answer = clients.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    headers, got = double.last()
    assert got == body
    assert headers["content-length"] == str(len(body))
    assert "authorization" not in headers
    assert "x-api-key" not in headers
    assert not [name for name in headers if name.startswith("x-first")]


def test_only_the_model_s_name_is_replaced_for_an_alias(clients: Installation, double: Beside) -> None:
    body = b'{"messages":[{"role":"user","content":"model \\"double-alias\\""}], "model" :  "double-alias","n":1}'
    status, _, answer = clients.request("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    _, got = double.last()
    assert got == body.replace(b'"model" :  "double-alias"', b'"model" :  "double"')


def test_what_the_openai_client_sends_with_tools_and_a_schema_reaches_the_engine_unchanged(
    clients: Installation, double: Beside
) -> None:
    sent: list[bytes] = []
    with openai.OpenAI(base_url=clients.base_url, api_key=clients.key, max_retries=0) as client:
        client._client.event_hooks["request"].append(lambda request: sent.append(request.content))
        client.chat.completions.create(
            model="double",
            messages=[{"role": "user", "content": "tokens=2 ünï"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            response_format={"type": "json_object"},
            extra_body={"chat_template_kwargs": {"thinking": True}},
            stream=True,
        ).close()
    headers, got = double.last()
    assert got == sent[-1]
    assert clients.key not in json.dumps(headers)


# ----------------------------------------------------------------------------------------------------------- errors


def test_an_unknown_key_raises_authentication_error_in_both_clients(clients: Installation) -> None:
    with (
        openai.OpenAI(base_url=clients.base_url, api_key="fk-nobody", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
    assert raised.value.code == "invalid_api_key"
    base = clients.base_url.removesuffix("/v1")
    with (
        anthropic.Anthropic(base_url=base, api_key="fk-nobody", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x"}])
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error"]["type"] == "authentication_error"


def test_a_key_confined_to_other_models_raises_permission_denied(clients: Installation) -> None:
    made = clients.first("keys", "create", "confined", "--model", "double", "--json")
    key = json.loads(made.stdout)["key"]
    with openai.OpenAI(base_url=clients.base_url, api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["double"]
        with pytest.raises(openai.PermissionDeniedError) as raised:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}])
        assert raised.value.code == "model_not_allowed"
        client.chat.completions.create(model="double", messages=[{"role": "user", "content": "tokens=1"}])
    base = clients.base_url.removesuffix("/v1")
    with (
        anthropic.Anthropic(base_url=base, api_key=key, max_retries=0) as claude,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x"}])


def test_an_unknown_model_raises_not_found_with_the_nearest_name(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="smolm2", messages=[{"role": "user", "content": "x"}])
    assert raised.value.code == "model_not_found"
    assert "smollm2" in raised.value.message
    with pytest.raises(anthropic.NotFoundError) as refused:
        claude.messages.create(model="smolm2", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    assert "smollm2" in refused.value.message


def test_a_body_over_the_limit_raises_413(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(model=MODEL, prompt="x" * 20_000)
    assert raised.value.status_code == 413
    assert raised.value.code == "request_too_large"
    with pytest.raises(anthropic.APIStatusError) as refused:
        claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "x" * 20_000}])
    assert refused.value.status_code == 413


def test_too_many_requests_a_minute_raise_rate_limit_error_with_when_to_retry(clients: Installation) -> None:
    made = clients.first("keys", "create", "hasty", "--rpm", "2", "--json")
    key = json.loads(made.stdout)["key"]
    with openai.OpenAI(base_url=clients.base_url, api_key=key, max_retries=0) as client:

        def ask() -> None:
            client.chat.completions.create(model="double", messages=[{"role": "user", "content": "tokens=1"}])

        ask()
        ask()
        with pytest.raises(openai.RateLimitError) as raised:
            ask()
        assert raised.value.code == "rate_limit_exceeded"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert raised.value.response.headers["x-ratelimit-limit-requests"] == "2"
    base = clients.base_url.removesuffix("/v1")
    with (
        anthropic.Anthropic(base_url=base, api_key=key, max_retries=0) as claude,
        pytest.raises(anthropic.RateLimitError) as refused,
    ):
        claude.messages.create(model="double", max_tokens=5, messages=[{"role": "user", "content": "tokens=1"}])
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_a_model_that_cannot_start_raises_503_with_the_reason(
    client: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="broken", messages=[{"role": "user", "content": "x"}])
    assert raised.value.status_code == 503
    assert raised.value.code == "model_unavailable"
    assert "first why broken" in raised.value.message
    with pytest.raises(anthropic.APIStatusError) as refused:
        claude.messages.create(model="broken", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    assert refused.value.status_code == 503


# ------------------------------------------------------------------------------------------------------ broken streams


def test_a_chat_stream_that_breaks_raises_after_the_tokens_that_came(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="double", messages=[{"role": "user", "content": "tokens=9 break=3"}], stream=True
    )
    got: list[str] = []
    with stream, pytest.raises(openai.APIError) as raised:
        got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert got == ["w0 ", "w1 ", "w2 "]
    assert "broke off" in raised.value.message


@pytest.mark.anyio
async def test_a_chat_stream_that_breaks_raises_in_the_async_client(clients: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=clients.base_url, api_key=clients.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="double", messages=[{"role": "user", "content": "tokens=9 break=3"}], stream=True
        )
        async with stream:
            with pytest.raises(openai.APIError, match="broke off"):
                async for _ in stream:
                    pass


def test_a_responses_stream_that_breaks_raises(client: openai.OpenAI) -> None:
    stream = client.responses.create(model="double", input="tokens=9 break=3", stream=True)
    with stream, pytest.raises(openai.APIError) as raised:
        list(stream)
    assert "broke off" in raised.value.message


def test_a_messages_stream_that_breaks_raises(claude: anthropic.Anthropic) -> None:
    got: list[str] = []
    with (
        claude.messages.stream(
            model="double", max_tokens=9, messages=[{"role": "user", "content": "tokens=9 break=3"}]
        ) as stream,
        pytest.raises(anthropic.APIError) as raised,
    ):
        got.extend(stream.text_stream)
    assert got == ["w0 ", "w1 ", "w2 "]
    assert "broke off" in str(raised.value)


def test_a_plain_answer_that_breaks_is_no_answer(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError):
        client.chat.completions.create(model="double", messages=[{"role": "user", "content": "tokens=9 break=1"}])
