"""The baseline: mlx-lm's BatchGenerator in a process of its own, without HTTP. `python -m lmx_ledger.bench.raw FOLDER`.

It reads one JSON object a line ({"prompts", "max_tokens", "temperature", "top_p"}) and answers with one:
{"took_s", "first_s", "worst_gap_s", "median_gap_s"}; of the arrivals of tokens in all rows. To {"history", "new",
"times"} it answers {"first_s"}: of so many new tokens behind the history's cache, the median of some times.
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.sample_utils import make_sampler
from mlx_lm.utils import load_model

_STEP: Final = 2_048


def main() -> None:
    """Answer until stdin is closed."""
    module, _ = load_model(Path(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        answer = _next_turn(module, asked) if "history" in asked else _run(module, asked)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(module: Any, asked: dict[str, Any]) -> dict[str, float]:
    generator = BatchGenerator(module)
    # It raises the wired limit of the whole machine on Metal; close() puts that back, and it stays usable.
    generator.close()
    rows = len(asked["prompts"])
    sampler = make_sampler(asked["temperature"], top_p=asked["top_p"]) if asked["temperature"] else None
    generator.insert(asked["prompts"], max_tokens=[asked["max_tokens"]] * rows, samplers=[sampler] * rows)
    began, left, arrived = time.perf_counter(), rows, []
    while left:
        _, responses = generator.next()
        if responses:
            arrived.append(time.perf_counter())
            left -= sum(response.finish_reason is not None for response in responses)
    gaps = [b - a for a, b in pairwise(arrived)] or [0.0]
    return {
        "took_s": time.perf_counter() - began,
        "first_s": arrived[0] - began,
        "worst_gap_s": max(gaps),
        "median_gap_s": statistics.median(gaps),
    }


def _next_turn(module: Any, asked: dict[str, Any]) -> dict[str, float]:
    cache = make_prompt_cache(module)
    history, took = asked["history"], []
    for start in range(0, len(history), _STEP):
        module(mx.array([history[start : start + _STEP]]), cache=cache)
        mx.eval([part.state for part in cache])
    for number in range(asked["times"]):
        new = [(history[0] + number + n) % module.args.vocab_size for n in range(asked["new"])]
        began = time.perf_counter()
        module(mx.array([new[:-1]]), cache=cache)
        mx.eval([part.state for part in cache])
        mx.eval(mx.argmax(module(mx.array([new[-1:]]), cache=cache)[:, -1, :], axis=-1))
        took.append(time.perf_counter() - began)
        trim_prompt_cache(cache, len(new))
    return {"first_s": statistics.median(took)}


if __name__ == "__main__":
    main()
