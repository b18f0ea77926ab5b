"""A conversation as a picture: both voices over time, what was said on purpose, and what the server made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omni_rt.engine.api import INPUT_RATE, Pcm
from tools.duplex.analysis import Analysis
from tools.duplex.outcomes import OverlapOutcome, TurnOutcome
from tools.duplex.recording import Event, Said
from tools.plot_engine import DIM, INK, MISSED, OURS, PALE, WIDTH, Drawing

LINE_S = 16.0
_LEFT, _RIGHT = 84.0, WIDTH - 16.0
_LANE = 30.0
_HEIGHT = 168.0
_ABOUT_PX = 2
_TRUE, _OVER, _CUT = "#2f855a", "#b7791f", "#c53030"

_MARKS = {
    "input_audio_buffer.speech_started": ("speech", _TRUE),
    "input_audio_buffer.committed": ("turn decided", INK),
    "output_audio_buffer.started": ("reply", OURS),
    "output_audio_buffer.stopped": ("reply ends", OURS),
    "output_audio_buffer.cleared": ("reply stopped", _CUT),
}


def picture(analysis: Analysis) -> str:
    """SVG; a line holds 16 s."""
    recording = analysis.recording
    drawing = Drawing()
    drawing.text(24, 30, f"{recording.scene}, {recording.policy}", size=18, bold=True)
    drawing.text(24, 48, _legend(), size=10, fill=DIM)
    drawing.y = 60
    you, assistant = recording.channels()
    scale = max(1.0, float(np.max(np.abs(you.astype(np.int32)), initial=1))), max(
        1.0, float(np.max(np.abs(assistant.astype(np.int32)), initial=1))
    )  # fmt: skip
    for number in range(int(recording.end // LINE_S) + 1):
        _line(drawing, analysis, number * LINE_S, (you, assistant), scale)
    if recording.fault:
        drawing.text(24, drawing.y + 12, recording.fault, fill=_CUT)
        drawing.y += 20
    return drawing.svg()


def _legend() -> str:
    return (
        "green: what was said in the user's own time; ochre: over a reply; "
        "ms: from the true end of speech until the turn was decided, or from the onset until the reply was silent"
    )


def _line(
    drawing: Drawing, analysis: Analysis, begin: float, channels: tuple[Pcm, Pcm], scale: tuple[float, float]
) -> None:
    top = drawing.y
    end = begin + LINE_S
    for second in range(round(begin), round(end) + 1):
        x = _x(second, begin)
        drawing.line((x, top + 18), (x, top + 152), stroke=PALE)
        if not second % 2:
            drawing.text(x, top + 164, f"{second} s", size=9, anchor="middle", fill=DIM)
    for lane, (name, pcm, loud, colour) in enumerate(
        (("you", channels[0], scale[0], _TRUE), ("assistant", channels[1], scale[1], OURS))
    ):
        middle = top + 56 + lane * 66
        drawing.text(_LEFT - 8, middle + 4, name, anchor="end", size=11)
        _wave(drawing, pcm, loud, begin, middle, colour)
    for said in analysis.recording.said:
        _said(drawing, said, begin, end, top)
    _events(drawing, analysis.recording.events, begin, end, top)
    _judgements(drawing, analysis.turns, analysis.overlaps, begin, end, top)
    drawing.y = top + _HEIGHT


def _wave(drawing: Drawing, pcm: Pcm, loud: float, begin: float, middle: float, colour: str) -> None:
    columns = int((_RIGHT - _LEFT) / _ABOUT_PX)
    points: list[tuple[float, float]] = []
    for column in range(columns):
        at = round((begin + column * LINE_S / columns) * INPUT_RATE)
        part = pcm[at : at + round(LINE_S / columns * INPUT_RATE)]
        if not len(part):
            break
        height = float(np.max(np.abs(part.astype(np.int32)))) / loud * _LANE
        x = _LEFT + column * _ABOUT_PX
        points += [(x, middle - height), (x, middle + height)]
    drawing.line(*points, stroke=colour, width=_ABOUT_PX * 0.8)


def _said(drawing: Drawing, said: Said, begin: float, end: float, top: float) -> None:
    colour = _OVER if said.over else _TRUE
    for first, last in said.spans:
        if last < begin or first > end or said.skipped:
            continue
        left, right = _x(max(first, begin), begin), _x(min(last, end), begin)
        drawing.box(left, top + 20, right - left, 5, colour, f"{said.name}: {first:.2f} to {last:.2f} s")
    if begin <= said.onset < end:
        drawing.text(_x(said.onset, begin), top + 15, f"{said.name}{' (skipped)' if said.skipped else ''}", size=9)


def _events(drawing: Drawing, events: Sequence[Event], begin: float, end: float, top: float) -> None:
    for event in events:
        if event.type in _MARKS and begin <= event.at < end:
            name, colour = _MARKS[event.type]
            x = _x(event.at, begin)
            high = event.type.startswith("input")
            drawing.line((x, top + (28 if high else 92)), (x, top + (86 if high else 152)), stroke=colour, width=1.4)
            drawing.text(x + 2, top + (85 if high else 151), name, size=8, fill=colour)


def _judgements(
    drawing: Drawing,
    turns: Sequence[TurnOutcome],
    overlaps: Sequence[OverlapOutcome],
    begin: float,
    end: float,
    top: float,
) -> None:
    for turn in turns:
        if begin <= turn.said.offset < end:
            told = "missed" if turn.missed else "cut in" if turn.cut_in else ""
            if turn.wait_ms is not None:
                told = f"{turn.wait_ms:.0f} ms"
            drawing.text(_x(turn.said.offset, begin) + 2, top + 35, told, size=9, bold=turn.cut_in or turn.missed,
                         fill=MISSED if turn.cut_in or turn.missed else INK)  # fmt: skip
    for overlap in overlaps:
        if begin <= overlap.said.onset < end:
            told = "kept" if overlap.kept else f"stopped {overlap.stop_ms or 0:.0f} ms"
            drawing.text(_x(overlap.said.onset, begin) + 2, top + 35, told, size=9, fill=_OVER)


def _x(at: float, begin: float) -> float:
    return _LEFT + (at - begin) / LINE_S * (_RIGHT - _LEFT)
