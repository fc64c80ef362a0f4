"""The task `recall`: facts told once, other text in between, then asked in a new conversation.

Knows the course of the task: tell, fill, end the conversation, ask three arms (the frozen base
model, the facts in its prompt, the memory), ask what was never taught, score held-out texts.
How facts are made, told, asked and scored is in the modules that it imports; how the figures are
put together is in recall_report.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from hope_runtime.checkpoints import load_base_model
from hope_runtime.config import POLICIES, LearningPolicy
from hope_runtime.engine.engine import Engine
from hope_runtime.evaluate import recall_report
from hope_runtime.evaluate.asking import NEW_TOKENS, Ids, ask, chat_prompt, is_correct, raw_prompt
from hope_runtime.evaluate.everyday import unrelated
from hope_runtime.evaluate.filler import filler, load_text
from hope_runtime.evaluate.heldout import heldout_nats
from hope_runtime.evaluate.items import Item, generate, mentions, read_items
from hope_runtime.evaluate.options import add_run_options, count
from hope_runtime.evaluate.progress import Progress, progress_bar
from hope_runtime.evaluate.teaching import Pupil
from hope_runtime.memory.cms import LowRank
from hope_runtime.memory.state import SessionMemory
from hope_runtime.model.weights import BaseModel

NAME = "recall"
SUMMARY = "facts told once, asked later in a new conversation"

FACTS_PER_MESSAGE = 3
CONVERSATION = "told"
Kind = Literal["answer", "completion", "unseen", "unrelated"]
# Arms, and which of the questions each is asked.
FROZEN, PROMPT, MEMORY = "frozen", "prompt", "memory"
ALL: tuple[Kind, ...] = ("answer", "completion", "unseen", "unrelated")
TAUGHT: tuple[Kind, ...] = ("answer", "completion")


@dataclass(slots=True)
class Question:
    """One thing asked, and what came back. `ids` are all the tokens that the model saw.

    `item` is None for what was never taught. `verdicts` say of a taught one whether the reply is
    correct, of another whether a taught value intruded. The arm `prompt` saw other ids: the facts
    stood before the question.
    """

    kind: Kind
    text: str
    ids: Ids
    item: Item | None = None
    replies: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeedResult:
    """All that one seed found. Seconds are wall time; tokens are learnable ones where not said."""

    seed: int
    questions: list[Question]
    prompt_fits: bool
    heldout_base: dict[str, float]
    heldout_adapted: dict[str, float]
    learnt_tokens: int
    # Tokens run forward and backward, rehearsal included.
    trained_tokens: int
    learn_seconds: float
    state_bytes: int
    filler_tokens: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate recall`."""
    add_run_options(parser)
    facts = parser.add_argument_group("what is told")
    facts.add_argument("--facts", type=count(1), default=30, help="facts told (default 30)")
    facts.add_argument(
        "--items", type=Path, metavar="FILE.jsonl", help="take facts from a file of your own"
    )
    facts.add_argument(
        "--told", choices=("chat", "document"), default="chat", help="how (default chat)"
    )
    facts.add_argument(
        "--filler", type=count(0), default=1000, help="tokens read afterwards (default 1000)"
    )
    facts.add_argument(
        "--filler-text", type=Path, metavar="PATH", help="the text to read them from"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    torch.set_num_threads(args.threads)
    text = load_text(args.filler_text) if args.filler else ""
    told = [_items(args, seed) for seed in args.seeds]  # before a model is loaded: errors come fast
    with progress_bar() as progress:
        progress.start("loading the model", 1)
        model = load_base_model(args.model, dtype=args.dtype)
        progress.start("scoring held-out texts, frozen", 1)
        base = heldout_nats(model, None)
        results = []
        with Engine(model, threads=args.threads) as engine:
            for seed, items in zip(args.seeds, told, strict=True):
                filling = filler(text, model.tokenizer, args.filler, seed)
                task = _Recall(engine, POLICIES[args.policy], items, progress)
                results.append(task.run(seed, filling, base, as_document=args.told == "document"))
    settings = recall_report.Settings(
        model=args.model, policy=args.policy, told=args.told, filler=args.filler, dtype=args.dtype
    )
    recall_report.print_report(
        results, settings, as_json=args.json, show=args.show, stream=sys.stdout
    )
    return 0


def _items(args: argparse.Namespace, seed: int) -> list[Item]:
    if args.items is None:
        return generate(args.facts, seed)
    return read_items(args.items, args.facts, seed)


class _Recall:
    """One seed of the task."""

    def __init__(
        self, engine: Engine, policy: LearningPolicy, items: Sequence[Item], progress: Progress
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._items = items
        self._progress = progress

    def run(
        self, seed: int, filling: str, base: dict[str, float], *, as_document: bool
    ) -> SeedResult:
        pupil = self._teach(seed, filling, as_document=as_document)
        questions = questions_about(self._engine.model, pupil.memory, self._items)
        terms = pupil.memory.terms
        self._ask(questions, FROZEN, None, ALL)
        fits = self._ask_in_prompt(questions, pupil.memory)
        self._ask(questions, MEMORY, terms, ALL)
        self._judge(questions)
        self._progress.start(f"seed {seed}: scoring held-out texts", 1)
        return SeedResult(
            seed=seed,
            questions=questions,
            prompt_fits=fits,
            heldout_base=base,
            heldout_adapted=base if terms is None else heldout_nats(self._engine.model, terms),
            learnt_tokens=pupil.memory.observed_tokens,
            trained_tokens=pupil.trained_tokens,
            learn_seconds=pupil.learn_seconds,
            state_bytes=pupil.state_bytes,
            filler_tokens=len(self._engine.model.tokenizer.encode(filling)),
        )

    def _teach(self, seed: int, filling: str, *, as_document: bool) -> Pupil:
        pupil = Pupil(self._engine, self._policy, learnt=lambda report: self._progress.advance(1))
        messages = [" ".join(item.told for item in group) for group in _groups(self._items)]
        self._progress.start(f"seed {seed}: telling and learning", None)
        if as_document:
            pupil.ingest(CONVERSATION, "facts", "\n".join(messages))
        else:
            for message in messages:
                pupil.say(CONVERSATION, message)
        if filling:
            pupil.ingest(CONVERSATION, "filler", filling)
        pupil.end_conversation(CONVERSATION)
        return pupil

    def _ask(
        self,
        questions: Sequence[Question],
        arm: str,
        terms: LowRank | None,
        kinds: Sequence[Kind],
        ids_of: Callable[[Question], Ids] = lambda question: question.ids,
    ) -> None:
        """Fills in an arm's replies. Chat and raw text apart: they begin differently."""
        for raw in (False, True):
            asked = [q for q in questions if q.kind in kinds and (q.kind == "completion") is raw]
            self._progress.start(f"asking, {arm}", len(asked))
            prompts = [ids_of(question) for question in asked]
            replies = ask(self._engine.model, prompts, terms=terms, done=self._progress.advance)
            for question, reply in zip(asked, replies, strict=True):
                question.replies[arm] = reply

    def _ask_in_prompt(self, questions: Sequence[Question], memory: SessionMemory) -> bool:
        """The arm with all facts in the window, unless they do not fit. Returns whether they do."""
        tokenizer = self._engine.model.tokenizer
        facts = " ".join(item.told for item in self._items)
        prompts: dict[int, Ids] = {}
        for question in questions:
            if question.kind == "answer":
                text = f"{facts}\n\n{question.text}"
                prompts[id(question)] = chat_prompt(tokenizer, memory, text)
            elif question.kind == "completion":
                prompts[id(question)] = raw_prompt(tokenizer, f"{facts} {question.text}")
        room = min(self._engine.window_tokens, self._engine.model.config.max_positions)
        if max(map(len, prompts.values())) + NEW_TOKENS > room:
            return False
        self._ask(questions, PROMPT, None, TAUGHT, lambda question: prompts[id(question)])
        return True

    def _judge(self, questions: Sequence[Question]) -> None:
        taught = [item.value for item in self._items]
        for question in questions:
            for arm, reply in question.replies.items():
                if question.item is not None:
                    item = question.item
                    question.verdicts[arm] = is_correct(reply, item.value, item.others)
                else:
                    question.verdicts[arm] = any(mentions(reply, value) for value in taught)


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


def _groups(items: Sequence[Item]) -> list[Sequence[Item]]:
    starts = itertools.count(0, FACTS_PER_MESSAGE)
    return [
        items[at : at + FACTS_PER_MESSAGE]
        for at in itertools.takewhile(lambda s: s < len(items), starts)
    ]
