"""From what became of everything to the rows of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from omni_rt.client.report import Row
from tools.duplex.analysis import Analysis
from tools.duplex.clips import Clip, held_out
from tools.duplex.outcomes import JUDGED_S, OverlapOutcome, TurnOutcome
from tools.duplex.policies import OURS, PEERS
from tools.duplex.recording import Event
from tools.duplex.scenes import PAUSES_S

# Silences up to here inside a turn are everybody's; the rate that has to be reached is of these.
_ORDINARY_PAUSE_S = 1.0
# A resumed reply is exact if no more of its voice was lost, and no more came twice.
_EXACT_MS = 60.0
_TURN = "input_audio_buffer.committed"
_NOISES = ("typing", "crowd")
_FEATURES = ("wait", "pause", "answer")


def rows_of(analyses: Sequence[Analysis]) -> list[Row]:
    """The server's rows, then those of the peers' policy, whose names begin with `policy_`. The `ratio` of a row is how
    many times the policy's p50 is ours."""
    ours = _rows([each for each in analyses if each.recording.policy == OURS.name])
    theirs = _rows([each for each in analyses if each.recording.policy == PEERS.name])
    if not theirs:
        return ours
    reference = {row.name: row for row in theirs}
    compared = [_compared(row, reference.get(row.name)) for row in ours]
    wait, policy = (next((row for row in rows if row.name == "wait"), None) for rows in (ours, theirs))
    ratio = []
    if wait is not None and policy is not None and wait.p50 and policy.p50:
        ratio = [Row("wait_ratio_to_policy", "ratio", min(wait.n, policy.n), value=round(wait.p50 / policy.p50, 3))]
    prefixed = [Row(f"policy_{r.name}", r.unit, r.n, r.p50, r.p90, r.p95, r.value) for r in theirs]
    return [*ratio, *compared, *prefixed]


def _compared(row: Row, reference: Row | None) -> Row:
    if reference is None or not row.p50 or not reference.p50:
        return row
    return Row(row.name, row.unit, row.n, row.p50, row.p90, row.p95, row.value, round(reference.p50 / row.p50, 3))


def _rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Rows of what was played; a group that was left out has none."""
    groups = {each.recording.group for each in analyses}
    rows: list[Row] = []
    if groups & set(_FEATURES):
        rows += _turn_rows([turn for each in _of(analyses, *_FEATURES) for turn in each.turns])
    if "answer" in groups:
        turns = [turn for each in _of(analyses, "answer") for turn in each.turns]
        rows.append(Row.of("wait_short_answer", "ms", _values(turns, lambda turn: turn.wait_ms)))
    if "interruption" in groups:
        rows += _interruption_rows(_of(analyses, "interruption"))
    rows += _kept_rows(analyses, groups)
    rows += _noise_rows(analyses, groups)
    if "echo" in groups:
        rows += _echo_rows(_of(analyses, "echo"))
    if "loss" in groups:
        rows += _loss_rows(_of(analyses, "loss"))
    return [*rows, *_whole_rows(analyses)] if analyses else rows


def _turn_rows(turns: Sequence[TurnOutcome]) -> list[Row]:
    ordinary = [turn for turn in turns if turn.said.pause_s <= _ORDINARY_PAUSE_S]
    paused = [turn for turn in ordinary if turn.said.pause_s]
    rows = [
        Row.of("wait", "ms", _values(turns, lambda turn: turn.wait_ms)),
        Row.of("speech_end_to_first_audio_sent", "ms", _values(turns, lambda turn: turn.first_audio_sent_ms)),
        Row.of("speech_end_to_first_sound_received", "ms", _values(turns, lambda turn: turn.first_sound_ms)),
        _rate("missed_turns", [turn.missed for turn in turns]),
    ]
    if paused:
        rows.append(_rate("cut_in_rate", [turn.cut_in for turn in paused]))
        rows.append(_rate("spoken_over_rate", [turn.spoken_over for turn in paused]))
    for pause_s in (0.0, *PAUSES_S):
        of_these = [turn.cut_in for turn in turns if turn.said.pause_s == pause_s]
        if of_these:
            rows.append(_rate(f"cut_in_rate_pause_{pause_s:g}s" if pause_s else "cut_in_rate_no_pause", of_these))
    return rows


def _interruption_rows(analyses: Sequence[Analysis]) -> list[Row]:
    overlaps = _judged(analyses, "interruption")
    return [
        _rate("interruption_obeyed", [not overlap.kept for overlap in overlaps]),
        Row.of("stop_time", "ms", [overlap.stop_ms for overlap in overlaps if overlap.stop_ms is not None]),
        Row.of("duck_time", "ms", [ms for each in analyses for ms in each.duck_ms if ms is not None]),
        Row("interruption_skipped", "count", len(overlaps), value=_skipped(analyses, "interruption")),
    ]


def _kept_rows(analyses: Sequence[Analysis], groups: Iterable[str]) -> list[Row]:
    """Backchannels and coughs together, and each by itself."""
    played = [kind for kind in ("backchannel", "cough") if kind in groups]
    if not played:
        return []
    kept = {kind: [overlap.kept for overlap in _judged(_of(analyses, kind), kind)] for kind in played}
    rows = [_rate("backchannel_kept", [each for kind in played for each in kept[kind]])]
    rows += [_rate("backchannel_kept_words" if kind == "backchannel" else "cough_kept", kept[kind]) for kind in played]
    if "backchannel" in played:
        recorded = [each for each in _judged(_of(analyses, "backchannel"), "backchannel") if not each.said.made]
        rows.append(_rate("backchannel_kept_recorded", [each.kept for each in recorded]))
    resumed = [each for analysis in _of(analyses, *played) for each in analysis.resumed]
    off = [float(words) for each in _of(analyses, *played) for over, words in each.words_off if over]
    return [
        *rows,
        Row("backchannel_skipped", "count", sum(map(len, kept.values())), value=_skipped(analyses, *played)),
        _rate("resume_exact", [max(each.lost_ms, each.repeated_ms) <= _EXACT_MS for each in resumed]),
        Row.of("resume_lost", "ms", [each.lost_ms for each in resumed]),
        Row.of("resume_repeated", "ms", [each.repeated_ms for each in resumed]),
        Row.of("resume_words_off", "words", off),
    ]


def _noise_rows(analyses: Sequence[Analysis], groups: Iterable[str]) -> list[Row]:
    """Per minute of noise over a sounding reply, and per minute of noise while nobody spoke."""
    noisy = [each for each in analyses if each.recording.group in _NOISES]
    if not noisy:
        return []
    stops, over_s, turns, answers, idle_s = 0, 0.0, 0, 0, 0.0
    for each in noisy:
        stops += sum(overlap.stopped and not overlap.resumed for overlap in each.overlaps)
        for overlap in each.overlaps:
            over_s += overlap.reply.sounding_seconds(overlap.said.onset, overlap.said.offset)
        for said in each.recording.said:
            if said.kind in _NOISES and not said.over:
                idle_s += said.offset - said.onset
                turns += _turns_between(each, said.onset, said.offset + JUDGED_S)
                answers += _answered_between(each, said.onset, said.offset + JUDGED_S)
    return [
        Row("false_interruptions_per_minute", "1/min", len(noisy), value=_per_minute(stops, over_s)),
        Row("noise_over_reply", "min", len(noisy), value=round(over_s / 60, 2)),
        Row("false_turns_per_minute", "1/min", len(noisy), value=_per_minute(turns, idle_s)),
        Row("false_replies_per_minute", "1/min", len(noisy), value=_per_minute(answers, idle_s)),
    ]


def _echo_rows(analyses: Sequence[Analysis]) -> list[Row]:
    """Replies that their own echo stopped, and turns that it was taken for."""
    interrupts = count = 0
    minutes = 0.0
    for each in analyses:
        stopped = sum(reply.cleared and not reply.hushed for reply in each.replies)
        turns = _turns_between(each, 0.0, each.recording.end)
        count += len(each.replies)
        minutes += sum(reply.sounding_seconds() for reply in each.replies) / 60
        # nobody speaks here: a turn is the echo's, and one that stopped a reply is not counted again
        interrupts += max(stopped, turns)
    return [
        Row("echo_interrupts", "count", count, value=interrupts),
        Row("echo_minutes", "min", count, value=round(minutes, 2)),
    ]


def _loss_rows(analyses: Sequence[Analysis]) -> list[Row]:
    turns = [turn for each in analyses for turn in each.turns]
    return [
        Row.of("loss_wait", "ms", _values(turns, lambda turn: turn.wait_ms)),
        _rate("loss_missed_turns", [turn.missed for turn in turns]),
        _rate("loss_interruption_obeyed", [not overlap.kept for overlap in _judged(analyses, "interruption")]),
        Row("loss_concealed", "ms", len(analyses), value=round(sum(each.concealed_ms for each in analyses))),
    ]


def _whole_rows(analyses: Sequence[Analysis]) -> list[Row]:
    errors = [float(error) for each in analyses for error in each.heard_text_errors]
    holes = sum(each.holes for each in analyses if each.recording.group != "loss")
    ran_dry = sum(each.recording.underruns for each in analyses)
    faults = [bool(each.recording.fault) for each in analyses]
    count = sum(len(each.replies) for each in analyses)
    undisturbed = [float(words) for each in analyses for over, words in each.words_off if not over]
    rows = [("heard_text_error_words", errors), ("undisturbed_words_off", undisturbed)]
    return [
        *(Row.of(name, "words", measured) for name, measured in rows if measured),
        Row("glitches", "count", count, value=holes + ran_dry),
        _rate("broken_conversations", faults),
    ]


def details(analyses: Sequence[Analysis], every: Sequence[Clip], played: Sequence[Clip]) -> dict[str, Any]:
    """What the JSON says beside the rows: the clips, and each thing that was said with what became of it."""
    return {
        "clips": {
            "recorded": [clip.name for clip in played if not clip.made],
            "made": [clip.name for clip in played if clip.made],
            "kept_for_the_final_report": [clip.name for clip in held_out(every)],
        },
        "conversations": [_told(each) for each in analyses],
    }


def _told(analysis: Analysis) -> dict[str, Any]:
    return {
        "scene": analysis.recording.scene,
        "policy": analysis.recording.policy,
        "turns": [
            {
                "said": turn.said.name,
                "cut_in": turn.cut_in,
                "missed": turn.missed,
                "wait_ms": _rounded(turn.wait_ms),
                "first_audio_sent_ms": _rounded(turn.first_audio_sent_ms),
            }
            for turn in analysis.turns
        ],
        "overlaps": [
            {
                "said": overlap.said.name,
                "kept": overlap.kept,
                "duck_ms": _rounded(duck_ms),
                "stop_ms": _rounded(overlap.stop_ms),
            }
            for overlap, duck_ms in zip(analysis.overlaps, analysis.duck_ms, strict=True)
        ],
        "replies": [
            {"text": reply.text, "kept": reply.kept, "status": reply.status} for reply in analysis.replies
        ],
    }  # fmt: skip


def _of(analyses: Sequence[Analysis], *groups: str) -> list[Analysis]:
    return [each for each in analyses if each.recording.group in groups]


def _judged(analyses: Sequence[Analysis], kind: str) -> list[OverlapOutcome]:
    return [
        overlap
        for each in analyses
        for overlap in each.overlaps
        if overlap.said.kind == kind and not overlap.ended
    ]  # fmt: skip


def _skipped(analyses: Sequence[Analysis], *kinds: str) -> int:
    return sum(said.skipped and said.kind in kinds for each in analyses for said in each.recording.said)


def _turns_between(analysis: Analysis, begin: float, end: float) -> int:
    return sum(event.type == _TURN for event in _events_between(analysis, begin, end))


def _answered_between(analysis: Analysis, begin: float, end: float) -> int:
    """Turns after which a reply was begun that nothing typed asked for."""
    of_turn, count = False, 0
    for event in _events_between(analysis, begin, end):
        if event.type == "response.created":
            count += of_turn
        if event.type in (_TURN, "response.created") or _is_typed(event):
            of_turn = event.type == _TURN
    return count


def _is_typed(event: Event) -> bool:
    item = event.body["item"] if event.type == "conversation.item.added" else {}
    return item.get("role") == "user" and any(part["type"] == "input_text" for part in item["content"])


def _events_between(analysis: Analysis, begin: float, end: float) -> Iterator[Event]:
    return (event for event in analysis.recording.events if begin <= event.at <= end)


def _values(turns: Sequence[TurnOutcome], of: Callable[[TurnOutcome], float | None]) -> list[float]:
    return [value for turn in turns if (value := of(turn)) is not None]


def _rate(name: str, happened: Sequence[bool]) -> Row:
    return Row(name, "share", len(happened), value=round(sum(happened) / len(happened), 4) if happened else None)


def _per_minute(count: int, seconds: float) -> float | None:
    return round(count * 60 / seconds, 3) if seconds else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
