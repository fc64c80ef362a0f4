"""Differences between two versions: how far levels moved, and what was told between them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from api import NAME, Api, refused
from hope.v1 import sessions_pb2 as pb
from serving import Served
from told import TEXT, teach


async def test_two_versions_differ_by_what_was_learnt_between_them(api: Api) -> None:
    first = await teach(api, "one")
    second = await teach(api, "two")
    versions = (first.memory_version, second.memory_version)
    changed = await api.diff(*versions)
    assert changed[0] > 0
    assert await api.diff(*reversed(versions)) == pytest.approx(changed, rel=1e-6)
    assert await api.diff(versions[1], versions[1]) == pytest.approx([0, 0, 0], abs=1e-6)
    # From the base model, the difference is the level itself.
    since = await api.diff(0, versions[1])
    assert since == pytest.approx([level.relative_norm for level in second.levels], rel=1e-5)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "to_version"):
        await api.diff(0, 99)


async def _between(api: Api, before: int, after: int, **fields: Any) -> pb.DiffVersionsResponse:
    request = pb.DiffVersionsRequest(name=NAME, from_version=before, to_version=after, **fields)
    return await api.sessions.DiffVersions(request)


def _told(answer: pb.DiffVersionsResponse) -> list[tuple[bool, str, str]]:
    return [(each.taken_back, each.document, each.excerpt) for each in answer.taught]


async def test_a_diff_tells_what_lies_between_two_versions(api: Api) -> None:
    one = await teach(api, "one")
    await api.say("My name is Ada.", conversation="work")
    await api.say("This is not learnt.", conversation="work", learn=False)
    said = (await api.consolidate()).session
    two = await teach(api, "two")
    answer = await _between(api, one.memory_version, two.memory_version)
    assert _told(answer) == [(False, "", "My name is Ada."), (False, "two", TEXT)]
    turn, document = answer.taught
    assert (turn.conversation, document.conversation) == ("work", "default")
    assert turn.learnable_tokens == said.learnable_tokens - one.learnable_tokens
    assert document.learnable_tokens == two.learnable_tokens - said.learnable_tokens
    assert one.log_records < turn.log_record < document.log_record <= two.log_records
    assert len(answer.levels) == 3
    # What was taken back is told as well, whichever way one looks.
    assert _told(await _between(api, two.memory_version, said.memory_version)) == [
        (True, "two", TEXT)
    ]
    back = await api.rollback(version=one.memory_version)
    three = await teach(api, "three")
    assert _told(await _between(api, two.memory_version, three.memory_version)) == [
        (True, "", "My name is Ada."),
        (True, "two", TEXT),
        (False, "three", TEXT),
    ]
    assert _told(await _between(api, one.memory_version, back.memory_version)) == []
    forgotten = await api.forget("one")
    assert _told(await _between(api, three.memory_version, forgotten.memory_version)) == [
        (True, "one", TEXT)
    ]


async def test_a_diff_is_paged_and_its_excerpts_are_short(api: Api) -> None:
    for number in range(5):
        text = f"{number}. {'字' * 20}{'x' * 45 * number}"
        await api.ingest([text.encode()], document=str(number))
    last = await api.learnt()
    texts, token = [], ""
    while True:
        page = await _between(api, 0, last.memory_version, page_size=2, page_token=token)
        texts.append([(len(each.excerpt), each.truncated) for each in page.taught])
        if not (token := page.next_page_token):
            break
    assert texts == [[(23, False), (68, False)], [(113, False), (158, False)], [(200, True)]]
    for field, value in (("page_size", 1001), ("page_token", "next"), ("page_token", "9" * 30)):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", field):
            await _between(api, 0, last.memory_version, **{field: value})


async def test_a_diff_knows_the_surprise_of_what_is_rehearsed(served: Served) -> None:
    api = served.api
    await api.create(policy="default")
    result = await api.say("My dog is called Rolf.")
    learnt = (await api.consolidate()).session
    (taught,) = (await _between(api, 0, learnt.memory_version)).taught
    # Read as a statement of its own, not in its place in the chat: another figure, the same kind.
    assert taught.surprise_nats > 0
    assert taught.learnable_tokens == result.usage.learnable_tokens
    (taken,) = (await _between(api, learnt.memory_version, 0)).taught
    assert taken.surprise_nats == taught.surprise_nats
    migrated = await api.migrate("quick")
    answer = await _between(api, learnt.memory_version, migrated.memory_version)
    assert _told(answer) == []
