"""A real Chromium before a real server. What a failed test leaves behind lies in its temporary folder."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visit import Visit
from tests.support.server import RunningServer, running_server

DATA = Path(__file__).parent / "data"
WEB = Path(__file__).parents[2] / "web"
PROBE = Path(__file__).parent / "probe.js"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
]
FAKE_DEVICES = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

Open = Callable[..., Visit]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(420))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server with the default models, for all tests that leave it alive; to the same words it says the same."""
    with running_server(tmp_path_factory.mktemp("server"), "local.temperature=0") as running:
        yield running


@pytest.fixture(scope="session")
def page_files() -> Iterator[str]:
    """The page alone, without a server behind it; gives its URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=WEB)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def open_page(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens pages: `open_page(url, *chromium_flags, devices=True, probe=True, **context_options)`.

    `devices` gives the browser a microphone and a camera and the leave to use them. Errors of the page's own code fail
    the test.
    """
    visits: list[Visit] = []
    errors: list[str] = []
    with ExitStack() as stack:
        playwright = stack.enter_context(sync_playwright())

        def launch(flags: list[str]) -> Browser:
            browser = playwright.chromium.launch(
                executable_path=_chromium(), args=flags, ignore_default_args=["--mute-audio"]
            )
            stack.callback(browser.close)
            return browser

        def open_page(url: str, *flags: str, devices: bool = True, **options: Any) -> Visit:
            browser = launch([*FLAGS, *(FAKE_DEVICES if devices else []), *flags])
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            context.add_init_script(path=PROBE)
            page = context.new_page()
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.goto(url)
            folder = tmp_path / f"visit-{len(visits) + 1}"
            folder.mkdir()
            visits.append(Visit(page, folder))
            return visits[-1]

        yield open_page
        if request.node.stash.get(FAILED, False):
            for visit in visits:
                visit.keep()
            print(f"screenshots, events and recordings: {tmp_path}")
    assert not errors, f"the page's code failed: {errors}"


@pytest.fixture
def visit(open_page: Open, server: RunningServer) -> Visit:
    """A call in which nothing was said yet, by whoever `Visit.speak` is told to be."""
    visit = open_page(server.url)
    visit.page.evaluate("() => probe.scriptMicrophone()")
    visit.start()
    return visit


def _chromium() -> str | None:
    """A Chromium of the system, or None for Playwright's own."""
    return os.environ.get("OMNI_RT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
