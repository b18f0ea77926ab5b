"""Keyboard, screen reader, sizes and colours. The page alone, in every scene it can show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open

JUDGE = (Path(__file__).parent / "access.js").read_text(encoding="utf-8")
SCENES = ("idle", "asking", "connecting", "listening", "hearing", "thinking", "speaking", "muted", "ready", "unsteady")
NAME = re.compile(r"\w")

# A conversation with every kind of line, a notice, and the timing panel open.
_FILL = """async () => {
    const { Captions } = await import("./js/captions.js");
    const by = (id) => document.getElementById(id);
    new Captions(by("log"), by("lines"), by("empty")).show([
        { id: "1", role: "user", text: "What is that?", state: "final" },
        { id: "2", role: "assistant", text: "That is a lighthouse, and it", state: "cut" },
        { id: "3", role: "user", text: "and how tall", state: "partial" },
        { id: "4", role: "assistant", text: "About thirty", state: "partial" },
    ]);
    by("notice").textContent = "The answer was cut off because it became too long.";
    by("notice").hidden = false;
    by("timing-toggle").click();
}"""

_CUT_LINE = """
- listitem:
  - paragraph: Assistant
  - paragraph: That is a lighthouse, and it Interrupted here, the rest was not heard.
"""

_SHOW = """async (scene) => {
    const { Stage } = await import("./js/stage.js");
    new Stage().show(scene);
}"""

_FAIL = """async () => {
    const { Stage } = await import("./js/stage.js");
    const { CallFailure } = await import("./js/failures.js");
    const stage = new Stage();
    stage.show("failed");
    stage.fail(new CallFailure("microphone-refused"));
}"""


def judge(page: Page) -> None:
    """Fails with what `access.js` complains of."""
    assert page.evaluate(JUDGE) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 740), (1280, 800), (1920, 1080)], ids=["narrow", "laptop", "kiosk"])
def test_colours_sizes_and_names_in_every_scene(
    open_page: Open, page_files: str, scheme: str, size: tuple[int, int]
) -> None:
    options: dict[str, Any] = {"viewport": {"width": size[0], "height": size[1]}, "reduced_motion": "reduce"}
    page = open_page(page_files, color_scheme=scheme, **options).page
    judge(page)
    page.evaluate(_FILL)
    for scene in SCENES:
        page.evaluate(_SHOW, scene)
        judge(page)
        for control in page.get_by_role("button").all():
            expect(control).to_have_accessible_name(NAME)
    page.evaluate(_FAIL)
    judge(page)
    page.evaluate(_SHOW, "idle")
    page.locator("#settings-open").click()
    judge(page)
    for role in ("combobox", "slider"):
        for control in page.get_by_role(role).all():
            expect(control).to_have_accessible_name(NAME)


def test_a_reader_finds_its_way(open_page: Open, page_files: str) -> None:
    page = open_page(page_files).page
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1
    expect(page.get_by_role("main")).to_be_visible()
    expect(page.get_by_role("button", name="Start. Press and talk")).to_be_visible()
    expect(page.get_by_role("log", name="Conversation")).to_be_visible()
    expect(page.get_by_role("textbox", name="Message to the assistant")).to_be_visible()
    expect(page.locator("#announcer")).to_have_attribute("aria-live", "polite")


def test_a_cut_answer_says_so_to_eye_and_ear(open_page: Open, page_files: str) -> None:
    page = open_page(page_files).page
    page.evaluate(_FILL)
    line = page.locator(".line[data-state=cut]")
    expect(line.locator(".cut")).to_be_visible()
    expect(line).to_match_aria_snapshot(
        "- listitem:\n  - paragraph: Assistant\n  - paragraph: /lighthouse, and it Interrupted here/"
    )


def test_every_control_is_reached_by_tab_and_shows_it(open_page: Open, page_files: str) -> None:
    page = open_page(page_files).page
    page.evaluate(_FILL)
    page.evaluate(_SHOW, "listening")
    focusable = page.locator("a[href]:visible, button:visible, input:visible, [tabindex='0']:visible").count()
    seen: set[str] = set()
    for _ in range(focusable):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "() => [document.activeElement.id || document.activeElement.className,"
            " parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
        )
        assert outline >= 2, f"{place} does not show that it has the focus"
        seen.add(place)
    assert {"orb", "mute", "camera", "screen", "end", "message", "send", "timing-toggle", "settings-open"} <= seen


def test_the_device_dialog_takes_and_gives_back_the_focus(open_page: Open, page_files: str) -> None:
    page = open_page(page_files).page
    page.locator("#settings-open").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Devices")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#settings-open")).to_be_focused()


def test_nothing_moves_for_who_wants_it_still(open_page: Open, page_files: str) -> None:
    moving = "() => document.getAnimations().length"
    still = open_page(page_files, reduced_motion="reduce").page
    still.evaluate(_SHOW, "thinking")
    assert still.evaluate(moving) == 0
    lively = open_page(page_files).page
    lively.evaluate(_SHOW, "thinking")
    assert lively.evaluate(moving) > 0


def test_a_chosen_device_is_remembered(open_page: Open, page_files: str) -> None:
    page = open_page(page_files).page
    page.locator("#settings-open").click()
    page.locator("#check").click()
    expect(page.locator("#settings-note")).to_contain_text("Speak")
    picker = page.locator("#microphone-choice")
    expect(picker.locator("option")).not_to_have_count(1)
    picker.select_option(index=1)
    chosen = picker.input_value()
    assert chosen
    page.reload()
    page.locator("#settings-open").click()
    expect(picker).to_have_value(chosen)
