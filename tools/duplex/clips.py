"""The recorded and made sounds that conversations are built of, and which of them are kept for the final report."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from omni_rt.client.speech import UnreadableFile, read_speech
from omni_rt.engine.api import INPUT_RATE, Pcm
from tools.duplex.made import MAKERS
from tools.duplex.truth import active_level, bounds

FOLDER = Path(__file__).parents[2] / "tests" / "data" / "duplex"
LIST = "clips.json"

Kind = Literal["turn", "answer", "interruption", "backchannel", "cough", "typing"]

# A person near the microphone, root mean square out of 32768: 26 dB below full scale.
SPEECH_LEVEL = 1640.0
# dB against that; people say "mm-hm" more softly than they speak.
_LOUDNESS = {"turn": 0.0, "answer": 0.0, "interruption": 0.0, "backchannel": -4.0, "cough": 0.0, "typing": -10.0}
_MS = INPUT_RATE // 1000


@dataclass(frozen=True, slots=True)
class Clip:
    """16 kHz sound at the level it is played at. It sounds from sample `onset` to `offset`; a pause may be put at
    `splits`. `made` is not a recording of a person."""

    name: str
    kind: Kind
    pcm: Pcm
    onset: int
    offset: int
    words: str = ""
    splits: tuple[int, ...] = ()
    made: bool = False
    source: str = ""


def read_clips(folder: Path = FOLDER) -> list[Clip]:
    """The clips that `clips.json` of the folder names. Raises UnreadableFile."""
    path = folder / LIST
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        return [_read(folder, entry) for entry in listed]
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"cannot read {path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFile(f"{path} is no list of clips: {error!r}") from error


def held_out(clips: Iterable[Clip]) -> list[Clip]:
    """A third of the clips, for the final report only: of each kind, recorded and made apart, in the order of the
    SHA-256 of their names, the 2nd, 5th, 8th and so on. Nothing may be tuned on them."""
    groups: dict[tuple[str, bool], list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.kind, clip.made].append(clip)
    return [clip for group in groups.values() for clip in sorted(group, key=_digest)[1::3]]


def for_tuning(clips: Sequence[Clip]) -> list[Clip]:
    """All that are not held out."""
    kept = {clip.name for clip in held_out(clips)}
    return [clip for clip in clips if clip.name not in kept]


def _digest(clip: Clip) -> str:
    return hashlib.sha256(clip.name.encode()).hexdigest()


def _read(folder: Path, entry: dict[str, Any]) -> Clip:
    scheme, _, rest = entry["file"].partition(":")
    if scheme == "made":
        maker, _, seed = rest.partition(":")
        pcm = MAKERS[maker](int(seed))
    else:
        pcm = read_speech(folder / entry["file"])
    found = bounds(pcm)
    onset = entry["onset_ms"] * _MS if "onset_ms" in entry else found[0]
    offset = entry["offset_ms"] * _MS if "offset_ms" in entry else found[1]
    kind: Kind = entry["kind"]
    gain = SPEECH_LEVEL * 10 ** (_LOUDNESS[kind] / 20) / active_level(pcm, onset, offset)
    return Clip(
        entry["name"],
        kind,
        np.clip(pcm * gain, -32768, 32767).astype(np.int16),
        onset,
        offset,
        entry.get("words", ""),
        tuple(at * _MS for at in entry.get("splits_ms", ())),
        entry["origin"] == "made",
        entry.get("source", ""),
    )
