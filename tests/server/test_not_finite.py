"""NaN at every place where the server computes: a typed error, the memory as it was last committed,
and a session that goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
import torch
from api import Api, refused
from serving import Served

from hope_runtime.engine.runner import Runner
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.reference import Reference

TEXT = b"My dog Rolf is nine years old. He likes cheese and long walks by the river Tern. " * 3
NAN = float("nan")
Site = Callable[[pytest.MonkeyPatch], None]


def in_learning(owner: type, name: str) -> Site:
    def poison(patched: pytest.MonkeyPatch) -> None:
        sound = getattr(owner, name)
        patched.setattr(owner, name, lambda *args: sound(*args) * NAN)

    return poison


def in_gradients(patched: pytest.MonkeyPatch) -> None:
    sound = torch.autograd.grad
    patched.setattr(torch.autograd, "grad", lambda *args: [each * NAN for each in sound(*args)])


def in_steps(patched: pytest.MonkeyPatch) -> None:
    sound = torch.Tensor.sub_
    patched.setattr(torch.Tensor, "sub_", lambda *args, **words: sound(*args, **words).mul_(NAN))


LEARNING: dict[str, Site] = {
    "loss": in_learning(LevelTrainer, "nats"),
    "gradient": in_gradients,
    "step": in_steps,
    "probes": in_learning(Reference, "divergence"),
}


@pytest.mark.parametrize("site", LEARNING)
async def test_learning_fails_and_is_done_once_it_can_be(
    served: Served, monkeypatch: pytest.MonkeyPatch, site: str
) -> None:
    api = served.api
    await api.create()
    await api.ingest([TEXT])
    before = await api.learnt()
    with monkeypatch.context() as patched:
        LEARNING[site](patched)
        await api.say("Do you know my dog?")  # its own reply is sound
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "MEMORY_WOULD_DIVERGE"):
            await api.end_conversation()
        assert (await api.get()).memory_version == before.memory_version
    after = (await api.end_conversation()).session
    assert after.memory_version > before.memory_version
    undisturbed = api.on("undisturbed")
    await undisturbed.create()
    await undisturbed.ingest([TEXT])
    await undisturbed.learnt()
    await undisturbed.say("Do you know my dog?")
    await undisturbed.end_conversation()
    levels = [(each.updates, each.relative_norm) for each in (await api.get()).levels]
    assert levels == [(e.updates, e.relative_norm) for e in (await undisturbed.get()).levels]


@contextmanager
def passes_are_poisoned(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Every pass of the model but the first `after` ones computes NaN."""
    sound, count = Runner.run, 0

    def run(runner: Runner, chunks: object) -> object:
        nonlocal count
        found = sound(runner, chunks)  # type: ignore[arg-type]
        count += 1
        if count > after:
            for output in found:
                output.hidden_TD.mul_(NAN)
                if output.logits_V is not None:
                    output.logits_V.mul_(NAN)
            for chunk in chunks:  # type: ignore[attr-defined]
                chunk.slot.kv.k[:, :, :, : chunk.slot.kv.length] = NAN
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "run", run)
        yield


@pytest.mark.parametrize("after", [0, 2])
async def test_a_reply_fails_while_it_is_read_or_written(
    served: Served, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    api, alone = served.api, served.api.on("alone")
    for each in (api, alone):
        await each.create()
        await each.say("Hello.")
    before = await api.learnt()
    with passes_are_poisoned(monkeypatch, after):
        async with refused(grpc.StatusCode.INTERNAL, "NOT_FINITE"):
            await api.say("Do you know my dog?")
    assert await api.get() == before
    # The window was read anew: what lay in the cache is gone.
    again = await api.say("Do you know my dog?")
    other = await alone.say("Do you know my dog?")
    assert again.usage.surprise_nats == pytest.approx(other.usage.surprise_nats, rel=1e-5)


async def test_reading_and_scoring_fail(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    api: Api = served.api
    await api.create()
    await api.ingest([TEXT])
    before = await api.learnt()
    sound = await api.score("The dog is called Rolf.")
    with passes_are_poisoned(monkeypatch, 0):
        async with refused(grpc.StatusCode.INTERNAL, "NOT_FINITE"):
            await api.score("The dog is called Rolf.")
        # What is to be learnt is scored where it is learnt.
        async with refused(grpc.StatusCode.INTERNAL, "NOT_FINITE"):
            await api.ingest([TEXT], document="other", learn=False)
    assert await api.get() == before
    assert (await api.score("The dog is called Rolf.")).total_nats == pytest.approx(
        sound.total_nats
    )
    await api.ingest([TEXT], document="other")
    assert (await api.learnt()).learnable_tokens > before.learnable_tokens
