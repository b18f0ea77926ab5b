"""Random calls on two conversations that share an engine: in whatever order they come, all comes to its end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from omni_rt.engine.api import ContextItem, EngineError, Rgb, SessionSettings, Tool, ToolCall
from omni_rt.engine.qwen3_omni import speech
from omni_rt.engine.qwen3_omni.conversation import Conversation
from omni_rt.engine.qwen3_omni.parts import Parts
from tests.qwen3_omni.small_engine import Answer, Told, all_free, answer, assert_as_fresh, parts, settle, sound, tiny

pytestmark = pytest.mark.models

_TOOL = Tool("look_up", "Looks a word up.", {"type": "object", "properties": {"word": {"type": "string"}}})


@dataclass
class Caller:
    """Somebody who calls whatever comes to mind. `open` are the commits whose final transcript must come."""

    shared: Parts
    rng: np.random.Generator
    told: Told = field(default_factory=Told)
    answers: list[Answer] = field(default_factory=list)
    marks: dict[int, set[str]] = field(default_factory=dict)
    committed: list[str] = field(default_factory=list)
    undone: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.conversation = Conversation(
            self.shared, SessionSettings("Be brief."), self.told, int(self.rng.integers(99))
        )

    def call(self) -> None:
        try:
            self._call()
        except EngineError as error:
            self.refused.append(error.code)

    def _call(self) -> None:
        conversation, rng = self.conversation, self.rng
        match int(rng.integers(14)):
            case 0 | 1 | 2:
                conversation.append_audio(sound(float(rng.uniform(0, 1.5)), self._next()))
            case 3:
                conversation.append_image(self._picture(), 0)
            case 4:
                conversation.append_text("words " * int(rng.integers(4)), "user", f"text {self._next()}")
            case 5:
                conversation.append_tool_result("call", f"result {self._next()}", f"result {self.count}")
            case 6:
                self.committed.append(f"said {self._next()}")
                conversation.commit(self.committed[-1])
            case 7:
                conversation.discard()
            case 8:
                conversation.mark(self._next())
                self.marks[self.count] = set(self.committed)
            case 9 if self.marks:
                serial = int(rng.choice(list(self.marks)))
                conversation.rollback(serial)
                self.undone |= set(self.committed) - self.marks[serial]
                self.marks = {mark: known for mark, known in self.marks.items() if mark <= serial}
            case 10 | 11:
                self._respond()
            case 12 if self.answers:
                generation = int(rng.integers(len(self.answers))) if rng.random() < 0.5 else len(self.answers) - 1
                if rng.random() < 0.3:
                    conversation.cancel(generation)
                else:
                    conversation.keep_heard(generation, int(rng.integers(0, 900)))
            case 13 if rng.random() < 0.4:
                tools = (_TOOL,) if rng.random() < 0.5 else ()
                conversation.configure(SessionSettings("Be kind. " * int(rng.integers(3)), tools))
            case 13 if rng.random() < 0.3:
                conversation.restore([self._item() for _ in range(rng.integers(4))])
                self.marks.clear()

    def _respond(self) -> None:
        rng = self.rng
        tools = (None, (), (_TOOL,))[rng.integers(3)]
        choice = str(rng.choice(["auto", "none", "required", "look_up"])) if tools else "auto"
        self.answers.append(
            answer(
                self.conversation,
                len(self.answers),
                audio=bool(rng.random() < 0.7),
                instructions=None if rng.random() < 0.7 else "Rhyme.",
                tools=tools,
                tool_choice=choice,
                max_tokens=int(rng.integers(1, 4)),
                temperature=float(rng.choice([0.0, 1.0])),
            )
        )

    def _item(self) -> ContextItem:
        rng, item_id = self.rng, f"item {self._next()}"
        match int(rng.integers(5)):
            case 0:
                known = [item for item in self.committed if item not in self.undone]
                return ContextItem(known[-1] if known else item_id, "user", audio=sound(0.8, self.count))
            case 1:
                return ContextItem(item_id, "assistant", call=ToolCall("c", "look_up", "{}"))
            case 2:
                return ContextItem(item_id, "user", "found", result_of="c")
            case 3:
                return ContextItem(item_id, "user", "see", images=(self._picture(),))
            case _:
                return ContextItem(item_id, "assistant", "I said so.")

    def _picture(self) -> Rgb:
        return self.rng.integers(0, 256, (64, 64, 3), np.uint8)

    def _next(self) -> int:
        self.count += 1
        return self.count


@torch.inference_mode()
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_called_comes_to_its_end(
    seed: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "_FRAMES_AT_LEAST", 5)
    monkeypatch.setattr(speech, "_FRAMES_PER_TOKEN", 3)
    rng = np.random.default_rng(seed)
    mix = ("separate", "interleaved")[seed % 2]
    shared = parts(tiny(), mix=mix, audio_window_s=(1, 2, 8)[seed % 3], context_tokens=256, frame_tokens=4)
    callers = [Caller(shared, rng), Caller(shared, rng)]
    with caplog.at_level(logging.ERROR):
        for _ in range(350):
            caller = callers[rng.integers(2)]
            if rng.random() < 0.3:
                caller.call()
            elif caller.conversation.deadline(0.0) is not None:
                try:
                    caller.conversation.step()
                except EngineError as error:
                    caller.conversation.failed(error)
        for caller in callers:
            settle(caller.conversation)
    assert not caplog.records
    for caller in callers:
        assert [error.code for error in caller.told.errors if error.code != "context_full"] == []
        assert len(caller.answers) > 3
        for one in caller.answers:
            assert one.reason in ("completed", "max_tokens", "cancelled", "failed")
            assert one.ends[0].error.partition(":")[0] in ("", "reply_running", "context_full")
        assert set(caller.refused) <= {"unknown_mark"}
        assert set(caller.committed) - caller.undone <= set(caller.told.items)
        assert_as_fresh(caller.conversation)
        caller.conversation.close()
    assert all_free(shared)
