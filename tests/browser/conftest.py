"""Real front ends in headless Chromium, served by a real ComfyUI: the pinned and the newest, each in both renderers.

Skipped where ComfyUI, playwright or chromium is missing. The newest front end is looked for in COMFYUI_FRONTEND_NEWEST
(the `static` folder of comfyui_frontend_package), else in ~/comfy/frontends; CHROMIUM names the browser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..comfyui import tiny_models
from ..comfyui.server import WRAPPER_NAME, ComfyServer, comfyui_path, missing_comfyui
from .editor import GraphPage

FRONT_ENDS = ("pinned", "newest")
RENDERERS = ("classic", "vue")


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def newest_front_end() -> Path | None:
    given = os.environ.get("COMFYUI_FRONTEND_NEWEST")
    if given:
        return Path(given).expanduser()
    found = Path.home().glob("comfy/frontends/*/comfyui_frontend_package/static")
    return max(found, key=lambda p: [int(n) for n in p.parts[-3].split(".")], default=None)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """This folder last: playwright keeps an event loop and pages that draw until the end of the session."""
    yield
    items.sort(key=lambda item: item.path.parent == Path(__file__).parent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The page's own messages, beside a failure."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and isinstance(page, GraphPage):
        report.sections.append(("Console", "\n".join(page.console[-20:])))
    return report


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    reason = missing_comfyui()
    if reason:
        pytest.skip(reason)
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    executable = chromium()
    if not executable:
        pytest.skip("no chromium: install it, or name a browser in CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=FRONT_ENDS)
def front_end(
    request: pytest.FixtureRequest, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with its own folders and one of the front ends."""
    options: list[str] = []
    if request.param == "newest":
        if os.environ.get("CI") and not os.environ.get("COMFYUI_FRONTEND_NEWEST"):
            pytest.skip("the newest front end is tested in CI where COMFYUI_FRONTEND_NEWEST names it, to save minutes")
        root = newest_front_end()
        if root is None:
            pytest.skip("no second front end: pip install --target ~/comfy/frontends/VERSION comfyui-frontend-package")
        options = ["--front-end-root", str(root)]
    base = tmp_path_factory.mktemp("browser")
    tiny_models.write_models(base / "models")
    server = ComfyServer(base, comfyui_path() / "custom_nodes" / WRAPPER_NAME, options=options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", params=RENDERERS)
def open_page(request: pytest.FixtureRequest, front_end: ComfyServer, browser: Any) -> Iterator[GraphPage]:
    page = GraphPage.open(browser, front_end, vue=request.param == "vue")
    yield page
    page.close()


@pytest.fixture
def page(open_page: GraphPage) -> Iterator[GraphPage]:
    """An empty graph; whatever the page complains about fails the test."""
    open_page.reset()
    yield open_page
    assert open_page.problems == []
