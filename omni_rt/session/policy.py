"""From a session's wire settings and the server's own to the rules of the core."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omni_rt.config import TurnSettings
from omni_rt.core.duplex import DuplexPolicy
from omni_rt.core.overlap import OverlapPolicy
from omni_rt.core.turns import TurnPolicy
from omni_rt.core.window import CHARACTER, ITEM
from omni_rt.engine.api import Capabilities, SessionSettings
from omni_rt.realtime.response_params import ResponseParams
from omni_rt.realtime.settings import SemanticVad, ServerVad, WireSession, tools_of


@dataclass(frozen=True, slots=True)
class _Eagerness:
    """Factors on the server's patience and on how sure the end-of-turn score must be; `longest_ms` of silence are
    OpenAI's limit."""

    patience: float
    certainty: float
    longest_ms: int


_MEDIUM = _Eagerness(1.0, 1.0, 4000)
_EAGERNESS = {
    "low": _Eagerness(2.0, 1.4, 8000),
    "medium": _MEDIUM,
    "auto": _MEDIUM,
    "high": _Eagerness(0.5, 0.7, 2000),
}

# What a reply is told that is made because the user has been silent.
_SILENT_USER = (
    "The user has said nothing for a while. In one short sentence, and as it fits the conversation so far, ask whether "
    "they are still there or would like to go on."
)


def duplex_policy(session: WireSession, turn: TurnSettings, capabilities: Capabilities) -> DuplexPolicy:
    """`turn_detection: null` is push-to-talk. Words decide as far as the engine tells them."""
    detection = session.audio.input.turn_detection
    overlap = OverlapPolicy(turn.interrupt_ms, by_words=capabilities.overhears and turn.by_words, hold_ms=turn.hold_ms)
    if detection is None:
        return DuplexPolicy(None, overlap)
    return DuplexPolicy(
        replace(_turn_policy(detection, turn), words_ms=turn.words_ms if capabilities.judges_endings else 0),
        overlap,
        duck_threshold=turn.duck_threshold,
        create_reply=detection.create_response,
        interrupt_reply=detection.interrupt_response,
        idle_ms=_idle_ms(detection),
    )


def _idle_ms(detection: ServerVad | SemanticVad) -> int | None:
    """With neither `create_response` nor `interrupt_response` the server never answers by itself."""
    if isinstance(detection, SemanticVad) or not (detection.create_response or detection.interrupt_response):
        return None
    return detection.idle_timeout_ms


def idle_params(session: WireSession) -> ResponseParams:
    """Of the reply that breaks a silence."""
    instructions = "\n\n".join(part for part in (session.instructions, _SILENT_USER) if part)
    return ResponseParams().model_copy(update={"instructions": instructions})


def _turn_policy(detection: ServerVad | SemanticVad, turn: TurnSettings) -> TurnPolicy:
    if isinstance(detection, ServerVad):
        return TurnPolicy(
            threshold=turn.vad_threshold if detection.threshold is None else detection.threshold,
            onset_ms=turn.onset_ms,
            pre_roll_ms=turn.pre_roll_ms if detection.prefix_padding_ms is None else detection.prefix_padding_ms,
            check_silence_ms=turn.check_silence_ms,
            least_silence_ms=turn.least_silence_ms,
            complete_score=turn.complete_score,
            sure_score=turn.sure_score,
            silence_limit_ms=turn.silence_limit_ms,
            fixed_silence_ms=detection.silence_duration_ms,
            speculate_ms=turn.speculate_ms,
            brief_silence_ms=turn.brief_silence_ms,
        )
    eager = _EAGERNESS[detection.eagerness]
    return TurnPolicy(
        threshold=turn.vad_threshold,
        onset_ms=turn.onset_ms,
        pre_roll_ms=turn.pre_roll_ms,
        check_silence_ms=turn.check_silence_ms,
        least_silence_ms=turn.least_silence_ms,
        complete_score=min(0.95, turn.complete_score * eager.certainty),
        sure_score=turn.sure_score,
        silence_limit_ms=min(eager.longest_ms, round(turn.silence_limit_ms * eager.patience)),
        speculate_ms=turn.speculate_ms,
        brief_silence_ms=round(turn.brief_silence_ms * eager.patience),
    )


def engine_settings(session: WireSession) -> SessionSettings:
    transcription = session.audio.input.transcription
    return SessionSettings(
        instructions=session.instructions,
        tools=tools_of(session.tools),
        voice=session.voice,
        language=(transcription.language if transcription else None) or "",
    )


def fixed_weight(session: WireSession) -> float:
    """The estimate of the context's tokens that are no items: instructions and tools."""
    tools = sum(len(tool.model_dump_json()) for tool in session.tools)
    return ITEM + CHARACTER * (len(session.instructions) + tools)
