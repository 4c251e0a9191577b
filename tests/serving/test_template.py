"""Templates as models ship them."""

import pytest

from lmx_ledger.serving.template import ChatTemplate, TemplateError

USER = [{"role": "user", "content": "Grüße <b>"}]


def test_special_tokens_messages_and_extra_names_are_there() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}{{ mood }}", {"bos_token": "<s>"})
    assert template.render(USER, [], {"mood": "!"}) == "<s>Grüße <b>!"


def test_tools_are_written_as_json_without_escapes() -> None:
    template = ChatTemplate("{{ tools | tojson }}", {})
    assert template.render(USER, [{"name": "größe"}], {}) == '[{"name": "größe"}]'


def test_loop_controls_and_generation_blocks_work() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}"
    assert ChatTemplate(source, {}).render(USER, [], {}) == "user"


def test_a_template_that_refuses_says_why() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.render(USER, [], {})


def test_a_template_that_is_no_jinja_is_refused_when_it_is_read() -> None:
    with pytest.raises(TemplateError, match="not valid"):
        ChatTemplate("{% for %}", {})


@pytest.mark.parametrize("source", ["{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}"])
def test_a_template_cannot_reach_out_of_its_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source, {}).render(USER, [], {})
