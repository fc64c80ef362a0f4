"""Questions of `recall` about its facts: their values, in chat and as completions, and what was
never taught, where they must not turn up.  Knows the wording and the tokens. Leaves who is asked,
and verdicts, to recall.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hope_lab.evaluate.asking import Ids, chat_prompt, raw_prompt
from hope_lab.evaluate.data.everyday import unrelated
from hope_lab.evaluate.data.items import Item
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

Kind = Literal["answer", "completion", "unseen", "unrelated"]


@dataclass(slots=True)
class Question:
    """One thing asked, and what came back. `ids` are all the tokens that the model saw.

    `item` is None for what was never taught. `verdicts` say of a taught one whether the reply is
    correct, of another whether a taught value intruded. With facts or passages in the prompt the
    model saw other ids: they stood before the question.
    """

    kind: Kind
    text: str
    ids: Ids
    item: Item | None = None
    replies: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, bool] = field(default_factory=dict)


def questions_about(
    model: BaseModel, memory: SessionMemory, items: Sequence[Item]
) -> list[Question]:
    """All that is asked about the items: answers, completions, and what must not intrude."""
    tokenizer = model.tokenizer
    questions = []
    for item in items:
        ids = chat_prompt(tokenizer, memory, item.question)
        questions.append(Question("answer", item.question, ids, item))
        ids = raw_prompt(tokenizer, item.completion)
        questions.append(Question("completion", item.completion, ids, item))
        if item.unseen is not None:
            ids = chat_prompt(tokenizer, memory, item.unseen)
            questions.append(Question("unseen", item.unseen, ids))
    for text in unrelated(item.value for item in items):
        questions.append(Question("unrelated", text, chat_prompt(tokenizer, memory, text)))
    return questions
