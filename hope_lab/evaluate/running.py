"""Runs courses: loads the model once, lets every contender take every course, keeps the results.

A result is a dict of JSON values, kept by all that it depends on (cache.py). Knows the options
that tasks share and no task.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hope_lab.evaluate.cache import Result, ResultCache
from hope_lab.evaluate.contenders import Replies, Setting, contender, take
from hope_lab.evaluate.data.course import Course
from hope_lab.evaluate.options import cache_of, groups_of, policies_of
from hope_lab.evaluate.report.plotting import check_plotting
from hope_lab.evaluate.report.progress import Progress, progress_bar
from hope_runtime.checkpoints import load_base_model, written_texts_dir
from hope_runtime.checkpoints.fast_memory import load_fast_memory, shipped_fast_memory
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning.learner import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.session.rank_bound import within_bound
from hope_runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Taken:
    """A course as one arm took it: replies after each lesson, None where the prompt was too long.

    `policy` is that of a memory, None for a baseline. `costs` are empty for a baseline.
    """

    course: Course
    arm: str
    policy: LearningPolicy | None
    replies: list[Replies]
    costs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """A model, ready to be measured."""

    engine: TorchEngine
    policies: list[LearningPolicy]
    progress: Progress
    _cache: ResultCache
    # Of documents, passes per token; None: as each policy says.
    budget: float | None = None

    @property
    def model(self) -> BaseModel:
        return self.engine.model

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.model.tokenizer

    def prompt_room(self, args: argparse.Namespace) -> int:
        """The most tokens that a prompt and its reply may take."""
        known = self.model.config.max_positions
        return known if args.prompt_tokens is None else min(known, args.prompt_tokens)

    def once(
        self, task: str, policy: LearningPolicy | None, key: Any, run: Callable[[], Result]
    ) -> Result:
        """The result of `run`, computed unless it is known; `key` is what else it depends on."""
        whole = {
            "task": task,
            "model": self.model.fingerprint,
            "dtype": str(self.model.dtype),
            "window": self.engine.window_tokens,
            "policy": None if policy is None else policy.digest(),
            **self._fast_memory(policy),
            "key": key,
            **({} if policy is None or self.budget is None else {"budget": self.budget}),
        }
        return self._cache.get(whole, run)

    def _fast_memory(self, policy: LearningPolicy | None) -> dict[str, str]:
        """Digest of the fast memory for policies that write with it: results depend on it."""
        if policy is None or not policy.writes_forward or self.engine.fast_memory is None:
            return {}
        return {"branch": self.engine.fast_memory.digest}

    def take(self, task: str, courses: Sequence[Course], args: argparse.Namespace) -> list[Taken]:
        """Every course by every chosen arm and policy."""
        room = self.prompt_room(args)
        setting = Setting(self.engine, room, args.passages, self.budget)
        taken = []
        for course in courses:
            for arms, policy in groups_of(args.arms, self.policies):
                who = " and ".join(arms) + ("" if policy is None else f", {policy.name}")

                def run(
                    course: Course = course,
                    arms: Sequence[str] = arms,
                    policy: LearningPolicy | None = policy,
                    who: str = who,
                ) -> Result:
                    self.progress.start(f"{course.title}: {who}", None)
                    made = contender(setting, arms, policy)
                    return take(course, made, self.progress.advance)

                key = [course.key, list(arms), room, args.passages]
                found = self.once(task, policy, key, run)
                taken += [
                    Taken(course, arm, policy, found["replies"][arm], found["costs"])
                    for arm in arms
                ]
        return taken


@contextmanager
def bench(args: argparse.Namespace) -> Iterator[Bench]:
    """Loads the model that the options name. What is wrong with them is said before that."""
    policies, cache = policies_of(args), cache_of(args)
    check_plotting(args.plot)
    torch.set_num_threads(args.threads)
    with progress_bar() as progress:
        progress.start("loading the model", 1)
        model = load_base_model(args.model, dtype=args.dtype)
        fast_memory = (
            load_fast_memory(args.fast_memory, model)
            if args.fast_memory
            else shipped_fast_memory(model)
        )
        learner = Learner(model, args.threads, fast_memory, kept=written_texts_dir())
        with TorchEngine(
            model, threads=args.threads, fast_memory=fast_memory, learner=learner
        ) as engine:
            for policy in policies:
                if policy.name not in engine.policies:
                    raise InvalidRequestError(
                        f"policy '{policy.name}' requires a trained fast memory, which this "
                        "model does not have",
                        field="policy",
                    )
            policies = [within_bound(policy, model.config) for policy in policies]
            yield Bench(engine, policies, progress, cache, args.budget)
