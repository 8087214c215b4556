"""`/docs` in a real browser: everything is there, and nothing is asked of anybody but the server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service as Driver
from tests.http.api_kit import Api
from tests.http.test_tasks_socket import served

pytestmark = pytest.mark.real_time

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server",
    "--window-size=1280,1000",
)  # fmt: skip
OWN_SCHEMES = {"chrome", "chrome-untrusted", "data"}  # of the browser's own first page, and of what leaves no machine
ALL_PARTS = """return [...document.querySelectorAll('details.operation')].map(part => [
    part.querySelector('summary .method').textContent, part.querySelector('summary code').textContent])"""
FOLLOW = """document.querySelector(`nav a[href="#${arguments[0]}"]`).click();
    const part = document.getElementById(arguments[0]); return [part.parentElement.open, part.innerText]"""
RESOURCES = "return performance.getEntriesByType('resource').map(entry => entry.name)"
OVERFLOW = """document.querySelectorAll('details').forEach(part => part.open = true);
    return document.documentElement.scrollWidth - document.documentElement.clientWidth"""


def program(*names: str) -> str:
    """`make test` installs them."""
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, f"none of {', '.join(names)} is installed: sh scripts/prepare-test-servers browser"
    return found


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[webdriver.Chrome]:
    """Chromium with a profile of its own; it notes its requests and what is said on the console."""
    monkeypatch.setenv("SE_OFFLINE", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    options = Options()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Driver(program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def look(browser: webdriver.Chrome, url: str) -> dict[str, Any]:
    """What the page shows and what it asked for."""
    browser.get(url)
    seen = {
        "title": browser.title,
        "parts": browser.execute_script(ALL_PARTS),
        "followed": browser.execute_script(FOLLOW, "tasks_create"),
        "overflow": browser.execute_script(OVERFLOW),
    }
    browser.set_window_size(500, 900)
    seen["overflow of a narrow window"] = browser.execute_script(OVERFLOW)
    performance = browser.get_log("performance")  # type: ignore[no-untyped-call]  # selenium's
    events = [json.loads(entry["message"])["message"] for entry in performance]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = {event["request"]["url"].partition("#")[0] for event in asked}
    seen["requests"] = {url for url in urls if urlsplit(url).scheme not in OWN_SCHEMES}
    seen["resources"] = browser.execute_script(RESOURCES)
    seen["console"] = browser.get_log("browser")  # type: ignore[no-untyped-call]  # as above
    return seen


async def test_the_page_shows_all_and_needs_no_network(api: Api, browser: webdriver.Chrome) -> None:
    async with served(api) as client:
        url = f"http://{client.address[0]}:{client.address[1]}/docs"
        seen = await trio.to_thread.run_sync(look, browser, url)
    assert seen["title"] == "Task Center API"
    documented = {(method.upper(), path) for path, methods in api.document.value["paths"].items() for method in methods}
    callbacks = {("POST", "callback_url"), ("POST", "finish_url")}
    assert {(method, path) for method, path in seen["parts"]} == documented | callbacks
    opened, text = seen["followed"]
    assert opened, "a link of the contents opens its operation"
    assert "callback_url" in text
    assert (seen["overflow"], seen["overflow of a narrow window"]) == (0, 0), "nothing scrolls sideways"
    assert seen["requests"] == {url}
    assert {urlsplit(name).hostname for name in seen["resources"]} <= {"127.0.0.1"}
    assert seen["console"] == []
