"""Every failure says what happened and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from omni_rt.server.keys import add_key
from tests.browser.conftest import Open
from tests.support.echo_engine import ECHO
from tests.support.server import RunningServer, running_server


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A server with one place, which a test may kill."""
    with running_server(tmp_path_factory.mktemp("small"), "server.max_sessions=1") as running:
        yield running


def test_microphone_refused_and_then_typing(open_page: Open, server: RunningServer) -> None:
    visit = open_page(server.url, devices=False)
    # Without leave and with nobody to give it, Chromium refuses; on a machine without a microphone it finds none.
    visit.page.evaluate(
        "() => { const media = navigator.mediaDevices, real = media.getUserMedia.bind(media);"
        " media.enumerateDevices().then((all) => { if (!all.some((d) => d.kind === 'audioinput'))"
        " media.getUserMedia = async () => { throw new DOMException('Permission denied', 'NotAllowedError'); }; }); }"
    )
    visit.page.locator("#orb").click()
    words = visit.expect_failure("microphone-refused")
    assert "Allow it for this page" in words
    visit.page.get_by_role("button", name="Continue without microphone").click()
    visit.expect_word("Ready")
    visit.type("Say hello to me.")
    visit.silence_after_reply()
    assert visit.captions("user") == ["Say hello to me."]
    [answer] = visit.captions("assistant")
    assert answer == visit.event("response.output_audio_transcript.done")["transcript"].strip()
    assert answer


def test_no_microphone_is_named_and_is_not_the_end(open_page: Open, page_files: str) -> None:
    visit = open_page(page_files)
    # A machine of the tests may have a microphone, so its absence is played.
    visit.page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = async () => {"
        " throw new DOMException('Requested device not found', 'NotFoundError'); }; }"
    )
    visit.page.locator("#orb").click()
    assert "Plug one in" in visit.expect_failure("no-microphone")
    expect(visit.page.get_by_role("button", name="Continue without microphone")).to_be_visible()
    expect(visit.page.locator("#message")).to_be_enabled()


def test_an_insecure_address_is_named(open_page: Open, page_files: str) -> None:
    port = page_files.rpartition(":")[2]
    visit = open_page(f"http://omni.test:{port}", "--host-resolver-rules=MAP omni.test 127.0.0.1")
    visit.page.locator("#orb").click()
    assert "https" in visit.expect_failure("insecure")


def test_a_server_that_is_not_there(open_page: Open, page_files: str) -> None:
    visit = open_page(page_files)
    visit.page.context.set_offline(True)
    visit.page.locator("#orb").click()
    assert "Check that omni_rt is running" in visit.expect_failure("server-gone")
    expect(visit.page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_refused_call_gives_the_servers_reason(open_page: Open, server: RunningServer) -> None:
    visit = open_page(server.url)
    visit.page.route("**/js/call.js", _without_audio_line)
    visit.page.reload()
    visit.page.locator("#orb").click()
    assert "audio" in visit.expect_failure("refused")


def _without_audio_line(route: object) -> None:
    """The page's own code, but for an offer the server must refuse."""
    source = (Path(__file__).parents[2] / "web" / "js" / "call.js").read_text(encoding="utf-8")
    broken = source.replace('form.set("sdp", this.peer.localDescription?.sdp ?? "")', 'form.set("sdp", "v=0\\r\\n")')
    assert broken != source
    route.fulfill(body=broken, content_type="text/javascript")  # type: ignore[attr-defined]


def test_busy_and_then_a_server_that_dies(open_page: Open, small_server: RunningServer) -> None:
    first = open_page(small_server.url)
    first.start()
    first.expect_word("Listening")
    second = open_page(small_server.url)
    second.page.locator("#orb").click()
    assert "Try again" in second.expect_failure("busy")

    first.expect_word("Listening")
    first.page.locator("#end").click()
    first.expect_word("Start")
    second.page.get_by_role("button", name="Try again").click()
    second.expect_word("Listening")

    small_server.kill()
    assert "It may have been stopped" in second.expect_failure("server-gone")
    expect(second.page.get_by_role("alert")).to_contain_text("The server does not answer")


def test_a_server_that_asks_for_a_key(open_page: Open, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("locked")
    key = add_key(folder / "keys", "someone")
    with running_server(folder, f"server.keys_file={json.dumps(str(folder / 'keys'))}", factory=ECHO) as server:
        visit = open_page(server.url)
        visit.page.locator("#orb").click()
        assert "asks for a key" in visit.expect_failure("no-key")
        visit.page.get_by_label("Key", exact=True).fill("nonsense")
        visit.page.get_by_role("button", name="Use this key").click()
        visit.page.wait_for_function("() => document.querySelector('#failure-text').textContent.includes('Incorrect')")
        visit.page.get_by_label("Key", exact=True).fill(key)
        visit.page.get_by_role("button", name="Use this key").click()
        visit.event("session.created")
        visit.expect_word("Listening")
        visit.page.locator("#end").click()
        visit.until("the call is over", lambda: httpx.get(f"{server.url}/readyz").json()["sessions"] == 0)
        assert "the client hung up" in server.log.read_text()


def test_a_call_that_has_lasted_long_enough(open_page: Open, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_server(tmp_path_factory.mktemp("hasty"), "server.max_session_s=2", factory=ECHO) as server:
        visit = open_page(server.url)
        visit.start()
        assert "A session may last 2 s. Start again" in visit.expect_failure("ended-by-server")
