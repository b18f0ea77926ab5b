"""Carries out client events on a session, one after the other."""

from __future__ import annotations

import asyncio
import logging

from omni_rt.core.conversation import Item, Speech, Text, UnknownItem
from omni_rt.engine.api import ContextItem
from omni_rt.realtime.client_events import (
    AnyEvent,
    AudioAppend,
    AudioClear,
    AudioCommit,
    ImageAppend,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    OutputClear,
    ResponseCancel,
    ResponseCreate,
    SessionUpdate,
    Translate,
    parse,
)
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.item_models import AnyItem, InputItem, ItemReference, MessageItem
from omni_rt.realtime.item_sizes import check_size
from omni_rt.realtime.items import decode_item, encode_item
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import check_track_formats, merge
from omni_rt.realtime.wire_audio import AudioDecoder
from omni_rt.realtime.writer import new_id
from omni_rt.session.image_buffer import ImageBuffer
from omni_rt.session.policy import duplex_policy, engine_settings
from omni_rt.session.session import Session

log = logging.getLogger(__name__)

# Less audio than this is no utterance.
MIN_COMMIT_MS = 100
# Longest stretch of audio that enters the session at once, so that an upload does not hold the event loop.
APPEND_STEP_S = 1
# Longest event that is read on the event loop; that takes a few milliseconds.
LARGE_EVENT = 2**16


async def read_events(session: Session, translate: Translate | None = None) -> None:
    """Consume a session's client events until cancelled; whatever is wrong with one costs only that one.

    `translate` makes them ours where the client speaks another protocol; what it raises beside WireError ends this.
    """
    commands = _Commands(session)
    while True:
        raw = await session.inbox.take()
        try:
            event = await _parse(raw, session.settings.server.max_event_bytes, translate)
        except WireError as error:
            session.events.error(error)
            continue
        try:
            await commands.do(event)
        except WireError as error:
            error.event_id = event.event_id
            session.events.error(error)
        except UnknownItem as error:
            session.events.error(
                WireError(_no_such_item(event), f"There is no item {error.args[0]!r}.", "item_id", event.event_id)
            )
        except Exception as error:
            log.exception("session %s: %s failed", session.id, event.type)
            session.events.error(
                WireError("internal", f"The server failed: {error}.", None, event.event_id, "server_error")
            )


async def _parse(raw: str | bytes, max_bytes: int, translate: Translate | None) -> AnyEvent:
    """Off the event loop where there is much to read."""
    if len(raw) < LARGE_EVENT:
        return parse(raw, max_bytes, translate)
    return await asyncio.to_thread(parse, raw, max_bytes, translate)


def _no_such_item(event: AnyEvent) -> str:
    """Pipecat knows by the code that a retrieval failed; any other error ends its session."""
    return "item_retrieve_invalid_item_id" if isinstance(event, ItemRetrieve) else "item_not_found"


class _Commands:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._decoder = AudioDecoder(session.wire.audio.input.format)
        self._images = ImageBuffer(session.settings.media, session.on_frame)

    async def do(self, event: AnyEvent) -> None:
        match event:
            case SessionUpdate():
                self._update(event)
            case AudioAppend():
                await self._append(event)
            case AudioCommit():
                self._commit()
            case AudioClear():
                self._session.act(self._session.duplex.clear_by_client())
                self._session.events.emit("input_audio_buffer.cleared")
            case ImageAppend():
                await self._append_image(event)
            case OutputClear():
                self._clear_output()
            case ItemCreate():
                await self._create_item(event)
            case ItemRetrieve():
                item = self._session.conversation.get(event.item_id)
                self._session.events.emit("conversation.item.retrieved", item=encode_item(item))
            case ItemDelete():
                self._session.conversation.remove(event.item_id)
                self._session.replies.deleted(event.item_id)
                self._session.rebuild_context()
                self._session.events.item_deleted(event.item_id)
            case ItemTruncate():
                self._truncate(event)
            case ResponseCreate():
                await self._create_response(event)
            case ResponseCancel():
                self._cancel(event)

    def _update(self, event: SessionUpdate) -> None:
        session = self._session
        wire = merge(session.wire, event.session, session.capabilities)
        if self._has_track:
            check_track_formats(wire)
        if session.replies.spoke and wire.voice != session.wire.voice:
            raise WireError(
                "cannot_update_voice", "The voice is fixed once it was heard.", "session.audio.output.voice"
            )
        before, session.wire = session.wire, wire
        if wire.audio.input.format != self._decoder.form:
            self._decoder = AudioDecoder(wire.audio.input.format)
        if engine_settings(wire) != engine_settings(before) and session.link.session is not None:
            session.link.session.configure(engine_settings(wire))
        policy = duplex_policy(wire, session.settings.turn, session.capabilities)
        session.act(session.duplex.set_policy(policy))
        session.events.session("session.updated", wire)

    def _clear_output(self) -> None:
        if not self._has_track:
            raise WireError(
                "unsupported",
                "Over WebSocket the client has the audio and stops playing it by itself; response.cancel ends a reply.",
                "type",
            )
        self._session.act(self._session.duplex.clear_output())

    async def _append(self, event: AudioAppend) -> None:
        if self._has_track:
            raise WireError("unsupported", "In a WebRTC call sound comes by an audio track.", "type")
        limits, decoder = self._session.settings.server, self._decoder
        size = len(event.audio) * 3 // 4
        if size > limits.max_append_bytes:
            raise WireError(
                "append_too_large",
                f"'audio' has some {size} bytes of sound; one append may have {limits.max_append_bytes} "
                "(server.max_append_bytes). Send it in shorter pieces.",
                "audio",
            )
        samples = decoder.samples(event.audio, "audio")
        self._check_buffer(len(samples) / decoder.rate)
        step = APPEND_STEP_S * decoder.rate
        for start in range(0, len(samples), step):
            self._session.on_audio(decoder.feed(samples[start : start + step]), False)
            await asyncio.sleep(0)

    def _check_buffer(self, coming_s: float) -> None:
        """Where only the client ends an utterance, what is in the buffer stays as it is until it does."""
        session, limit = self._session, self._session.settings.server.max_buffered_audio_s
        waiting_s = session.utterance_ms / 1000
        if session.duplex.policy.turns is None and waiting_s + coming_s > limit:
            raise WireError(
                "input_audio_buffer_full",
                f"{waiting_s:.1f} s of sound wait for a commit and this append has {coming_s:.1f} s; {limit} s may "
                "wait (server.max_buffered_audio_s). Commit or clear the buffer first.",
                "audio",
            )

    def _check_room(self) -> None:
        """Raises WireError where the conversation has as many items as it may."""
        count, limit = len(self._session.conversation), self._session.settings.server.max_items
        if count >= limit:
            raise WireError(
                "too_many_items",
                f"The conversation has {count} items; it may have {limit} (server.max_items). Delete some first.",
            )

    async def _append_image(self, event: ImageAppend) -> None:
        if self._has_track:
            raise WireError("unsupported", "In a WebRTC call pictures come by a video track.", "type")
        if not self._session.capabilities.image_input:
            name = self._session.capabilities.name
            raise WireError("unsupported", f"The engine {name!r} does not look at pictures.", "type")
        await self._images.append(event.image)

    def _commit(self) -> None:
        session = self._session
        if session.utterance_ms < MIN_COMMIT_MS:
            raise WireError(
                "input_audio_buffer_commit_empty",
                f"There are {session.utterance_ms} ms of speech in the buffer; a commit needs {MIN_COMMIT_MS}.",
            )
        session.act(session.duplex.commit_by_client(session.now_ms))

    async def _create_item(self, event: ItemCreate) -> None:
        session = self._session
        self._check_room()
        item = await self._decode(event.item, "item")
        at_end = event.previous_item_id in (None, session.conversation.last_id())
        try:
            previous = session.conversation.add(item, event.previous_item_id)
        except ValueError as error:
            raise WireError("item_create_duplicate_item_id", f"{error}.", "item.id") from error
        if at_end:
            self._append_to_context(item)
        else:
            self._session.rebuild_context()
        session.events.item(item, previous)

    @property
    def _has_track(self) -> bool:
        transport = self._session.transport
        return transport is not None and transport.server_plays

    async def _decode(self, item: AnyItem, path: str) -> Item:
        """Off the event loop where there is sound or a picture. Raises WireError naming the field, within `path`."""
        check_size(item, self._session.settings.server, path)
        given = item.id or new_id("item"), new_id("call"), self._session.wire.audio.input.format, path
        if isinstance(item, MessageItem) and any(part.type != "input_text" for part in item.content):
            return await asyncio.to_thread(decode_item, item, *given)
        return decode_item(item, *given)

    def _append_to_context(self, item: Item) -> None:
        engine = self._session.link.session
        if engine is None:
            return
        if item.kind == "function_call_output":
            engine.append_tool_result(item.result_of, item.output, item.id)
        elif item.kind == "message" and all(isinstance(part, Text) for part in item.parts):
            engine.append_text(item.text, item.role, item.id)
        else:
            self._session.rebuild_context()

    def _truncate(self, event: ItemTruncate) -> None:
        session = self._session
        if session.replies.is_unheard(event.item_id):
            return  # clients truncate whatever they played of; an error would end pipecat's session
        item = session.conversation.get(event.item_id)
        if not any(isinstance(part, Speech) for part in item.parts) or item.role != "assistant":
            raise WireError("invalid_value", "Only the assistant's spoken messages can be truncated.", "item_id")
        reply = session.replies.spoken(event.item_id)
        if session.replies.speaking_item == event.item_id:
            session.act(session.duplex.cancel_reply())
        if not reply.known:
            session.stop_for_new_context()
        session.replies.truncate(reply, event.audio_end_ms)

    async def _create_response(self, event: ResponseCreate) -> None:
        session = self._session
        params = event.response or ResponseParams()
        params.check(session.wire, session.capabilities, self._has_track)
        if params.out_of_band:
            items = session.conversation.context() if params.input is None else await self._own_input(params.input)
            session.side_replies.ask(params, session.wire, items, event.event_id)
            return
        if session.duplex.making:
            raise WireError(
                "conversation_already_has_active_response", "A response is being made; cancel it or wait for its end."
            )
        if session.asked is not None:
            raise WireError(
                "conversation_already_has_active_response",
                "A response was asked for and begins when what is being said has been said; wait for it.",
            )
        session.asked = params, event.event_id
        session.act(session.duplex.create_reply())

    async def _own_input(self, given: tuple[InputItem, ...]) -> tuple[ContextItem, ...]:
        """What a response out of band is made on. Raises WireError naming the field."""
        items: list[ContextItem] = []
        for number, item in enumerate(given):
            path = f"response.input.{number}"
            if not isinstance(item, ItemReference):
                items.append((await self._decode(item, path)).context())
            elif item.id in self._session.conversation:
                items.append(self._session.conversation.get(item.id).context())
            else:
                raise WireError("item_not_found", f"There is no item {item.id!r}.", f"{path}.id")
        return tuple(items)

    def _cancel(self, event: ResponseCancel) -> None:
        session = self._session
        if event.response_id is not None and session.side_replies.cancel(event.response_id):
            return
        active = session.replies.active_response
        if not session.duplex.making or (event.response_id is not None and event.response_id != active):
            # livekit's plugin looks for the words that OpenAI begins with, to pass over a cancel that came too late.
            raise WireError(
                "response_cancel_not_active", "Cancellation failed: no such response is being made.", "response_id"
            )
        session.act(session.duplex.cancel_reply())
