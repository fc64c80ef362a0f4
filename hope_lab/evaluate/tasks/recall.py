"""The task `recall`: facts told once, other text in between, then asked in a new conversation.

Knows the course of the task: tell, fill, end the conversation, ask every arm (the frozen base
model, the facts in its prompt, retrieval, the memory, both of them), ask what was never taught,
score held-out texts. How facts are made, told, asked and scored is in the modules that it imports;
how the figures are put together is in recall_report.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hope_lab.evaluate.asking import NEW_TOKENS, ask, chat_prompt, is_correct, raw_prompt
from hope_lab.evaluate.bm25 import BM25Index
from hope_lab.evaluate.contenders import (
    BOTH,
    FROZEN,
    MEMORY,
    PROMPT,
    RETRIEVAL,
    index_lesson,
    with_context,
)
from hope_lab.evaluate.data.filler import Filler, load_text
from hope_lab.evaluate.data.items import Item, generate, mentions, read_items
from hope_lab.evaluate.data.recall_questions import Kind, Question, questions_about
from hope_lab.evaluate.heldout import heldout_nats
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_lab.evaluate.options import add_arm_options, add_run_options, count, groups_of
from hope_lab.evaluate.report import recall_report
from hope_lab.evaluate.running import Bench, bench
from hope_lab.evaluate.teaching import Pupil
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy

NAME = "recall"
SUMMARY = "facts taught once and asked later in a new conversation"

FACTS_PER_MESSAGE = 3
CONVERSATION = "told"
# Which of the questions an arm is asked: what was never taught, only who could let it intrude.
ALL: tuple[Kind, ...] = ("answer", "completion", "unseen", "unrelated")
TAUGHT: tuple[Kind, ...] = ("answer", "completion")
ASKED = {FROZEN: ALL, MEMORY: ALL, PROMPT: TAUGHT, RETRIEVAL: TAUGHT, BOTH: TAUGHT}


@dataclass(frozen=True, slots=True)
class SeedResult:
    """All that one seed found with one policy. Seconds are wall time; tokens are learnable ones
    where not said. `heldout_adapted` is None where no memory was asked for."""

    seed: int
    questions: list[Question]
    heldout_base: dict[str, float]
    heldout_adapted: dict[str, float] | None
    learnt_tokens: int
    # Tokens run forward and backward, rehearsal included.
    trained_tokens: int
    learn_seconds: float
    state_bytes: int
    filler_tokens: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate recall`."""
    add_run_options(parser)
    add_arm_options(parser)
    facts = parser.add_argument_group("taught facts")
    facts.add_argument("--facts", type=count(1), default=30, help="number of facts (default 30)")
    facts.add_argument(
        "--items",
        type=Path,
        metavar="FILE.jsonl",
        help="file of facts to use instead of generated ones",
    )
    facts.add_argument(
        "--told",
        choices=("chat", "document"),
        default="chat",
        help="input type of the facts (default chat)",
    )
    facts.add_argument(
        "--filler",
        type=count(0),
        default=1000,
        help="filler tokens read after the facts (default 1000)",
    )
    facts.add_argument(
        "--filler-text", type=Path, metavar="PATH", help="text that the filler tokens come from"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    text = load_text(args.filler_text) if args.filler else ""
    told = [_items(args, seed) for seed in args.seeds]  # before a model is loaded: errors come fast
    with bench(args) as ready:
        base = ready.once(NAME, None, "held-out texts, frozen", lambda: _heldout(ready, NOTHING))
        results = [
            [
                _Recall(ready, args, items, Filler(text, ready.tokenizer, args.filler, seed)).run(
                    policy, base
                )
                for seed, items in zip(args.seeds, told, strict=True)
            ]
            for policy in ready.policies
        ]
    settings = [
        recall_report.Settings(
            model=args.model, policy=name, told=args.told, filler=args.filler, dtype=args.dtype
        )
        for name in dict.fromkeys(args.policy)
    ]
    if args.plot is not None:
        recall_report.plot(list(zip(results, settings, strict=True)), args.plot)
    recall_report.print_report(
        list(zip(results, settings, strict=True)),
        as_json=args.json,
        show=args.show,
        stream=sys.stdout,
    )
    return 0


def _items(args: argparse.Namespace, seed: int) -> list[Item]:
    if args.items is None:
        return generate(args.facts, seed)
    return read_items(args.items, args.facts, seed)


def _heldout(ready: Bench, learnt: Learnt) -> dict[str, float]:
    ready.progress.start("scoring held-out texts", 1)
    return heldout_nats(ready.model, learnt)


class _Recall:
    """One seed of the task. Each group of arms gives replies by question, and figures beside."""

    def __init__(
        self, ready: Bench, args: argparse.Namespace, items: Sequence[Item], filling: Filler
    ) -> None:
        self._ready = ready
        self._args = args
        self._items = items
        self._filling = filling
        # Of the memory only its windows matter, and there is none.
        fresh = SessionMemory.fresh(ready.model.fingerprint, ready.policies[0])
        self._fresh = fresh
        self._questions = questions_about(ready.model, fresh, items)

    def run(self, policy: LearningPolicy, base: dict[str, float]) -> SeedResult:
        questions = questions_about(self._ready.model, self._fresh, self._items)
        figures: dict[str, Any] = {}
        for arms, learner in groups_of(self._args.arms, [policy]):
            key = [self._key(), list(arms)]

            def take(
                arms: Sequence[str] = arms, learner: LearningPolicy | None = learner
            ) -> dict[str, Any]:
                return self._baseline(arms[0]) if learner is None else self._memory(arms, learner)

            found = self._ready.once(NAME, learner, key, take)
            figures |= {name: value for name, value in found.items() if name != "replies"}
            for arm, replies in found["replies"].items():
                for index, reply in replies.items():
                    questions[int(index)].replies[arm] = reply
        self._judge(questions)
        encode = self._ready.tokenizer.encode
        return SeedResult(
            seed=self._filling.seed,
            questions=questions,
            heldout_base=base,
            heldout_adapted=figures.get("heldout"),
            learnt_tokens=figures.get("learnt_tokens", 0),
            trained_tokens=figures.get("trained_tokens", 0),
            learn_seconds=figures.get("learn_seconds", 0.0),
            state_bytes=figures.get("state_bytes", 0),
            filler_tokens=sum(len(encode(span)) for span in self._filling),
        )

    def _key(self) -> list[Any]:
        """All that replies depend on besides the arms and the policy, as JSON."""
        filling = self._filling
        told = [self._args.told, [item.told for item in self._items]]
        asked = [question.text for question in self._questions]
        limits = [self._args.passages, self._ready.prompt_room(self._args)]
        return [told, asked, filling.digest, filling.tokens, filling.seed, limits]

    def _messages(self) -> list[str]:
        return [" ".join(item.told for item in group) for group in _groups(self._items)]

    # The arms

    def _baseline(self, arm: str) -> dict[str, Any]:
        return {"replies": {arm: self._ask(arm, NOTHING)}}

    def _memory(self, arms: Sequence[str], policy: LearningPolicy) -> dict[str, Any]:
        pupil = self._teach(policy)
        return {
            "replies": {arm: self._ask(arm, pupil.learnt) for arm in arms},
            "heldout": _heldout(self._ready, pupil.learnt),
            "learnt_tokens": pupil.memory.observed_tokens,
            "trained_tokens": pupil.trained_tokens,
            "learn_seconds": pupil.learn_seconds,
            "state_bytes": pupil.state_bytes,
        }

    def _teach(self, policy: LearningPolicy) -> Pupil:
        progress = self._ready.progress
        pupil = Pupil(
            self._ready.engine,
            policy,
            consolidated=lambda report: progress.advance(1),
            budget=self._ready.budget,
        )
        progress.start(f"seed {self._filling.seed}: telling and learning", None)
        if self._args.told == "document":
            pupil.ingest(CONVERSATION, "facts", "\n".join(self._messages()))
        else:
            for message in self._messages():
                pupil.say(CONVERSATION, message)
        if self._filling.tokens:
            pupil.ingest(CONVERSATION, "filler", self._filling)
        pupil.end_conversation(CONVERSATION)
        return pupil

    def _context(self, arm: str) -> Callable[[str], str]:
        """Text before a question in the arm's prompt."""
        if arm == PROMPT:
            facts = " ".join(item.told for item in self._items)
            return lambda text: facts
        if arm in (RETRIEVAL, BOTH):
            index = BM25Index()
            index_lesson(index, (f"{message}\n" for message in self._messages()))
            index_lesson(index, self._filling)
            return lambda text: "\n".join(index.top(text, self._args.passages))
        return lambda text: ""

    # Asking and judging

    def _ask(self, arm: str, learnt: Learnt) -> dict[str, str]:
        """Replies by the question's place; none at all when a prompt does not fit."""
        context = self._context(arm)
        engine, tokenizer = self._ready.engine, self._ready.tokenizer
        room = self._ready.prompt_room(self._args)
        replies: dict[str, str] = {}
        # Chat and raw text apart: they begin differently.
        for raw in (False, True):
            asked = [
                (place, question)
                for place, question in enumerate(self._questions)
                if question.kind in ASKED[arm] and (question.kind == "completion") is raw
            ]
            prompts = [
                raw_prompt(tokenizer, f"{context(question.text)} {question.text}".strip())
                if raw
                else chat_prompt(
                    tokenizer, self._fresh, with_context(context(question.text), question.text)
                )
                for _, question in asked
            ]
            if any(len(prompt) + NEW_TOKENS > room for prompt in prompts):
                return {}
            self._ready.progress.start(f"asking, {arm}", len(asked))
            found = ask(engine.model, prompts, learnt, done=self._ready.progress.advance)
            places = [str(place) for place, _ in asked]
            replies |= dict(zip(places, found, strict=True))
        return replies

    def _judge(self, questions: Sequence[Question]) -> None:
        taught = [item.value for item in self._items]
        for question in questions:
            for arm, reply in question.replies.items():
                if question.item is not None:
                    item = question.item
                    question.verdicts[arm] = is_correct(reply, item.value, item.others)
                else:
                    question.verdicts[arm] = any(mentions(reply, value) for value in taught)


def _groups(items: Sequence[Item]) -> list[Sequence[Item]]:
    starts = itertools.count(0, FACTS_PER_MESSAGE)
    return [
        items[at : at + FACTS_PER_MESSAGE]
        for at in itertools.takewhile(lambda s: s < len(items), starts)
    ]
