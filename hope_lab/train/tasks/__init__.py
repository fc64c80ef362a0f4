"""Training tasks of HOPE models: text, and synthetic tasks made from a seed."""

from __future__ import annotations

from typing import Any

from hope_lab.train.tasks.base import Batch, LanguageTask, Task
from hope_lab.train.tasks.formal import LANGUAGES, FormalTask
from hope_lab.train.tasks.mad import MAD
from hope_lab.train.tasks.text import TextTask

__all__ = ["LANGUAGES", "MAD", "TASKS", "Batch", "LanguageTask", "Task", "make_task"]

TASKS = (*LANGUAGES, *MAD, "text")


def make_task(name: str, **options: Any) -> Task:
    """The task of that name (TASKS).

    Raises ValueError or TypeError for options that it does not have or that make no sense, and
    InvalidRequestError for files that cannot be used.
    """
    if name in LANGUAGES:
        return FormalTask(name, **options)
    if name in MAD:
        return MAD[name](**options)
    if name == "text":
        return TextTask(**options)
    raise ValueError(f"task {name!r} does not exist; available tasks: {', '.join(TASKS)}")
