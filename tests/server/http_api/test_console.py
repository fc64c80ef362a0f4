"""The console in a browser, against a server whose model talks noise but learns for real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import documents
import pytest
from browser import NARROW, Console, chromium
from credentials import shared_key_file, token
from gateway import Gateway, ServeHttp

DOG = "My dog is called Rolf, and he likes cheese and rain. " * 3
TOWN = ["Aldmoor lies on the Tern.", "Dr. Vale keeps bees in the old mill there."]
ONE = "/v1/sessions/diary"


@pytest.fixture
async def console(gateway: Gateway) -> AsyncIterator[Console]:
    """The console of a server on which the session "diary" exists."""
    async with chromium(gateway.url) as opened:
        await opened.open()
        await opened.see(".empty-chat")
        yield opened


async def learnt(gateway: Gateway) -> Any:
    """The session when nothing waits to be learnt."""
    await gateway.api.consolidate()
    return await gateway.api.get()


async def test_teach_restart_ask(serve_http: ServeHttp) -> None:
    async with AsyncExitStack() as stack:
        async with serve_http() as gateway:
            await gateway.api.create()
            port = int(gateway.url.rpartition(":")[2])
            console = await stack.enter_async_context(chromium(gateway.url))
            await console.open()
            assert await console.say(DOG)
            await console.see(".entry.told", "My dog is called Rolf")
            await console.button("New conversation").click()
            await console.see(".entry.learnt", "Version 1")
            before = await learnt(gateway)
            await console.see("#version", f"version {before.memory_version}")
        async with serve_http(http_port=port) as gateway:
            await console.see("#intact", "restarted, memory intact")
            assert (await gateway.api.get()).memory_hash == before.memory_hash
            await console.see(".empty-chat", "An empty window, the same memory")
            assert await console.say("What is my dog called?")
            # The page comes back with what was said, from the session's log.
            await console.open()
            await console.see(".said", "What is my dog called?")


async def test_a_pdf_is_watched_while_it_is_learnt(console: Console, gateway: Gateway) -> None:
    pdf = {"name": "town.pdf", "mimeType": "application/pdf", "buffer": documents.pdf(TOWN * 8)}
    async with console.page.expect_file_chooser() as chosen:
        await console.button("Add").click()
    await (await chosen.value).set_files(pdf)
    await console.see(".reading-text", "Dr. Vale keeps bees")
    await console.see(".reading.done", "town.pdf")
    piece = console.page.locator(".reading-text span").first
    tint = await piece.evaluate("element => element.style.getPropertyValue('--surprise')")
    assert 0 < float(tint) <= 1
    await console.see(".entry.learnt", "surprise")
    await console.see(".document-list", "town.pdf")
    assert [each.name for each in (await gateway.api.get()).documents] == ["town.pdf"]
    await console.button("Forget town.pdf").click()
    await console.button("Forget it").click()
    await console.see(".toast", "Forgot town.pdf")
    assert not (await gateway.api.get()).documents


async def test_roll_back_and_undo(console: Console, gateway: Gateway) -> None:
    await console.say(DOG)
    before = await learnt(gateway)
    await console.view("Time machine")
    await console.see(".stop.present", f"Version {before.memory_version}")
    await console.page.locator(".stop-button", has_text="Version 1").click()
    await console.see(".taught li", "My dog is called Rolf")
    await console.page.locator(".stop-button", has_text="The base model").click()
    await console.button("Roll back to it").click()
    await console.button("Roll back").click()
    await console.see(".toast", "Rolled back to the base model")
    assert (await gateway.api.get()).learnable_tokens == 0
    await console.button("Undo").click()
    await console.see(".toast", "As it was before")
    assert (await gateway.api.get()).memory_hash == before.memory_hash


async def test_with_and_without_memory(console: Console, gateway: Gateway) -> None:
    await console.say(DOG)
    before = await learnt(gateway)
    await console.button("Without memory?").click()
    for column in ("Memory", "Base model"):
        card = await console.see(".column", column)
        await card.locator(".figures", has_text="sure of a word").wait_for()
        assert (await card.locator(".answer").inner_text()).strip()
    assert await gateway.api.get() == before
    await console.page.get_by_label("Question").fill("What is my dog called?")
    await console.page.locator(".chip", has_text="Base model").click()
    await console.button("Ask").click()
    await console.count(".column", 1)


async def test_when_it_learnt_this(console: Console, gateway: Gateway) -> None:
    await console.say(DOG)
    version = (await learnt(gateway)).memory_version
    await console.button("When did it learn this?").click()
    await console.see(".scores li", "Base model")
    await console.see(".scores li", f"Version {version}")
    await console.page.keyboard.press("Escape")
    await console.count("dialog", 0)


async def test_a_memory_travels_as_a_file(
    console: Console, gateway: Gateway, tmp_path: Path
) -> None:
    await console.say(DOG)
    before = await learnt(gateway)
    async with console.page.expect_download() as download:
        await console.button("Save as a file").click()
    path = tmp_path / "diary.hope"
    await (await download.value).save_as(path)
    async with console.page.expect_file_chooser() as chosen:
        await console.button("Open a memory file").click()
    await (await chosen.value).set_files(path)
    await console.page.get_by_label("Name for it here").fill("twin")
    await console.button("Open").click()
    await console.see("#title", "twin")
    twin = (await gateway.client.get("/v1/sessions/twin")).json()["session"]
    assert twin["memory_hash"] == before.memory_hash


async def test_what_it_was_taught_is_forgotten(console: Console, gateway: Gateway) -> None:
    untaught = (await gateway.api.get()).levels
    await console.say("My dog is called Rolf.")
    await console.say("My cat is called Bruno.")
    await learnt(gateway)
    await console.view("Taught")
    await console.see(".statements li", "My dog is called Rolf.")
    await console.page.get_by_label("Search what it was taught").fill("cat")
    await console.page.locator(".statements li", has_text="Rolf").wait_for(state="detached")
    await console.button("Forget: My cat is called Bruno.").click()
    await console.button("Forget it").click()
    await console.see(".toast", "Forgotten.")
    await console.page.get_by_label("Search what it was taught").fill("")
    await console.see(".statements li", "My dog is called Rolf.")
    await console.count(".statements li", 0, "Bruno")
    await console.view("Chat")
    await console.see(".said", "My dog is called Rolf.")
    await console.count(".said", 0, "Bruno")
    assert (await gateway.api.get()).levels != untaught


async def test_learning_is_switched(console: Console, gateway: Gateway) -> None:
    await console.page.get_by_role("switch", name="Learn from this").click()
    await console.say("This is between us.")
    await console.see(".entry.quiet", "taught nothing")
    assert (await gateway.api.get()).learnable_tokens == 0
    await console.page.get_by_role("switch", name="Learning of this memory").click()
    await console.see(".entry", "Learning was switched off")
    assert all(level.frozen for level in (await gateway.api.get()).levels)


async def test_a_first_memory_is_made(serve_http: ServeHttp) -> None:
    async with serve_http() as gateway, chromium(gateway.url) as console:
        await console.open()
        await console.see(".welcome", "A model that remembers")
        assert not await console.audit()
        await console.button("Create a memory").click()
        await console.page.get_by_label("Name").fill("notes")
        await console.button("Create").click()
        await console.see(".empty-chat", "Teach it something")
        await console.button("My cat is called Bruno.").click()
        assert await console.page.get_by_label("Message").input_value() == "My cat is called Bruno."


async def test_markup_is_text(console: Console, gateway: Gateway) -> None:
    attack = "<img src=x onerror=document.title='owned'><script>alert(1)</script>"
    await gateway.client.patch(ONE, json={"display_name": attack})
    await console.say(attack)
    await console.see(".said", attack)
    await console.see("#title", attack)
    await console.see(".entry-text", attack)
    await console.view("Time machine")
    await console.see(".detail h3")
    await console.count("main img, aside img, header img", 0)
    assert "owned" not in (await console.page.title()).replace(attack, "")


async def test_a_token_is_asked_for(serve_http: ServeHttp, tmp_path: Path) -> None:
    async with serve_http(token_key_file=shared_key_file(tmp_path)) as gateway:
        ada = {"authorization": f"Bearer {token('ada')}"}
        await gateway.client.post("/v1/sessions", json={"session_id": "diary"}, headers=ada)
        async with chromium(gateway.url) as console:
            await console.open()
            await console.page.get_by_label("Token or API key").fill("wrong")
            await console.button("Sign in").click()
            await console.see("dialog", "It is kept until this tab is closed")
            await console.page.get_by_label("Token or API key").fill(token("ada"))
            await console.button("Sign in").click()
            await console.see("#title", "diary")


async def test_the_keyboard_is_enough(console: Console) -> None:
    keys = console.page.keyboard
    await keys.press("/")
    await keys.type("Hello")
    await keys.press("Enter")
    await console.see(".turn-foot")
    for number, selector in ((3, "#view-compare"), (4, "#view-time"), (1, "#view-chat")):
        await keys.press(f"Alt+Digit{number}")
        await console.see(selector)
    await keys.press("Alt+KeyN")
    await console.see(".empty-chat")
    await keys.press("Escape")
    await console.page.locator("#title").click()
    await console.page.evaluate("document.activeElement.blur()")
    await keys.press("?")
    await console.see("dialog", "Keyboard")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_nothing_serious(gateway: Gateway, theme: str) -> None:
    async with chromium(gateway.url, color_scheme=theme) as console:
        await console.open()
        await console.see(".empty-chat")
        assert not await console.audit()
        await console.say(DOG)
        await learnt(gateway)
        await console.see(".entry.learnt")
        assert not await console.audit()
        await console.button("When did it learn this?").click()
        await console.see(".verdict")
        assert not await console.audit()
        await console.page.keyboard.press("Escape")
        await console.button("Without memory?").click()
        await console.see(".column .figures", "sure of a word")
        assert not await console.audit()
        await console.view("Taught")
        await console.see(".statements li")
        assert not await console.audit()
        await console.view("Time machine")
        await console.page.locator(".stop-button", has_text="Version 1").click()
        await console.see(".taught li")
        assert not await console.audit()


async def test_a_phone_is_wide_enough(gateway: Gateway) -> None:
    async with chromium(gateway.url, viewport=NARROW) as console:
        await console.open()
        await console.say(DOG)
        await learnt(gateway)
        for view in ("Chat", "Taught", "Compare", "Time machine", "Learning"):
            await console.view(view)
            wide = await console.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= NARROW["width"], view
            assert not await console.audit(), view
        await console.see(".learning .levels", "Fast")
        await console.button("Memories").click()
        await console.see(".side .session", "diary")
        assert not await console.audit()
