"""From a model's tokens to calls: detokenised by a worker, read by a gateway."""

import pytest

from schemas.jobs import ToolChoice
from schemas.sampling import Grammar, SamplingParams
from schemas.tool_forms import FORMS
from server.tools.parser import open_parser
from tests.server.tools.parsing import TOOLS, joined
from tests.workers.tokenizers.checkpoints import tokenizer
from workers.handlers.reply import ReplyText
from workers.tools.conversation import pick_writer

NAMES = ["internvl2_5-qwen2", "internvl2-qwen2", "internvl2-internlm2", "internvl2-phi3"]
ARGUMENTS = '{"at": "the red cat , isn \'t it ?  三"}'
"""With what the clean-up of some families' decoding would change."""


def ids_of(name: str) -> list[int]:
    """Some words, then two calls, as a model of this checkpoint would write them."""
    form = FORMS[pick_writer(tokenizer(name), has_named_turns=True).form_name]
    ids: list[int] = []
    for tool, lead in (("look", "Let me see.\n"), ("get_time", form.separator)):
        body = f'{form.margin[0]}{{"name": "{tool}", "{form.arguments_key}": {ARGUMENTS}}}{form.margin[1]}'
        for piece in (lead, form.opening, form.lead, body, form.closing):
            is_mark = piece in form.marks
            own = tokenizer(name).encode(piece, parse_special=is_mark)
            ids += own[1:] if own[:1] == [tokenizer(name).bos_token_id] else own
    return ids


@pytest.mark.parametrize("grammar", [None, Grammar("lark")])
@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read_from_the_tokens(name: str, size: int, grammar: Grammar | None) -> None:
    form_name = pick_writer(tokenizer(name), has_named_turns=True).form_name
    marks = {found for mark in FORMS[form_name].marks if (found := tokenizer(name).token_id(mark)) is not None}
    reply = ReplyText(tokenizer(name), SamplingParams(seed=0, grammar=grammar), frozenset(), True, marks)
    parser = open_parser(form_name, TOOLS, ToolChoice())
    ids = ids_of(name)
    events = []
    for start in range(0, len(ids), size):
        events += parser.push(reply.push(ids[start : start + size]).text)
    events += parser.push(reply.finish()) + parser.finish()
    words, *calls = joined(events)
    assert str(words).strip() == "Let me see."
    assert calls == [("look", ARGUMENTS), ("get_time", ARGUMENTS)]
