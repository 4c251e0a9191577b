"""The last lines of the start-up output: where it serves, what it serves, and a line to paste."""

from collections.abc import Sequence

from lmx_ledger.core.config import Config, ServerSection
from lmx_ledger.core.units import show_bytes
from lmx_ledger.serving.models import ModelState, ServedModel
from lmx_ledger.store import embedded


def banner(url: str, models: Sequence[ServedModel], config: Config) -> str:
    """Plain text; the curl line works when pasted into a POSIX shell."""
    resident = [model for model in models if model.state is ModelState.RESIDENT]
    width = max(len(model.id) for model in resident)
    lines = ["", f"LMX serves on {url}"]
    lines += [
        f"  {model.id:<{width}}  {model.text.architecture if model.text else ''}, "
        f"{show_bytes(model.weights_bytes)}, context {model.context:,} tokens"
        for model in resident
    ]
    if [model.id for model in resident] == [embedded.ID]:
        lines.append(f"  {embedded.ABOUT}")
    key = " -H 'Authorization: Bearer '\"$LMX_API_KEY\"" if config.server.api_keys else ""
    body = f'{{"model":"{resident[0].id}","max_tokens":100,"messages":[{{"role":"user","content":"What is LMX?"}}]}}'
    elsewhere = "" if config.server.port == ServerSection().port else f" --url {url}"
    lines += [
        "Try it:",
        f"  curl -s {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        f"Or talk to it: lmx chat{elsewhere}",
        f"Stop with Ctrl-C; ask what happened with: lmx events{elsewhere}, lmx serve logs{elsewhere}",
    ]
    return "\n".join(lines)
