"""Sessions of native models on a server: what they read and are told."""

from __future__ import annotations

from api import Api
from serving import Served
from told import TEXT

BOOK = "Aldmoor lies on the Tern. Dr. Vale, who keeps bees there, is 61! “Naïve?” 日本語。\n" * 4


async def begin(served: Served) -> Api:
    await served.api.create(policy="")
    return served.api


async def chat(api: Api) -> list[str]:
    told = [("My dog is Rolf.", "a"), ("Hello?", "b"), (TEXT, "a"), ("What?", "b")]
    return [(await api.say(text, conversation=name)).text for text, name in told]
