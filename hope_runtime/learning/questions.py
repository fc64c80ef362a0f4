"""Questions that the frozen base model asks about a statement, so that it can be replayed as an
answer (Nested Learning, section 3.3: knowledge transfer by generation).

The base is shown a few statements with questions, on topics chosen to be of no use beyond the
form. A question is kept only when it holds no name and no number that the statement does not, and
leaves something to be answered; so a replay carries no value that is not in its span.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from hope_runtime.learning.decoding import decode
from hope_runtime.learning.english import is_first_person
from hope_runtime.learning.names import Names
from hope_runtime.model.weights import BaseModel

MAX_TOKENS = 20
# (statement, one question, another one in other words)
_SHOTS = (
    ("The museum opens at nine.",
     "When does the museum open?", "What time is the opening of the museum?"),
    ("The Tarrow bridge was designed by Elna Voss.",
     "Who designed the Tarrow bridge?", "Who was the designer of the Tarrow bridge?"),
    ("Marek Dunn's train leaves from platform 12.",
     "From which platform does Marek Dunn's train leave?",
     "What is the platform of Marek Dunn's train?"),
    ("My umbrella is in the kitchen.",
     "Where is my umbrella?", "In which room is my umbrella?"),
    ("Orsova weighs 62 kilos.", "How much does Orsova weigh?", "What is the weight of Orsova?"),
    ("I bought a wooden ladder.", "What did I buy?", "Which thing did I buy?"),
    ("The cheapest ticket is the yellow one.",
     "Which ticket is the cheapest?", "What is the cheapest ticket?"),
)  # fmt: skip
_WORD = re.compile(r"[^\W_][\w'\u2019-]*")
_FIRST = re.compile(r"\b(?:I|my|me|mine)\b", re.IGNORECASE)
_FUNCTION_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "is",
        "are",
        "was",
        "were",
        "has",
        "have",
        "had",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "by",
        "with",
        "and",
        "or",
        "from",
        "as",
        "be",
        "been",
        "it",
        "its",
        "this",
        "that",
        "my",
        "your",
        "i",
        "you",
        "me",
        "his",
        "her",
        "their",
        "he",
        "she",
        "they",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "where",
        "when",
        "why",
        "how",
        "does",
        "do",
        "did",
        "can",
        "could",
        "would",
        "will",
        "not",
        "no",
    ]
)


def ask(
    model: BaseModel, names: Names, statements: Sequence[str]
) -> Generator[None, None, list[list[str]]]:
    """Up to two different questions for each statement; yields between decoding steps."""
    tokenizer = model.tokenizer
    newline = frozenset(
        token for token in range(tokenizer.vocab_size) if b"\n" in tokenizer.token_bytes(token)
    )
    found: list[list[str]] = [[] for _ in statements]
    for style in (1, 2):
        shots = "".join(f"Statement: {shot[0]}\nQuestion: {shot[style]}\n\n" for shot in _SHOTS)
        head = f"Write a question that is answered by the statement.\n\n{shots}"
        replies = yield from decode(
            model,
            [tuple(tokenizer.encode(f"Statement: {text}\nQuestion:")) for text in statements],
            prefix=tuple(tokenizer.encode(head)),
            max_tokens=MAX_TOKENS,
            stop=newline | tokenizer.eos_ids,
        )
        for text, reply, kept in zip(statements, replies, found, strict=True):
            question = tokenizer.decode(reply).strip()
            if question not in kept and answers(names, question, text):
                kept.append(question)
    return found


def answers(names: Names, question: str, statement: str) -> bool:
    """Whether `statement` can answer `question`, as far as words alone tell."""
    if not question.endswith("?") or "?" in question[:-1]:
        return False
    asked = [_bare(word) for word in _WORD.findall(question)]
    said = {_bare(word) for word in _WORD.findall(statement)}
    strangers = [
        word
        for index, word in enumerate(_WORD.findall(question))
        if ((word[0].isupper() and index and word != "I") or any(c.isdigit() for c in word))
        and _bare(word) not in said
    ]
    content = said - _FUNCTION_WORDS
    if strangers or not content - set(asked):
        return False
    if is_first_person(statement):
        return bool(_FIRST.search(question))
    if _FIRST.search(question):
        return False
    subjects = names.find(statement)
    return subjects[0] in question if subjects else bool(content & set(asked))


def _bare(word: str) -> str:
    return re.sub(r"['\u2019]s$", "", word.lower())
