"""A browser and an endpoint for the tests of the page. SCREENSHOTS names a folder to keep pictures of it in."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdworker.request import Contract
from sdworker.settings import Settings
from tests.local_endpoint.harness import KEY, Endpoint

CHROMIUM = shutil.which("chromium")
DESKTOP = {"width": 1280, "height": 900}
ADD_ONS = {
    "loras": ["pencil", "pixels"],
    "embeddings": ["dot-cube"],
    "controlnets": ["edges"],
    "upscalers": ["emoji-x2"],
}


@pytest.fixture(scope="package")
def drawing(quick_disk: Path) -> Iterator[Endpoint]:
    """An endpoint with a worker whose pictures take no time."""
    folder = quick_disk / "playground" / "data"
    schema = quick_disk / "input_schema.json"
    schema.write_text(json.dumps(Contract(Settings(), (512, 512)).schema(ADD_ONS)))
    explainer = f"{sys.executable} -m sdworker.cli.explainer"
    options = ["--input-schema", str(schema), "--no-rate-limits", "--explain-command", explainer]
    endpoint = Endpoint(folder, *options).start()
    endpoint.sdk_worker()
    endpoint.wait_ready()
    yield endpoint
    endpoint.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("needs chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options + quiet)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, drawing: Endpoint) -> Iterator[Any]:
    """The page, opened by the link that brings the key; nothing may go wrong unseen in its console."""
    context = browser.new_context(viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{drawing.base}/#key={KEY}")
    page.wait_for_selector("html[data-ready]")
    yield page
    assert [said for said in wrong if "401" not in said and "ERR_CONNECTION_REFUSED" not in said] == []
    context.close()
