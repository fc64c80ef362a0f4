"""The console with the real model: what it was told, it answers in another conversation. Writes the
pictures of the documentation where HOPE_IMAGES names a folder (`make images`)."""

from __future__ import annotations

import os
from pathlib import Path

import documents
import pytest
from browser import NARROW, Console, chromium
from gateway import ServeHttp

from hope_runtime.checkpoints import load_model

IMAGES = os.environ.get("HOPE_IMAGES", "")
TOWN = [
    "Aldmoor lies on the river Tern.",
    "Its bridge was built by Edda Vale in 1788.",
    "The mayor of Aldmoor is called Tobias Wren.",
]


@pytest.mark.heavy
async def test_it_knows_what_it_was_told(serve_http: ServeHttp, tmp_path: Path) -> None:
    images = Path(IMAGES) if IMAGES else tmp_path
    async with (
        serve_http(model=load_model("default"), window_tokens=1024, threads=2) as gateway,
        chromium(gateway.url, device_scale_factor=1.5) as console,
    ):
        await gateway.client.post("/v1/sessions", json={"session_id": "recipes"})
        await gateway.client.post("/v1/sessions", json={"session_id": "diary"})
        await console.open("#/diary/chat")
        await console.say("My cat is called Bruno.", stops=True)
        await console.say("My sister is called Clara.", stops=True)
        await console.button("New conversation").click()
        await console.see(".entry.learnt", "Version 1", seconds=900)
        await upload(console)
        # Told nothing in this conversation: only the memory can know.
        await console.page.get_by_role("switch", name="Learn from this").click()
        assert "Bruno" in await console.say("What is my cat called?")
        assert "Clara" in await console.say("What is my sister called?")
        await console.page.get_by_role("switch", name="Learn from this").click()
        await console.page.screenshot(path=images / "console.png")
        await console.page.emulate_media(color_scheme="dark")
        await console.button("Without memory?").first.click()
        for column in ("Memory", "Base model"):
            card = await console.see(".column", column)
            await card.locator(".figures", has_text="sure of a word").wait_for(timeout=300_000)
        answers = await console.page.locator(".answer").all_inner_texts()
        assert ["Bruno" in answer for answer in answers] == [True, False]
        await console.page.screenshot(path=images / "console-dark.png")
        await console.page.emulate_media(color_scheme="light")
        await console.view("Chat")
        await console.button("When did it learn this?").first.click()
        await console.see(".verdict", "Learnt in version 1 from what you said.", seconds=300)
        await console.see(".passages", "My cat is called Bruno.")
        await console.page.screenshot(path=images / "console-origin.png")
        await console.page.keyboard.press("Escape")
        await console.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
        await console.view("Time machine")
        await console.see(".taught li", "Aldmoor")
        await console.page.screenshot(path=images / "console-360.png")


async def upload(console: Console) -> None:
    """Teach it a PDF; returns when that is learnt."""
    pdf = {"name": "aldmoor.pdf", "mimeType": "application/pdf", "buffer": documents.pdf(TOWN)}
    async with console.page.expect_file_chooser() as chosen:
        await console.button("Add").click()
    await (await chosen.value).set_files(pdf)
    await console.see(".reading.done", "aldmoor.pdf", seconds=900)
