"""Chat templates as Hugging Face models ship them: sandboxed Jinja with the names that those templates use."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateError(Exception):
    """The template cannot be compiled, or refuses these messages; the message is its own."""


class _Generation(Extension):
    """`{% generation %}` marks what is trained on; for serving it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One model's template.

    Raises:
        TemplateError: it is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template is not valid: {error}") from error

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], extra: Mapping[str, Any]) -> str:
        """The prompt for the model's next turn.

        Raises:
            TemplateError: the template refuses these messages (roles out of order, say).
        """
        names = {**self._special_tokens, **extra, "messages": messages, "tools": tools or None}
        try:
            return self._template.render(**names, add_generation_prompt=True)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            raise TemplateError(f"the model's chat template refuses these messages: {error}") from error


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
