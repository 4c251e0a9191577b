"""Models that tests use: real folders that mlx-lm loads, one random, one that says what a test needs."""

import itertools
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken

from training.llama_folder import MARKERS, SPECIALS, Shape, Weights, byte_level_bpe, write_llama

WORDS: Final = "the quick brown fox jumps over the lazy dog while every model pages its weights to disk and back again"

SCRIPTS: Final = {
    # What follows the end of an ordinary prompt.
    "\n": ["Once", " upon", " a ti", "me, th", "e END", " of it"],
    "<|tools|>": ["Calling.", "<tool_call>"],
    "<tool_call>": ['{"name": "get_weather", "arguments": {"city": "Paris"}}', "</tool_call>"],
    "<|broken|>": ["<tool", "_call>", "no call at all", "</tool", "_ca", "ll>"],
    "<think>": ["I ponder", " deeply", "</think>", "\n\nForty", "-two"],
    "<|bytes|>": ["â", "Ĥ", "¬", " is a euro", "Ã"],
}
ENDLESS: Final = ["la", " la", " lala"]
SING: Final = "Sing without end"
TRIGGERS: Final = ("<|tools|>", "<|broken|>", "<|bytes|>", "<|endless|>")

CHAT_TEMPLATE: Final = r"""
{%- if tools %}
  {{- '<|im_start|>system\nTools, called as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>:\n' }}
  {%- for tool in tools %}{{- tool | tojson + '\n' }}{% endfor %}
  {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
  {{- '<|im_start|>' + message.role + '\n' }}
  {%- if message.content %}{{- message.content }}{% endif %}
  {%- for call in message.tool_calls or [] %}
    {%- set tool_call = call.function %}
    {{- '<tool_call>\n' + {"name": tool_call.name, "arguments": tool_call.arguments} | tojson + '\n</tool_call>' }}
  {%- endfor %}
  {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
"""ChatML with Qwen's tool calls; `tool_call.name` is what mlx-lm recognises the format by."""


CHAIN_TEMPLATE: Final = (
    CHAT_TEMPLATE
    + "{%- if add_generation_prompt %}"
    + "{%- if tools %}<|tools|>{% endif %}"
    + "{%- if script %}{{ '<|' + script + '|>' }}{% endif %}"
    + "{%- if messages[0].content == '"
    + SING
    + "' %}<|endless|>{% endif %}"
    + "{%- if think %}<think>{% endif %}"
    + "{%- if refuse %}{{ raise_exception('not today') }}{% endif %}"
    + "{% endif %}"
)


def random_weights(shape: Shape, vocab: int, seed: int) -> Weights:
    """Normal weights of a Llama with its own output layer, float32, the same for the same seed."""
    rng = np.random.default_rng(seed)
    head = shape.hidden // shape.heads

    def normal(*size: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (rng.standard_normal(size) / np.sqrt(size[-1])).astype(np.float32)
        return values

    weights: Weights = {
        "model.embed_tokens.weight": rng.standard_normal((vocab, shape.hidden)).astype(np.float32),
        "model.norm.weight": np.ones(shape.hidden, np.float32),
        "lm_head.weight": 4 * normal(vocab, shape.hidden),
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{at}.post_attention_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{at}.self_attn.q_proj.weight": normal(shape.hidden, shape.hidden),
            f"{at}.self_attn.k_proj.weight": normal(shape.kv_heads * head, shape.hidden),
            f"{at}.self_attn.v_proj.weight": normal(shape.kv_heads * head, shape.hidden),
            f"{at}.self_attn.o_proj.weight": normal(shape.hidden, shape.hidden),
            f"{at}.mlp.gate_proj.weight": normal(shape.intermediate, shape.hidden),
            f"{at}.mlp.up_proj.weight": normal(shape.intermediate, shape.hidden),
            f"{at}.mlp.down_proj.weight": normal(shape.hidden, shape.intermediate),
        }
    return weights


def write_test_model(folder: Path, *, seed: int = 7, layers: int = 2, context: int = 8192) -> Path:
    """Random weights: what it says has no meaning, and is the same for the same seed."""
    shape = Shape(layers=layers, context=context)
    tokenizer = byte_level_bpe([WORDS], vocab=512)
    vocab = tokenizer.get_vocab_size()
    weights = random_weights(shape, vocab, seed)
    # Lone bytes beyond ASCII and structure that nobody asked for would only show as broken characters.
    for token, number in tokenizer.get_vocab().items():
        if token in (*SPECIALS[:2], *MARKERS) or not token.replace("Ġ", " ").isascii():
            weights["lm_head.weight"][number] = 0
    return write_llama(folder, shape=shape, weights=weights, tokenizer=tokenizer, template=CHAT_TEMPLATE)


def write_chain_model(folder: Path) -> Path:
    """A Llama whose next token depends on the last one alone: it recites `SCRIPTS`, or `ENDLESS` without end.

    Embeddings are one-hot and attention and MLP add nothing, so that the output layer is the transition table.
    """
    phrases = [p for script in (*SCRIPTS.values(), ENDLESS) for p in script]
    tokenizer = byte_level_bpe([], vocab=259)
    known = set(tokenizer.get_vocab())
    plain = [p for p in dict.fromkeys(phrases) if p not in known]
    tokenizer.add_tokens([AddedToken(p, special=False, normalized=False) for p in plain])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in TRIGGERS])
    number = {**tokenizer.get_vocab(), "\n": tokenizer.get_vocab()["Ċ"]}
    vocab, eos = tokenizer.get_vocab_size(), number["<|im_end|>"]

    shape = Shape(hidden=512, layers=1, heads=8, kv_heads=8, intermediate=16)
    weights = random_weights(shape, vocab, seed=0)
    table = np.zeros((vocab, shape.hidden), np.float32)
    follows = {number[token]: eos for token in number}
    for first, script in {**SCRIPTS, "<|endless|>": [*ENDLESS, ENDLESS[0]]}.items():
        chain = [number[first], *(number[p] for p in script)]
        follows |= dict(itertools.pairwise(chain))
        if first != "<|endless|>" and script[-1] not in SCRIPTS:
            follows[chain[-1]] = eos
    for token, following in follows.items():
        table[following, token] = 1
    weights["model.embed_tokens.weight"] = np.eye(vocab, shape.hidden, dtype=np.float32)
    weights["lm_head.weight"] = table
    weights["model.layers.0.self_attn.o_proj.weight"][:] = 0
    weights["model.layers.0.mlp.down_proj.weight"][:] = 0
    return write_llama(folder, shape=shape, weights=weights, tokenizer=tokenizer, template=CHAIN_TEMPLATE)
