"""What the user said, once it is understood for good."""

from __future__ import annotations

from omni_rt.core.conversation import Conversation, Speech
from omni_rt.engine.api import Transcript
from omni_rt.realtime.errors import WireError
from omni_rt.realtime.writer import EventWriter


class Transcripts:
    """Writes transcripts into a conversation and tells the client of them."""

    def __init__(self, conversation: Conversation, events: EventWriter) -> None:
        self._conversation = conversation
        self._events = events
        self._told: set[str] = set()

    def take(self, transcript: Transcript, wanted: bool) -> None:
        """A final one, the first of its item; a client that wants none hears only why there is none."""
        if transcript.item_id not in self._conversation or transcript.item_id in self._told:
            return
        self._told.add(transcript.item_id)
        if transcript.error:
            error = WireError("transcription_failed", transcript.error, kind="server_error")
            if wanted:
                self._events.transcript_failed(transcript.item_id, error)
            else:
                self._events.error(error)
            return
        item = self._conversation.set_transcript(transcript.item_id, transcript.text)
        if wanted:
            seconds = sum(part.audio_ms for part in item.parts if isinstance(part, Speech)) / 1000
            self._events.transcript_done(item.id, transcript.text, seconds)
