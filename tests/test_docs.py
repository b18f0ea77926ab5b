"""Pages of docs/ keep in step with what they list."""

from __future__ import annotations

import re
from pathlib import Path

from omni_rt.config import QwenSettings, ServerSettings
from omni_rt.realtime.dashscope.client_events import ClientEvents
from omni_rt.realtime.dashscope.settings import KEPT, REFUSED, SessionUpdate
from omni_rt.realtime.settings import WireSession
from omni_rt.server.calls import HTTP_STATUS
from tests.support.strict_events import ADDITIONS

ROOT = Path(__file__).parent.parent
ENGINE = ROOT / "omni_rt" / "engine" / "qwen3_omni"


def section(page: str, title: str) -> str:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(page: str, title: str) -> list[str]:
    """The lines of a section's table, without its head."""
    return [line for line in section(page, title).splitlines() if line.startswith("| `")]


def test_the_engines_page_names_every_setting() -> None:
    named = re.findall(r"`(\w+)`", section("qwen3_omni.md", "Settings").partition("|---|")[2])
    assert sorted(named) == sorted(QwenSettings.model_fields)


def test_the_engines_page_names_every_file() -> None:
    named = re.findall(r"`(\w+\.py)`", section("qwen3_omni.md", "Files"))
    assert sorted(named) == sorted(path.name for path in ENGINE.glob("*.py") if path.name != "__init__.py")


def test_the_errors_that_the_engines_page_names_exist() -> None:
    named = re.findall(r"`(\w+)`", section("qwen3_omni.md", "Errors").partition("|---|")[2])
    source = "".join(path.read_text("utf-8") for path in ENGINE.parent.rglob("*.py"))
    assert len(named) > 20
    assert not [code for code in named if f'"{code}"' not in source]


def test_the_protocols_page_names_every_addition() -> None:
    named = re.findall(r"`([\w.]+)`", section("protocol.md", "Added"))
    for event, fields in ADDITIONS.items():
        assert {event, *fields} <= set(named)


def test_the_protocols_page_names_what_is_taken_without_effect() -> None:
    named = re.findall(r"`([\w.]+)`", section("protocol.md", "Taken and echoed, without effect"))
    roots = {name for name in named if "." not in name and name != "language"}
    assert roots <= set(WireSession.model_fields)
    assert len(roots) == 4


def test_the_protocols_page_names_every_setting_of_the_dashscope_dialect() -> None:
    table = rows("protocol.md", "The DashScope dialect")
    named = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table))
    assert sorted(named) == sorted(SessionUpdate.model_fields)
    without_effect = next(row for row in table if "without effect" in row).split("|")[1]
    assert {*re.findall(r"`(\w+)`", without_effect)} == {*KEPT} - {"turn_detection", "max_tokens"}
    refused = next(row for row in table if "| refused |" in row).split("|")[1]
    assert {*re.findall(r"`(\w+)`", refused)} == REFUSED.keys()


def test_the_protocols_page_names_every_client_event_of_the_dashscope_dialect() -> None:
    text = section("protocol.md", "The DashScope dialect").partition("Client events are")[2].partition("|")[0]
    named = re.findall(r"`([\w.]+)`", text)
    whole = [f"input_audio_buffer{name}" if name.startswith(".") else name for name in named]
    assert whole == ClientEvents(()).kinds


def test_the_networks_page_names_every_setting() -> None:
    named = re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in rows("network.md", "Settings")))
    assert sorted(named) == sorted(ServerSettings.model_fields)


def test_the_errors_that_the_networks_page_names_exist() -> None:
    named = {row.split("|")[1].strip(" `"): int(row.split("|")[2]) for row in rows("network.md", "Errors")}
    source = "".join(path.read_text("utf-8") for path in (ROOT / "omni_rt").rglob("*.py"))
    assert len(named) >= 10
    assert not [code for code in named if f'"{code}"' not in source]
    assert not [code for code, status in HTTP_STATUS.items() if named.get(code, status) != status]


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))]
    assert len(links) > 5
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
