"""Questions that the frozen base model asks about a statement, so that it can be replayed as an
answer (Nested Learning, section 3.3: knowledge transfer by generation).

The base is shown a few statements with questions, on topics chosen to be of no use beyond the
form. A question is kept only when it holds no name and no number that the statement does not, does
not give the answer away, and leaves something to be answered; so a replay carries no value that is
not in its span.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from hope_runtime.learning.decoding import decode
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.persons import is_first_person
from hope_runtime.learning.statements.english.word_order import value_of
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel

QUESTION_TOKENS = 16
KIND_TOKENS = 5
# How often a kind is thought of, and how freely from the second time on.
KIND_TRIALS = 6
KIND_TEMPERATURE = 0.8
# (statement, what it tells, what kind of thing that is, a question)
_SHOTS = (
    ("The Tarrow bridge was designed by Elna Voss.", "Elna Voss", "architect",
     "Who designed the Tarrow bridge?"),
    ("Marek Dunn's train leaves from platform 12.", "12", "platform number",
     "Which platform does Marek Dunn leave from?"),
    ("I never leave the house without a sketchbook.", "sketchbook", "belonging",
     "What do I always take along?"),
    ("On Mondays Lena can be found in the swimming pool.", "swimming pool", "place",
     "Where does Lena go on Mondays?"),
    ("The wedding of Orsova will be in June.", "June", "month",
     "When is Orsova's wedding?"),
    ("My grandmother made her dresses out of linen.", "linen", "fabric",
     "What did my grandmother use for her dresses?"),
    ("For breakfast Tomas Reed has porridge.", "porridge", "food",
     "Which food does Tomas Reed eat in the morning?"),
)  # fmt: skip
# Kinds of which nobody would ask.
_VAGUE = frozenset(["thing", "person", "name", "word", "object", "noun"])
_WORD = re.compile(r"[^\W_][\w'\u2019-]*")
_FIRST = re.compile(r"\b(?:I|my|me|mine)\b", re.IGNORECASE)
_FUNCTION_WORDS = frozenset([
    "the", "a", "an", "is", "are", "was", "were", "has", "have", "had", "of", "in", "on", "at",
    "to", "for", "by", "with", "and", "or", "from", "as", "be", "been", "it", "its", "this",
    "that", "my", "your", "i", "you", "me", "his", "her", "their", "he", "she", "they", "what",
    "which", "who", "whom", "whose", "where", "when", "why", "how", "does", "do", "did", "can",
    "could", "would", "will", "not", "no",
])  # fmt: skip


def ask(
    model: BaseModel,
    workers: Workers,
    names: Names,
    statements: Sequence[str],
    trials: int = KIND_TRIALS,
) -> Generator[None, None, list[list[str]]]:
    """Up to three questions for each statement, the better ones first; yields between steps. A
    kind that cannot be asked for is thought of anew up to `trials` times in all."""
    writer = _Writer(model, workers)
    values = [value_of(text) or "" for text in statements]
    kinds = yield from _kinds(writer, statements, values, trials)
    # Each statement twice: with the kind of thing as the question's beginning, and freely.
    begun = [
        *(_opening(names, text, kind) for text, kind in zip(statements, kinds, strict=True)),
        *("" for _ in statements),
    ]
    replies = writer.write(
        "Write a question that is answered by the statement.",
        [f"Statement: {text}\nQuestion: {question}" for text, _, _, question in _SHOTS],
        [f"Statement: {t}\nQuestion:{b}" for t, b in zip([*statements] * 2, begun, strict=True)],
        QUESTION_TOKENS,
    )
    yield
    asked = [(b + reply).strip() for b, reply in zip(begun, replies, strict=True)]
    found = []
    for index, (text, kind) in enumerate(zip(statements, kinds, strict=True)):
        subjects = ["my"] if is_first_person(text) else [f"{n}'s" for n in names.find(text)[:1]]
        plain = [f"What is {subject} {kind}?" for subject in subjects if kind]
        opened, free = asked[index], asked[index + len(statements)]
        right = [
            question
            for question in (opened, free)
            if answers(names, question, text) and not _gives_away(question, values[index])
        ]
        found.append(list(dict.fromkeys([*right[:1], *plain, *right[1:]])))
    return found


def _kinds(
    writer: _Writer, statements: Sequence[str], values: Sequence[str], trials: int
) -> Generator[None, None, list[str]]:
    """Kind of thing that each value is; "" where none can be found of which one would ask.

    What the base thinks of first may say no more than the value: a goldfish is a fish. Then it is
    asked again, for something less likely: an animal.
    """
    shots = [
        f'Statement: {text}\n"{value}" is a kind of: {kind}' for text, value, kind, _ in _SHOTS
    ]
    kinds = [""] * len(statements)
    for trial in range(trials):
        missing = [index for index, kind in enumerate(kinds) if values[index] and not kind]
        if not missing:
            break
        replies = writer.write(
            "For each statement, say in one or two words what kind of thing the quoted words are.",
            shots,
            [f'Statement: {statements[i]}\n"{values[i]}" is a kind of:' for i in missing],
            KIND_TOKENS,
            temperature=KIND_TEMPERATURE if trial else 0.0,
            seed=trial,
        )
        yield
        for index, kind in zip(missing, map(str.strip, replies), strict=True):
            kinds[index] = kind if _is_kind(kind, values[index]) else ""
    return kinds


def _opening(names: Names, statement: str, kind: str) -> str:
    """Beginning of a question after a kind of thing: " Which city does X"."""
    if not kind:
        return ""
    if is_first_person(statement):
        return f" Which {kind} do I"
    return " ".join(["", "Which", kind, *(f"does {name}" for name in names.find(statement)[:1])])


class _Writer:
    """The frozen base model, shown examples, finishes lines."""

    def __init__(self, model: BaseModel, workers: Workers) -> None:
        self._model = model
        self._workers = workers
        tokenizer = model.tokenizer
        newline = frozenset(
            token for token in range(tokenizer.vocab_size) if b"\n" in tokenizer.token_bytes(token)
        )
        self._stop = newline | tokenizer.eos_ids

    def write(
        self,
        task: str,
        shots: Sequence[str],
        lines: Sequence[str],
        max_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        encode, text = self._model.tokenizer.encode, self._model.tokenizer.decode
        replies = decode(
            self._model,
            self._workers,
            [tuple(encode(line)) for line in lines],
            prefix=tuple(encode("\n\n".join((task, *shots, "")))),
            max_tokens=max_tokens,
            stop=self._stop,
            temperature=temperature,
            seed=seed,
        )
        return [text(reply) for reply in replies]


def _is_kind(text: str, value: str) -> bool:
    return (
        bool(re.fullmatch(r"[a-z]+(?: [a-z]+)?", text))
        and text not in _VAGUE
        and text not in value.lower()
        and not set(text.split()).intersection(value.lower().split())
    )


def answers(names: Names, question: str, statement: str) -> bool:
    """Whether `statement` can answer `question`, as far as words alone tell."""
    if not question.endswith("?") or "?" in question[:-1]:
        return False
    asked = [_bare(word) for word in _WORD.findall(question)]
    said = {_bare(word) for word in _WORD.findall(statement)}
    negatives = [
        word
        for index, word in enumerate(_WORD.findall(question))
        if ((word[0].isupper() and index and word != "I") or any(c.isdigit() for c in word))
        and _bare(word) not in said
    ]
    content = said - _FUNCTION_WORDS
    if negatives or not content - set(asked):
        return False
    if is_first_person(statement):
        return bool(_FIRST.search(question))
    if _FIRST.search(question):
        return False
    subjects = names.find(statement)
    return subjects[0] in question if subjects else bool(content & set(asked))


def _gives_away(question: str, value: str) -> bool:
    asked = {_bare(word) for word in _WORD.findall(question)}
    told = {_bare(word) for word in _WORD.findall(value)} - _FUNCTION_WORDS
    return bool(told) and told <= asked


def _bare(word: str) -> str:
    return re.sub(r"['\u2019]s$", "", word.lower())
