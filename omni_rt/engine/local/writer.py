"""Writes a session's replies: text from the chat model, speech by clause, tool calls."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from omni_rt.core.stop_phrases import is_stop_phrase
from omni_rt.engine.api import Ending, EngineError, SessionSettings, Tool
from omni_rt.engine.local.chat import PREFILL_TOKENS, Begun, Piece, Sampling, Written
from omni_rt.engine.local.clauses import ClauseCutter
from omni_rt.engine.local.context import Context, Turn
from omni_rt.engine.local.parts import Parts
from omni_rt.engine.local.priorities import Work
from omni_rt.engine.local.prompt import override_text
from omni_rt.engine.local.reply import Reply
from omni_rt.engine.local.slot import Slot
from omni_rt.engine.local.tools import PROBE_SIGN, CallReader, grammar, probe
from omni_rt.engine.local.tts import SILENT
from omni_rt.engine.schema.shapes import SchemaRefused
from omni_rt.engine.tool_schema import UnenforceableTool

# When the context is full, so much of it is kept.
_KEPT_SHARE = 0.5


class Writer:
    """`settings` are the session's; who owns the session keeps them up to date. `on_ending` is told of what is answered
    where a reply asks for it."""

    def __init__(self, parts: Parts, slot: Slot, context: Context, on_ending: Callable[[Ending], None]) -> None:
        self.settings = SessionSettings()
        self._on_ending = on_ending
        self._parts = parts
        self._slot = slot
        self._context = context
        self._checked: Sequence[Tool] = ()

    async def answer(self, reply: Reply) -> None:
        """Make the whole reply. Raises EngineError."""
        if self._to_be_quiet(reply):
            reply.end("completed")
            return
        speaker = _Speaker(self._parts, self.settings.voice, reply)
        try:
            with self._parts.priorities.reply():
                judged = not reply.options.judge_ending or await self._tell_ending(reply)
                async with self._slot.lock:
                    if not judged:
                        await self._judge_ending(reply)
                    end = await self._write(reply, speaker)
            await speaker.finish()
        finally:
            speaker.close()
        reply.end("completed" if end.reason == "stop" else "max_tokens")

    async def make_room(self, tokens: int) -> None:
        """Let the oldest exchanges leave if `tokens` more do not fit into the context."""
        used, limit = len(await self._context.ids()), self._parts.chat.context_tokens
        if used + tokens <= limit or self._context.least() + tokens > limit:
            return
        if self._context.leave(used - int(limit * _KEPT_SHARE)):
            self._slot.dropped()

    def _to_be_quiet(self, reply: Reply) -> bool:
        """Whether the user said nothing, or nothing but that the assistant stop; then silence is the answer, unless the
        reply has instructions of its own."""
        last, options = self._context.before(reply.turn), reply.options
        if last is None or last.role != "user" or options.tool_choice not in ("auto", "none") or options.instructions:
            return False
        return not last.shown or is_stop_phrase(last.said, self.settings.language)

    async def _write(self, reply: Reply, speaker: _Speaker) -> Written:
        options, defaults = reply.options, self._parts.settings
        tools = self.settings.tools if options.tools is None else options.tools
        rules = grammar(tools, options.tool_choice)
        most = options.max_tokens or defaults.max_reply_tokens
        override = Turn("system", pending=override_text(options, self.settings))
        await self.make_room(min(most, defaults.max_reply_tokens))
        prompt = await self._context.ids(override, until=reply.turn)
        prompt += self._context.marks.assistant
        room = self._parts.chat.context_tokens - len(prompt)
        if room < PREFILL_TOKENS:
            raise EngineError(
                "context_full",
                f"the conversation is {len(prompt)} tokens long with its last turn, the context holds "
                f"{self._parts.chat.context_tokens}; say less at once, or raise local.context_tokens",
            )
        reply.prompt_tokens = len(prompt)
        while self._slot.missing(prompt) > PREFILL_TOKENS:
            reply.evaluated_tokens += await self._slot.advance(prompt)
        chosen = (options.temperature, self.settings.temperature, defaults.temperature)
        temperature = next(value for value in chosen if value is not None)
        if tools and tools != self._checked:
            await self._check(tools, prompt)
        watching = options.tool_choice == "auto"
        reader = CallReader(tools, self._context.answered(until=reply.turn) if watching else (), watching)
        sampling = Sampling(min(most, room), temperature, rules)
        end = await self._run(reply, speaker, prompt, sampling, reader)
        if reader.explained or reader.repeated:
            reply.start_over()
            rules = grammar(tools, reader.explained or "none")
            reader = CallReader(tools, watching=False)
            end = await self._run(reply, speaker, prompt, replace(sampling, grammar=rules), reader)
        speaker.say(reader.flush())
        if reader.unfinished and end.reason == "stop":
            raise EngineError("bad_tool", "the model began a tool call that fits none of the tools' schemas")
        return end

    async def _tell_ending(self, reply: Reply) -> bool:
        """Tell how likely the user's last words are all of a sentence, if that is known or cannot be."""
        last = self._context.before(reply.turn)
        if last is None or last.role != "user" or not last.said:
            return True
        probability = self._slot.ending(await self._context.unended(last))
        if probability is not None:
            self._on_ending(Ending(last.item_id, probability))
        return probability is not None

    async def _judge_ending(self, reply: Reply) -> None:
        """Find it out on the way to the whole prompt."""
        await self.make_room(self._parts.settings.max_reply_tokens)
        while not await self._tell_ending(reply):
            words = await self._context.unended(self._context.shown(until=reply.turn)[-1])
            if len(words) >= self._parts.chat.context_tokens:
                return
            reply.evaluated_tokens += await self._slot.advance(words, judge=self._context.marks.end)

    async def _check(self, tools: Sequence[Tool], prompt: list[int]) -> None:
        """Raises EngineError for a tool whose schema cannot be enforced: the grammar engine does not say so, it lets
        the model write anything."""
        for number, tool in enumerate(tools):
            sampling = Sampling(1, 0.0, probe(tool))
            async with aclosing(self._parts.chat.write(self._slot.number, prompt, sampling)) as writing:
                begun = [step.text async for step in writing if isinstance(step, Piece)]
            if not "".join(begun).startswith(PROBE_SIGN):
                fault = SchemaRefused("", "nothing is valid by this schema, or it is too large")
                raise UnenforceableTool(number, tool, fault)
        self._slot.cached = list(prompt)
        self._checked = tools

    async def _run(
        self, reply: Reply, speaker: _Speaker, prompt: list[int], sampling: Sampling, reader: CallReader
    ) -> Written:
        """Let the model write until it ends, explains a tool instead of calling it, or calls one again."""
        known = prompt[: len(prompt) - self._slot.missing(prompt)]
        ids: list[int] = []
        writing = self._parts.chat.write(self._slot.number, prompt, sampling)
        try:
            async for step in writing:
                if isinstance(step, Written):
                    return step
                if isinstance(step, Begun):
                    known = prompt
                    reply.evaluated_tokens += step.evaluated
                    continue
                ids += step.ids
                told = len(reader.calls)
                speech = reader.feed(step.text)
                reply.wrote(step.text, step.ids, reader.calling)
                if reader.explained or reader.repeated:
                    break
                speaker.say(speech)
                for name, arguments in reader.calls[told:]:
                    reply.call(f"call_{secrets.token_hex(8)}", name, arguments)
        finally:
            # the last token was chosen, but not read by the model
            self._slot.cached = [*known, *ids[:-1]]
            await writing.aclose()
        return Written("stop")


class _Speaker:
    """Tells a reply's text as it comes and says it clause by clause, while the text goes on."""

    def __init__(self, parts: Parts, voice: str, reply: Reply) -> None:
        self._parts = parts
        self._voice = voice
        self._reply = reply
        self._cutter = ClauseCutter()
        self._clauses: asyncio.Queue[str | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._speak()) if reply.options.audio else None

    def say(self, text: str) -> None:
        """Raises EngineError when the voice has failed on something said before."""
        if not text:
            return
        self._reply.say(text)
        if self._task is not None:
            if self._task.done():
                self._task.result()
            for clause in self._cutter.feed(text):
                self._clauses.put_nowait(clause)

    async def finish(self) -> None:
        """Wait until all is said."""
        if self._task is not None:
            for clause in self._cutter.flush():
                self._clauses.put_nowait(clause)
            self._clauses.put_nowait(None)
            await self._task

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _speak(self) -> None:
        text = ""
        while (clause := await self._clauses.get()) is not None:
            text += clause
            speak = partial(self._parts.voices.speak, self._voice, text)
            try:
                speech = await self._parts.priorities.run(Work.SPEECH, lambda speak=speak: speak)  # type: ignore[misc]
            except EngineError:
                raise
            except Exception as error:
                raise EngineError("voice_failed", f"the reply could not be spoken: {error}") from error
            if len(speech.pcm):
                self._reply.speak(text, speech)
                text = ""
        if text:
            self._reply.speak(text, SILENT)
