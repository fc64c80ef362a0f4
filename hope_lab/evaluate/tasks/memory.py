"""`hope evaluate memory`: what the trained fast memory alone recalls of facts that it read once.

Facts of relations, and with names and values, that training never saw (hope_lab/train/fast_memory)
are read in windows of their own; then each question, and for some facts a sentence that breaks off
before the value, stands in a new window, and the reply is greedy. Nothing else learns. Beside it
stands the frozen base, asked the same. What the memory does to text that has nothing to do with it
is the loss on the texts of heldout.py, with the memory of the last episode.

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from hope_lab.evaluate.asking import ask, is_correct
from hope_lab.evaluate.heldout import heldout_nats
from hope_lab.evaluate.learnt import NOTHING, Beside, Learnt
from hope_lab.evaluate.options import add_fast_memory_option, add_model_options, count
from hope_lab.evaluate.report.progress import progress_bar
from hope_lab.evaluate.report.report import wilson
from hope_lab.train.fast_memory.episodes import Key, Question, Split, Story, Storyteller
from hope_runtime.checkpoints import load_base_model
from hope_runtime.checkpoints.fast_memory import load_fast_memory, shipped_fast_memory
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import (
    FastMemoryPass,
    FastMemoryStream,
    fresh_carry,
    fresh_state,
    write,
)
from hope_runtime.models.fast_memory.weights import FastMemory

NAME = "memory"
SUMMARY = "recall of facts that the trained fast memory read once"
NEW_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Answered:
    """One question or completion, the reply that the memory gave, and the frozen base's."""

    question: str
    is_completion: bool
    value: str
    reply: str
    base_reply: str
    correct: bool
    base_correct: bool


def add_options(parser: argparse.ArgumentParser) -> None:
    add_fast_memory_option(parser)
    parser.add_argument(
        "--facts",
        type=count(1),
        nargs="+",
        default=[8, 24],
        help="numbers of facts taught at once (default 8 24)",
    )
    parser.add_argument(
        "--questions",
        type=count(1),
        default=300,
        help="questions per number of facts (default 300)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    add_model_options(parser)
    parser.add_argument("--threads", type=count(1), default=1, help="compute threads (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--show", action="store_true", help="also list each question and reply")


def run(args: argparse.Namespace) -> int:
    torch.set_num_threads(args.threads)
    model = load_base_model(args.model, dtype=args.dtype)
    fast_memory = (
        load_fast_memory(args.fast_memory, model)
        if args.fast_memory
        else shipped_fast_memory(model)
    )
    if fast_memory is None:
        raise InvalidRequestError(
            "there is no trained fast memory for this base model", field="fast_memory"
        )
    found: dict[str, Shares] = {}
    answered: dict[int, list[Answered]] = {}
    memory = None
    with progress_bar() as progress:
        for facts in args.facts:
            progress.start(f"{facts} facts", args.questions)
            answered[facts], memory = recall(
                model,
                fast_memory,
                facts=facts,
                questions=args.questions,
                seed=args.seed,
                done=progress.advance,
            )
            for name, is_completion in (("facts", False), ("facts, completions", True)):
                rows = [one for one in answered[facts] if one.is_completion == is_completion]
                if rows:
                    found[f"{facts} {name}"] = Shares.of(rows)
    assert memory is not None
    with_memory = heldout_nats(model, Learnt(beside=memory))
    without = heldout_nats(model, NOTHING)
    plain = {domain: {"base": without[domain], "memory": with_memory[domain]} for domain in without}
    if args.json:
        print(
            json.dumps(
                {"recall": {k: asdict(v) for k, v in found.items()}, "plain_text_nats": plain},
                indent=1,
            )
        )
    else:
        _print(found, plain)
    if args.show:
        for facts, rows in answered.items():
            for one in rows:
                mark = "+" if one.correct else "-"
                print(f"{mark} {facts:3d}  {one.question}  [{one.value}]  {one.reply!r}")
    return 0


@torch.no_grad()
def recall(
    model: BaseModel,
    fast_memory: FastMemory,
    *,
    facts: int,
    questions: int,
    seed: int,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[list[Answered], Beside]:
    """Asks at least `questions` questions about episodes of `facts` facts, and the completions
    beside them; and the last memory."""
    teller = Storyteller(model.tokenizer, Split.UNSEEN)
    rng = random.Random(f"recall:{seed}:{facts}")
    answered: list[Answered] = []
    memory = Beside(fast_memory, fresh_state(fast_memory.config, 1).memory)
    asked = 0
    while asked < questions:
        stories = _stories(teller, rng, facts)
        memory = Beside(fast_memory, read_stories(model, fast_memory, stories).memory)
        newest: dict[Key, list[Question]] = {}
        for story in stories:
            newest |= _by_key(story.questions)
        about = [question for questions_of in newest.values() for question in questions_of]
        prompts = [teller.opening_of(question) + question.prompt for question in about]
        replies = ask(model, prompts, Learnt(beside=memory), new_tokens=NEW_TOKENS)
        base = ask(model, prompts, NOTHING, new_tokens=NEW_TOKENS)
        values = {question.text for question in about}
        for question, reply, base_reply in zip(about, replies, base, strict=True):
            others = [value for value in values if value not in question.text]
            others = [value for value in others if question.text not in value]
            answered.append(_judge(model, question, reply, base_reply, others))
        new = sum(not question.is_completion for question in about)
        asked += new
        done(new)
    return answered, memory


@torch.no_grad()
def read_stories(
    model: BaseModel, fast_memory: FastMemory, stories: Sequence[Story]
) -> FastMemoryStream:
    """A fresh memory after some windows of text, one row."""
    config = fast_memory.config
    state = fresh_state(config, 1, model.device)
    for story in stories:
        seen = FastMemoryPass(fast_memory, None)
        forward(model, torch.tensor([story.ids], device=model.device), fast_memory=seen)
        state = replace(state, carry=fresh_carry(config, 1, model.device))
        learnable = torch.tensor([story.learnable], device=model.device)
        state = write(config, fast_memory.weights, seen.hidden, state, learnable)
    return replace(state, carry=fresh_carry(config, 1, model.device))


def _by_key(questions: Sequence[Question]) -> dict[Key, list[Question]]:
    found: dict[Key, list[Question]] = {}
    for question in questions:
        found.setdefault(question.about, []).append(question)
    return found


def _stories(teller: Storyteller, rng: random.Random, facts: int) -> list[Story]:
    stories: list[Story] = []
    told = 0
    while told < facts:
        size = min(rng.randint(1, 6), facts - told)
        stories.append(teller.story(rng, facts=size))
        told += size
    return stories


def _judge(
    model: BaseModel, question: Question, reply: str, base_reply: str, others: Sequence[str]
) -> Answered:
    text = model.tokenizer.decode(question.prompt).split("<|", 1)[0]
    return Answered(
        text,
        question.is_completion,
        question.text,
        reply,
        base_reply,
        is_correct(reply, question.text, others),
        is_correct(base_reply, question.text, others),
    )


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of right answers with their Wilson intervals, and the frozen base's."""

    questions: int
    correct: float
    interval: tuple[float, float]
    base_correct: float
    base_interval: tuple[float, float]

    @staticmethod
    def of(rows: Sequence[Answered]) -> Shares:
        n, hits = len(rows), sum(one.correct for one in rows)
        base = sum(one.base_correct for one in rows)
        return Shares(n, hits / n, wilson(hits, n), base / n, wilson(base, n))


def _print(found: dict[str, Shares], plain: dict[str, dict[str, float]]) -> None:
    for name, row in found.items():
        low, high = row.interval
        print(
            f"{name}: {100 * row.correct:.1f} % of {row.questions} answers "
            f"({100 * low:.1f} to {100 * high:.1f}), frozen base {100 * row.base_correct:.1f} %"
        )
    for domain, nats in plain.items():
        change = 100 * (nats["memory"] / nats["base"] - 1)
        print(f"{domain}: {nats['base']:.4f} nats a token, with the memory {change:+.2f} %")
