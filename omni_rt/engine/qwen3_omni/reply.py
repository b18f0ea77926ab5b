"""One reply in the making: the thinker writes, the talker speaks what is written, a frame of 80 ms at a time.

The talker starts on the first spoken token and takes one token a frame; the thinker is kept a few tokens ahead of it.
What the thinker thinks or calls is never spoken.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch

from omni_rt.engine.api import (
    AudioDelta,
    CallDelta,
    Chunk,
    EndReason,
    EngineError,
    Pcm,
    ReplyEnd,
    RespondOptions,
    SessionSettings,
    TextDelta,
    Usage,
)
from omni_rt.engine.qwen3_omni import pieces
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.heard import Pace
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.reading import Call, Event, Problem, ReplyReader, Speak, Thought
from omni_rt.engine.qwen3_omni.requests import Choice, Frame, Made, Read, Request, Result
from omni_rt.engine.qwen3_omni.sampler import THINKER, noise
from omni_rt.engine.qwen3_omni.speech import FRAME_S, Speech
from omni_rt.engine.qwen3_omni.written import Kept, Written

if TYPE_CHECKING:
    from omni_rt.engine.qwen3_omni.conversation import Conversation

log = logging.getLogger(__name__)

PREFILL_ROWS = 512
"""Most rows of one prefill step: what a reply of another session may have to wait for."""
# Spoken tokens that the thinker is kept ahead of the talker.
_AHEAD = 4
# Sound kept before the ear, in seconds, while tokens are read.
_LEAD_S = 0.24
# After being asked, in seconds, when the steps to the first packet are due: a listener who would have to wait by then
# goes first. And what each further token adds that comes before any speech, as in thinking or in a written reply.
_FIRST_S = 0.05
_TOKEN_S = 0.03
# How long before the ear needs a frame its step is due: what a pass in flight and its own may take.
_PASS_S = 0.04
# So much work that is due soon is a crowd: then a reply is first heard of when it has two frames, since the second may
# take longer than the first lasts.
_CROWD = 2
Put = Callable[[Chunk], None]


class Reply:
    """`put` takes the chunks. Lives on the scheduler's thread from `begin` on; `turn` is its place in the context."""

    def __init__(self, parts: Parts, options: RespondOptions, put: Put) -> None:
        self.generation = options.generation
        self.turn = Turn("assistant")
        self.ended = False
        self._asked_at = parts.scheduler.now()
        self._parts = parts
        self._options = options
        self._put = put
        self._written = Written(parts.tokenizer)
        self._begun = self._first = False
        self._speech: Speech | None = None
        self._spoken: deque[int] = deque()
        self._thinking = True
        self._last: Pcm | None = None  # kept back until all text is known
        self._hint: Turn | None = None
        self._most = min(options.max_tokens or parts.settings.max_reply_tokens, parts.settings.max_reply_tokens)
        self._end_reason: EndReason = "completed"
        self._input_tokens = 0
        self._evaluated = 0
        self._computed_before = 0
        self._reader: ReplyReader
        self._context: Context
        self._pace: Pace
        self._generator: torch.Generator
        self._temperature = THINKER.temperature
        self._allowed = "reply"
        self._uniform: float | None = None

    def begin(self, conversation: Conversation, settings: SessionSettings) -> None:
        """Take the place behind all turns. What is said from here on belongs behind it."""
        options, parts = self._options, self._parts
        self._context, self._generator, self._pace = conversation.context, conversation.generator, conversation.pace
        tools = settings.tools if options.tools is None else options.tools
        forced = parts.prompt.forced_prefix(options.tool_choice, tools)
        if options.instructions is not None or options.tools is not None:
            hint = parts.prompt.system(options.instructions or "", tools)
            self._hint = Turn("system", [pieces.text(hint)] if hint else [])
            self._context.turns.append(self._hint)
        self._reader = ReplyReader(parts.tokenizer, names=[tool.name for tool in tools])
        self.turn.pieces = [pieces.text((*parts.prompt.assistant_open, *forced))]
        self._context.turns.append(self.turn)
        self._context.changed()
        self._begun = True
        self._computed_before = self._context.computed
        asked = (t for t in (options.temperature, settings.temperature) if t is not None)
        self._temperature = next(asked, THINKER.temperature)
        self._allowed = "reply_with_tools" if tools and options.tool_choice != "none" else "reply"
        if options.audio and parts.omni.talker is not None:
            self._speech = Speech(parts, self._context, settings.voice, self._generator)
        for token in forced:
            self._written.token(token)
            self._take(self._reader.feed(token))

    def deadline(self, now: float) -> float:
        """The steps to the first packet soon after it was asked for; then each frame before the ear needs it."""
        speech = self._speech
        if speech is not None and speech.whole:
            return now
        if speech is not None and speech.out:
            return speech.deadline() - _PASS_S
        return self._asked_at + _FIRST_S + _TOKEN_S * max(0, len(self._written.ids) - 1)

    def request(self) -> Request | None:
        """The next token or frame; None when `finish` is next."""
        speech = self._speech if self._speech is not None and not self._speech.whole else None
        if not self._first:
            return self._read()
        if self._thinking and (speech is None or (len(self._spoken) < _AHEAD and not self._frame_due())):
            return self._read()
        if speech is not None and (self._spoken or speech.begun):
            if not self._spoken and self._thinking and self._reader.speaking:
                raise ValueError("the next token of the text must be waited for")
            return speech.frame(self._spoken[0] if self._spoken else None)
        return None

    def take(self, request: Request, result: Result) -> None:
        """What became of a request."""
        if isinstance(request, Frame):
            assert isinstance(result, Made)
            self._heard_frame(request, result)
        elif request.choice is not None:
            assert isinstance(result, int)
            self._take_token(result)

    def finish(self) -> None:
        """Nothing is left to be read or spoken."""
        if self._last is not None:
            self._put(AudioDelta(self.generation, self._last, self._written.text_left()))
        self.end(self._end_reason)

    def fail(self, code: str, message: str) -> None:
        self._finish("failed", f"{code}: {message}")

    def fail_of(self, error: EngineError) -> None:
        self.fail(error.code, str(error))

    def end(self, reason: EndReason) -> None:
        """The last chunk; whatever was written stays in the context."""
        self._finish(reason, "")

    def heard(self, audio_ms: int) -> Kept:
        """What was heard within the first `audio_ms` of sound."""
        if audio_ms <= 0:
            return self._written.calls_only()
        if self._speech is None:
            return self._written.everything()
        played = audio_ms / (FRAME_S * 1000)
        return self._written.heard(played, self._speech.frames, self._pace, whole=self._speech.whole)

    def settle(self, ids: tuple[int, ...]) -> None:
        """Make the turn what history shall hold of it."""
        if not self._begun:
            return
        prompt = self._parts.prompt
        self.turn.pieces = [pieces.text((*prompt.assistant_open, *ids, *prompt.assistant_close))] if ids else []
        self._context.changed()

    # -- inside

    def _frame_due(self) -> bool:
        """Whether a frame can be made and is more urgent than a token. Inside a block the text to speak is over: the
        talker need not wait for what is not spoken."""
        speech = self._speech
        if speech is None or speech.whole or not (self._spoken or (speech.begun and not self._reader.speaking)):
            return False
        return not speech.out or speech.deadline() < self._parts.scheduler.now() + _LEAD_S

    def _read(self) -> Read:
        """What is missing, and when nothing will be, a token; a token's own row is read only if another one follows."""
        hidden = self._context.known_hidden()
        chunk = self._context.chunk(PREFILL_ROWS) if hidden is None else None
        if chunk is not None and self._context.missing > len(chunk):
            return Read(chunk)
        if self._uniform is None:
            self._uniform = float(noise(self._generator, 1))
        line = self._speech.begin() if self._speech is not None and not self._first else None
        return Read(chunk, hidden, Choice(self._temperature, self._allowed, self._uniform), line)

    def _take_token(self, token: int) -> None:
        self._uniform = None
        if not self._first:
            self._first = True
            self._input_tokens = self._context.rows
            self._evaluated = self._context.computed - self._computed_before
        if token == self._parts.spec.tokens.im_end:
            self._written_all("completed")
            return
        self._written.token(token)
        self.turn.pieces.append(pieces.text((token,)))
        self._context.changed()
        self._take(self._reader.feed(token))
        if len(self._written.ids) >= self._most or self._context.rows >= self._parts.context_tokens - 4:
            self._written_all("max_tokens")

    def _written_all(self, reason: EndReason) -> None:
        self._thinking = False
        self._end_reason = reason
        self._take(self._reader.finish())

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Speak(text, ids):
                    self._written.speak(text, ids)
                    self._spoken += ids
                    self._put(TextDelta(self.generation, text))
                case Call(name, arguments):
                    self._written.call(self._parts.prompt.call(name, arguments))
                    self._put(CallDelta(self.generation, f"call_{secrets.token_hex(12)}", name, arguments))
                case Thought():
                    self._written.leave_out()
                case Problem(code, message):
                    self._written.leave_out()
                    log.warning("reply %d: %s: %s", self.generation, code, message)

    def _heard_frame(self, frame: Frame, made: Made) -> None:
        assert self._speech is not None
        if frame.token is not None:
            self._spoken.popleft()
        crowded = self._parts.scheduler.crowd >= _CROWD
        pcm = self._speech.take(frame, made, patient=crowded)
        if self._speech.whole:
            self._last = pcm
        elif pcm is not None:
            self._put(AudioDelta(self.generation, pcm, self._written.tell(self._speech.tokens)))

    def _finish(self, reason: EndReason, error: str) -> None:
        if self.ended:
            return
        self.ended = True
        if not self._begun:
            self._put(ReplyEnd(self.generation, reason, Usage(), error))
            return
        if self._speech is not None:
            self._speech.close()
            if self._speech.whole:
                self._pace.learn(self._written.text, self._speech.frames)
        if self._thinking and not self._reader.speaking:
            self._written.leave_out()
        if self._hint is not None and self._hint in self._context.turns:
            self._context.turns.remove(self._hint)
        self.settle(self._written.everything().ids)
        audio_ms = round(self._speech.frames * FRAME_S * 1000) if self._speech is not None else 0
        usage = Usage(self._input_tokens, self._evaluated, len(self._written.ids), audio_ms)
        self._put(ReplyEnd(self.generation, reason, usage, error))
