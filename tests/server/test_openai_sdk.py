"""The official openai package works against this server unchanged."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam

from tests.conftest import RunningDaemon
from tests.models import SCRIPTS

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
STORY = "".join(SCRIPTS["\n"])
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(daemon: RunningDaemon) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{daemon.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def text_of(chunks: list[ChatCompletionChunk], choice: int = 0) -> str:
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == choice)


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chain", "random"]
    assert client.models.retrieve("chain").owned_by == "lmx"


def test_chat_answers(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="chain", messages=HI, temperature=0)
    assert answer.choices[0].message.content == STORY
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(SCRIPTS["\n"]) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams_the_same_text_with_usage_last(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chain", messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert text_of(chunks) == STORY
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_alias_names_a_model(client: OpenAI) -> None:
    assert client.chat.completions.create(model="gpt-4o", messages=HI, max_tokens=1).model == "chain"


@pytest.mark.parametrize(
    ("stop", "text"),
    [("time", "Once upon a "), (["nothing", "END of"], "Once upon a time, the "), ("O", ""), ("absent", STORY)],
)
def test_a_stop_text_is_exact_across_tokens(client: OpenAI, stop: str | list[str], text: str) -> None:
    whole = client.chat.completions.create(model="chain", messages=HI, temperature=0, stop=stop)
    streamed = list(client.chat.completions.create(model="chain", messages=HI, temperature=0, stop=stop, stream=True))
    assert whole.choices[0].message.content == text == text_of(streamed)
    assert whole.choices[0].finish_reason == "stop" == streamed[-1].choices[0].finish_reason


def test_max_tokens_ends_with_length(client: OpenAI) -> None:
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = client.chat.completions.create(model="chain", messages=HI, temperature=0, extra_body=limit)
        assert answer.choices[0].message.content == "Once upon"
        assert answer.choices[0].finish_reason == "length"


def test_a_tool_call_comes_through_the_template_and_the_parser(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="chain", messages=HI, temperature=0, tools=[WEATHER])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content == "Calling."
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city":"Paris"}')


def test_a_tool_call_streams(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="chain", messages=HI, temperature=0, tools=[WEATHER], stream=True)
    )
    calls = [call for chunk in chunks for c in chunk.choices for call in c.delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "get_weather")]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_tool_can_be_required_named_or_forbidden(client: OpenAI) -> None:
    def ask(choice: object) -> tuple[str | None, int]:
        answer = client.chat.completions.create(
            model="chain",
            messages=HI,
            temperature=0,
            tools=[WEATHER],
            tool_choice=choice,  # type: ignore[call-overload]
        )
        return answer.choices[0].message.content, len(answer.choices[0].message.tool_calls or [])

    assert ask("required") == (None, 1)
    assert ask({"type": "function", "function": {"name": "get_weather"}}) == (None, 1)
    assert ask("none") == (STORY, 0)


def test_the_turn_after_a_tool_call_is_read(client: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        *HI,
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"X"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    assert client.chat.completions.create(model="chain", messages=messages, max_tokens=2).usage is not None


def test_a_call_that_cannot_be_parsed_is_shown_as_it_was_written(client: OpenAI, daemon: RunningDaemon) -> None:
    answer = client.chat.completions.create(
        model="chain",
        messages=HI,
        temperature=0,
        tools=[WEATHER],
        extra_body={"chat_template_kwargs": {"script": "broken"}},
    )
    message = answer.choices[0].message
    assert message.content == "<tool_call>no call at all</tool_call>"
    assert message.tool_calls is None
    degraded = daemon.wait_event("request.degraded", request=answer.id)
    assert degraded["data"]["reason"] == "tool_call_unparsed"


def test_reasoning_is_split_from_the_answer(client: OpenAI) -> None:
    body = {"chat_template_kwargs": {"think": True}}
    whole = client.chat.completions.create(model="chain", messages=HI, temperature=0, extra_body=body)
    chunks = list(
        client.chat.completions.create(model="chain", messages=HI, temperature=0, extra_body=body, stream=True)
    )
    message = whole.choices[0].message
    assert message.content == "Forty-two" == text_of(chunks)
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "I ponder deeply"
    reasoning = [(c.delta.model_extra or {}).get("reasoning_content", "") for chunk in chunks for c in chunk.choices]
    assert "".join(reasoning) == "I ponder deeply"
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 3


def test_characters_of_several_tokens_arrive_whole(client: OpenAI) -> None:
    body = {"chat_template_kwargs": {"script": "bytes"}}
    chunks = list(
        client.chat.completions.create(model="chain", messages=HI, temperature=0, extra_body=body, stream=True)
    )
    assert text_of(chunks) == "€ is a euro\ufffd"
    first = next(c.delta.content for chunk in chunks for c in chunk.choices if c.delta.content)
    assert first.startswith("€")


def test_a_seed_gives_the_same_answer_again_and_another_seed_another(client: OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(model="random", messages=HI, seed=seed, max_tokens=24)
        return answer.choices[0].message.content

    assert ask(11) == ask(11)
    assert ask(11) != ask(12)


def test_n_choices_differ_and_the_first_is_what_one_would_be(client: OpenAI) -> None:
    one = client.chat.completions.create(model="random", messages=HI, seed=3, max_tokens=12)
    three = client.chat.completions.create(model="random", messages=HI, seed=3, max_tokens=12, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) == 3
    chunks = list(client.chat.completions.create(model="random", messages=HI, seed=3, max_tokens=12, n=3, stream=True))
    assert [text_of(chunks, choice) for choice in range(3)] == texts


def test_logprobs_come_with_the_likeliest_tokens(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="random", messages=HI, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 6
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob
    assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content


def test_streamed_logprobs_are_those_of_the_whole_answer(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="random", messages=HI, temperature=0, max_tokens=6, logprobs=True, stream=True
        )
    )
    tokens = [t for chunk in chunks for c in chunk.choices if c.logprobs for t in c.logprobs.content or []]
    assert "".join(token.token for token in tokens) == text_of(chunks)


def test_logprobs_of_a_stop_text_are_not_shown(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="chain", messages=HI, temperature=0, logprobs=True, stop="time")
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [token.token for token in logprobs.content or []] == ["Once", " upon", " a ti"]


def test_a_bias_forbids_a_token_and_penalties_change_the_answer(client: OpenAI) -> None:
    plain = client.chat.completions.create(model="random", messages=HI, temperature=0, max_tokens=16, logprobs=True)
    penalised = client.chat.completions.create(
        model="random", messages=HI, temperature=0, max_tokens=16, frequency_penalty=2, presence_penalty=2
    )
    repeated = client.chat.completions.create(
        model="random", messages=HI, temperature=0, max_tokens=16, extra_body={"repetition_penalty": 1.8}
    )
    texts = {answer.choices[0].message.content for answer in (plain, penalised, repeated)}
    assert len(texts) == 3


def test_completions_continue_text_lists_and_tokens(client: OpenAI) -> None:
    one = client.completions.create(model="random", prompt="the quick", seed=1, max_tokens=5, logprobs=2)
    assert one.choices[0].logprobs is not None
    assert len(one.choices[0].logprobs.tokens or []) == 5
    two = client.completions.create(model="random", prompt=["the quick", "every model"], seed=1, max_tokens=5, n=2)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == one.choices[0].text
    ids = client.completions.create(model="random", prompt=[300, 301], max_tokens=5)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 2
    streamed = client.completions.create(model="random", prompt="the quick", seed=1, max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == one.choices[0].text


def test_errors_are_the_packages_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there are: chain, random") as missing:
        client.chat.completions.create(model="nope", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="chain", messages=[])
    assert (bad.value.code, bad.value.param) == ("invalid_request", "messages")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="chain", messages=[{"role": "user", "content": "x" * 9000}])
    assert long.value.code == "context_length_exceeded"


def test_the_request_id_has_the_stem_of_the_answers_id(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="chain", messages=HI, max_tokens=1)
    answer = raw.parse()
    assert raw.headers["x-request-id"].removeprefix("req_") == answer.id.removeprefix("chatcmpl-")
