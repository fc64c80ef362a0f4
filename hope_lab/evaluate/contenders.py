"""Contenders of a course: the frozen base, its prompt, retrieval, and memories.

Each arm answers the same questions. `frozen` sees the question alone; `prompt` all that was told
before it, while that fits; `retrieval` the best passages of it; `memory` the question alone, on the
terms that it learnt; `memory+retrieval` both. Knows how they learn and are asked; what is taught
and how replies are judged is the tasks' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hope_lab.evaluate.asking import Ids, ask, chat_prompt
from hope_lab.evaluate.bm25 import BM25Index, passages
from hope_lab.evaluate.data.course import Course, Lesson
from hope_lab.evaluate.data.filler import spans_of
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_lab.evaluate.teaching import Pupil
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy

FROZEN, PROMPT, RETRIEVAL = "frozen", "prompt", "retrieval"
MEMORY, BOTH = "memory", "memory+retrieval"
ARMS = (FROZEN, PROMPT, RETRIEVAL, MEMORY, BOTH)
BASELINES = (FROZEN, PROMPT, RETRIEVAL)

# Replies to the questions of one lesson; None where the prompt is too long for the model.
Replies = list[str] | None
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings that all contenders share. `prompt_tokens` is the most that a prompt and its reply
    may take, `passages` how many retrieval puts into it, `budget` what a document may cost, passes
    per token (None: as the policy says)."""

    engine: TorchEngine
    prompt_tokens: int
    passages: int
    budget: float | None = None


class Contender(Protocol):
    """One way to learn from lessons and to answer, as one or several arms."""

    def learn(self, lesson: Lesson, advance: Advance) -> None:
        """Takes in a lesson to its end."""

    def ask(
        self, questions: Sequence[str], new_tokens: int, advance: Advance
    ) -> dict[str, Replies]:
        """The replies of each arm."""

    def costs(self) -> dict[str, Any]:
        """Cost of learning so far."""


def contender(setting: Setting, arms: Sequence[str], policy: LearningPolicy | None) -> Contender:
    """Contender for these arms: one of the baselines, or those of a memory that learns by
    `policy`."""
    if policy is not None:
        return _Remembering(setting, arms, policy)
    (arm,) = arms
    made: dict[str, type[_Baseline]] = {FROZEN: _Baseline, PROMPT: _InPrompt, RETRIEVAL: _Retrieval}
    return made[arm](setting)


def take(course: Course, who: Contender, advance: Advance) -> dict[str, Any]:
    """Lesson after lesson, asking after each: the replies by arm and lesson, and the costs."""
    replies: dict[str, list[Replies]] = {}
    for lesson in course.lessons:
        who.learn(lesson, advance)
        questions = [asked.text for asked in lesson.asked]
        for arm, found in who.ask(questions, course.new_tokens, advance).items():
            replies.setdefault(arm, []).append(found)
    return {"replies": replies, "costs": who.costs()}


def with_context(context: str, question: str) -> str:
    """A question behind what a baseline is given to read."""
    return f"{context.strip()}\n\n{question}" if context.strip() else question


def index_lesson(index: BM25Index, parts: Iterable[str]) -> None:
    """Adds the passages of a text that arrives in parts."""
    for passage in passages(spans_of(parts)):
        index.add(passage)


class _Baseline:
    """The frozen base model, which learns nothing."""

    ARM = FROZEN

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def learn(self, lesson: Lesson, advance: Advance) -> None:
        pass

    def context(self, question: str) -> str | None:
        """Text before a question; None when it exceeds the prompt."""
        return ""

    def ask(
        self, questions: Sequence[str], new_tokens: int, advance: Advance
    ) -> dict[str, Replies]:
        contexts = [self.context(question) for question in questions]
        texts = [
            with_context(context, question)
            for context, question in zip(contexts, questions, strict=True)
            if context is not None
        ]
        if len(texts) < len(questions):
            return {self.ARM: None}
        return {self.ARM: _answers(self._setting, texts, NOTHING, new_tokens, advance)}

    def costs(self) -> dict[str, Any]:
        return {}


class _InPrompt(_Baseline):
    """Everything in the prompt."""

    ARM = PROMPT

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._read: list[str] | None = []
        self._tokens = 0

    def learn(self, lesson: Lesson, advance: Advance) -> None:
        encode = self._setting.engine.model.tokenizer.encode
        for part in lesson.parts:
            if self._read is None:
                return
            self._read.append(part)
            self._tokens += len(encode(part))
            if self._tokens > self._setting.prompt_tokens:
                self._read = None

    def context(self, question: str) -> str | None:
        return None if self._read is None else "".join(self._read)


class _Retrieval(_Baseline):
    """The best passages by BM25, in the order in which they were read."""

    ARM = RETRIEVAL

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._index = BM25Index()

    def learn(self, lesson: Lesson, advance: Advance) -> None:
        index_lesson(self._index, lesson.parts)

    def context(self, question: str) -> str | None:
        return "\n".join(self._index.top(question, self._setting.passages))


class _Remembering:
    """A memory, taught by the calls that a server makes; with and without passages beside it."""

    def __init__(self, setting: Setting, arms: Sequence[str], policy: LearningPolicy) -> None:
        self._setting = setting
        self._arms = arms
        self._retrieval = _Retrieval(setting)
        self._pupil = Pupil(
            setting.engine,
            policy,
            consolidated=lambda report: self._advance(1),
            budget=setting.budget,
        )
        self._advance: Advance = lambda steps: None
        self._lessons = 0

    def learn(self, lesson: Lesson, advance: Advance) -> None:
        if BOTH in self._arms:
            self._retrieval.learn(lesson, advance)
        self._lessons += 1
        # A document is known by its name, and two lessons may share theirs.
        name = f"{self._lessons}:{lesson.name}"
        self._advance = advance
        if lesson.messages is None:
            self._pupil.ingest(name, name, lesson.parts)
        else:
            for message in lesson.messages:
                self._pupil.say(name, message)
        self._pupil.end_conversation(name)

    def ask(
        self, questions: Sequence[str], new_tokens: int, advance: Advance
    ) -> dict[str, Replies]:
        learnt = self._pupil.learnt
        found: dict[str, Replies] = {}
        for arm in self._arms:
            texts = list(questions)
            if arm == BOTH:
                contexts = [self._retrieval.context(question) or "" for question in questions]
                texts = list(map(with_context, contexts, questions))
            found[arm] = _answers(self._setting, texts, learnt, new_tokens, advance)
        return found

    def costs(self) -> dict[str, Any]:
        pupil = self._pupil
        return {
            "learnt_tokens": pupil.memory.observed_tokens,
            "trained_tokens": pupil.trained_tokens,
            "learn_seconds": pupil.learn_seconds,
            "state_bytes": pupil.state_bytes,
        }


def _answers(
    setting: Setting, texts: Sequence[str], learnt: Learnt, new_tokens: int, advance: Advance
) -> Replies:
    model = setting.engine.model
    # A new conversation: the memory matters for its window only, which is empty.
    fresh = SessionMemory.fresh(model.fingerprint, _NO_LEARNING)
    prompts: list[Ids] = [chat_prompt(model.tokenizer, fresh, text) for text in texts]
    if any(len(prompt) + new_tokens > setting.prompt_tokens for prompt in prompts):
        return None
    return ask(model, prompts, learnt, new_tokens=new_tokens, done=advance)


_NO_LEARNING = LearningPolicy("none", levels=())
