"""A result is found again for what it depends on, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hope_lab.evaluate import cache as module
from hope_lab.evaluate.cache import CacheError, ResultCache, source_digest

KEY = {"task": "t", "model": "m", "policy": None, "key": [["told"], 3]}


class Work:
    """Counts how often it was done."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> dict[str, Any]:
        self.done += 1
        return {"value": self.done, "pair": (1, 2)}


def test_the_same_question_is_computed_once(tmp_path: Path) -> None:
    work = Work()
    first = ResultCache(tmp_path).get(KEY, work)
    again = ResultCache(tmp_path).get(dict(KEY), work)
    assert first == again == {"value": 1, "pair": [1, 2]}
    assert work.done == 1


@pytest.mark.parametrize(
    "change", [{"task": "u"}, {"model": "n"}, {"policy": "p"}, {"key": [["told"], 4]}]
)
def test_whatever_it_depends_on_makes_another_result(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    work = Work()
    cache = ResultCache(tmp_path)
    cache.get(KEY, work)
    assert cache.get(KEY | change, work)["value"] == 2


def test_other_code_makes_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    cache = ResultCache(tmp_path)
    cache.get(KEY, work)
    monkeypatch.setattr(module, "source_digest", lambda: "other")
    assert cache.get(KEY, work)["value"] == 2


def test_the_source_digest_sees_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(module.hope_runtime, "__path__", [str(tmp_path)])
    found = []
    for name, text in (("b/c.py", "x"), ("b/c.py", "y"), ("b/d.txt", ""), ("b/none.png", "")):
        (tmp_path / name).write_text(text)
        found.append(source_digest.__wrapped__())
    assert len(set(found)) == 3
    assert found[-1] == found[-2]


def test_what_is_damaged_or_foreign_is_computed_again(tmp_path: Path) -> None:
    work = Work()
    cache = ResultCache(tmp_path)
    cache.get(KEY, work)
    (stored,) = tmp_path.iterdir()
    whole = stored.read_text(encoding="utf-8")
    for text in (whole[:-5], "[]", whole.replace('"told"', '"tale"'), '{"key": 1}'):
        stored.write_text(text, encoding="utf-8")
        before = work.done
        assert cache.get(KEY, work)["value"] == work.done == before + 1
    assert [path.name for path in tmp_path.iterdir()] == [stored.name]


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        ResultCache(tmp_path).get(KEY, fail)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_without_a_directory(tmp_path: Path) -> None:
    work = Work()
    cache = ResultCache(None)
    assert [cache.get(KEY, work)["value"] for _ in range(2)] == [1, 2]
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="--no-cache"):
        ResultCache(tmp_path / "file")
