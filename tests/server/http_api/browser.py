"""Chromium with the console open, and what tests do there."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


@dataclass
class Console:
    """A page of the console, and everything that it complained about or asked other hosts for."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    async def open(self, path: str = "") -> None:
        await self.page.goto(f"{self.url}/{path}")

    def button(self, name: str, *, exact: bool = True) -> Any:
        return self.page.get_by_role("button", name=name, exact=exact)

    async def view(self, name: str) -> None:
        await self.page.get_by_role("link", name=name, exact=True).click()

    async def say(self, text: str, *, stops: bool = False) -> str:
        """Send a message; returns the reply when it is complete, or cut after its first words."""
        before = await self.page.locator(".turn").count()
        await self.page.get_by_label("Message").fill(text)
        await self.button("Send").click()
        turn = self.page.locator(".turn").nth(before)
        if stops:
            await turn.locator(".reply-text:not(:has(.thinking))").wait_for(timeout=300_000)
            await self.button("Stop the reply").click()
        await turn.locator(".turn-foot").wait_for(timeout=300_000)
        reply: str = await turn.locator(".reply-text").inner_text()
        return reply

    async def see(self, selector: str, text: str = "", *, seconds: float = 30) -> Any:
        """The first visible element of a selector that has the text."""
        found = self.page.locator(selector).filter(has_text=text).first
        await found.wait_for(timeout=seconds * 1000)
        return found

    async def count(self, selector: str, number: int, text: str = "") -> None:
        """Wait until so many elements of a selector have the text: the page draws after an action,
        so what is there at once says nothing."""
        from playwright.async_api import expect

        await expect(self.page.locator(selector).filter(has_text=text)).to_have_count(number)

    async def audit(self) -> list[str]:
        """Serious findings of axe on the page as it is."""
        from axe_playwright_python.async_playwright import Axe

        found = await Axe().run(self.page)
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes']]}"
            for each in found.response["violations"]
            if each["impact"] in ("serious", "critical")
        ]


@asynccontextmanager
async def chromium(url: str, **options: Any) -> AsyncIterator[Console]:
    """A browser with a page for the console at `url`; options are those of the page."""
    playwright = pytest.importorskip("playwright.async_api")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        try:
            page = await browser.new_page(
                **{"viewport": WIDE, "reduced_motion": "reduce"} | options
            )
            page.set_default_timeout(30_000)
            console = Console(page, url)

            def asked(request: Any) -> None:
                if not request.url.startswith((url, "blob:", "data:")):
                    console.foreign.append(request.url)

            def told(message: Any) -> None:
                if message.type == "error" and "Failed to load resource" not in message.text:
                    console.complaints.append(message.text)

            page.on("request", asked)
            page.on("console", told)
            page.on("pageerror", lambda error: console.complaints.append(str(error)))
            yield console
            assert not console.complaints
            assert not console.foreign
        finally:
            await browser.close()
            await asyncio.sleep(0)
