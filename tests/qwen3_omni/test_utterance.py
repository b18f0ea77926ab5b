"""What is said and shown in one turn: however it is fed, the turn's rows and positions are those of the whole."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch

from omni_rt.engine.api import INPUT_RATE, EngineError, Pcm, Rgb
from omni_rt.engine.qwen3_omni.context import Context, Turn
from omni_rt.engine.qwen3_omni.parts import Parts
from omni_rt.engine.qwen3_omni.positions import Interleave, PositionCounter
from omni_rt.engine.qwen3_omni.utterance import Utterance
from tests.qwen3_omni.small_engine import ids, parts, sound, tiny

pytestmark = pytest.mark.models

PER_SECOND = 13


class Said:
    """One utterance that is fed and worked on at random."""

    def __init__(self, seed: int, *, camera: bool = False, fps: float = 1.0, **settings: Any) -> None:
        settings = {"frame_tokens": 16, **settings}
        self.shared: Parts = parts(tiny(), tokens=128, frames_per_second=fps, **settings)
        self.rng = np.random.default_rng(seed)
        self.context: Context = self.shared.new_context()
        self.turn = Turn("user")
        self.context.turns.append(self.turn)
        self.utterance = Utterance(self.shared, self.context, self.turn, None, camera=camera)

    def feed(self, pcm: Pcm, *, frames_every_s: float | None = None) -> None:
        """In random parts; with a camera's frame, or an image, every so often."""
        start, shown = 0, 0
        while start < len(pcm):
            if frames_every_s is not None and start >= shown * frames_every_s * INPUT_RATE:
                self.utterance.show(self.frame(), camera=True)
                shown += 1
            end = start + int(self.rng.integers(1, INPUT_RATE))
            self.utterance.append(pcm[start:end])
            start = end
            if self.rng.random() < 0.8:
                self.work()

    def frame(self) -> Rgb:
        return self.rng.integers(0, 256, (96, 128, 3), np.uint8)

    def work(self) -> None:
        while self.utterance.due:
            self.utterance.work()

    def close(self) -> None:
        self.utterance.close()
        self.work()
        assert self.utterance.finished

    @property
    def ids(self) -> list[int]:
        return ids(self.context)

    @property
    def positions(self) -> np.ndarray:
        assert self.context.rows == len(self.turn)
        return np.concatenate([placed.positions() for placed in self.context._placed], axis=1)

    def features(self, pad: int) -> torch.Tensor:
        """Of all rows of one medium."""
        kept = [piece.features for piece in self.turn.pieces if piece.features is not None and pad in piece.ids]
        return torch.cat(kept)

    def heard_at_once(self, pcm: Pcm) -> torch.Tensor:
        stream = self.shared.audio_stream(None)
        stream.append(pcm)
        return stream.close().features


def in_runs(said: Said, counter: PositionCounter, grid: tuple[int, int]) -> np.ndarray:
    """The positions of rows in separate segments, all pictures of one size."""
    tokens = said.shared.spec.tokens
    places = []
    for token, run in groupby(said.ids, lambda token: token if token in (tokens.audio, tokens.image) else -1):
        n = len(list(run))
        match token:
            case tokens.audio:
                places.append(counter.audio(n))
            case tokens.image:
                assert n == grid[0] * grid[1]
                places.append(counter.image(*grid))
            case _:
                places.append(counter.text(n))
    return np.concatenate(places, axis=1)


@torch.inference_mode()
@pytest.mark.parametrize(("seed", "window_s"), [(1, 1), (2, 2), (3, 8)])
def test_separate_segments_hold_the_whole(seed: int, window_s: int) -> None:
    said = Said(seed, audio_window_s=window_s)
    tokens, pcm = said.shared.spec.tokens, sound(float(said.rng.uniform(12, 15)), seed)
    said.feed(pcm, frames_every_s=2.3)
    said.close()
    written = said.ids
    assert written.count(tokens.audio) == said.shared.audio_stream(None).tokens_for(len(pcm))
    torch.testing.assert_close(said.features(tokens.audio), said.heard_at_once(pcm), rtol=0, atol=1e-5)
    runs = [len(list(run)) for token, run in groupby(written) if token == tokens.audio]
    assert len(runs) > 1
    assert all(run % (PER_SECOND * window_s) == 0 for run in runs[:-1])
    assert written.count(tokens.audio_start) == written.count(tokens.audio_end) == len(runs)
    pictures = [piece for piece in said.turn.pieces if tokens.image in piece.ids]
    assert len(pictures) >= 4
    np.testing.assert_allclose(said.positions, in_runs(said, PositionCounter(PER_SECOND), (3, 4)), atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize(("seed", "fps", "window_s"), [(1, 1.0, 1), (2, 2.0, 8), (3, 1.3, 2), (4, 3.7, 1)])
def test_an_interleaved_segment_is_in_the_order_of_the_whole(seed: int, fps: float, window_s: int) -> None:
    said = Said(seed, camera=True, mix="interleaved", fps=fps, audio_window_s=window_s)
    tokens, prompt, pcm = said.shared.spec.tokens, said.shared.prompt, sound(float(said.rng.uniform(8.5, 11)), seed)
    said.feed(pcm, frames_every_s=1 / fps)
    said.close()
    audio, pairs = said.shared.audio_stream(None).tokens_for(len(pcm)), said.ids.count(tokens.video) // 12
    assert 0 <= -(-len(pcm) * fps // (2 * INPUT_RATE)) - pairs <= 1
    counter, written, places = PositionCounter(PER_SECOND), [*prompt.user_open, *prompt.av_open], []
    places.append(counter.text(len(written)))
    counter.audio_in_video()
    at = 0
    for part in Interleave(2 / fps, PER_SECOND).take(pairs, audio, closed=True):
        if part.kind == "audio":
            written += [tokens.audio] * part.count
            places.append(counter.audio(part.count))
        else:
            written += [tokens.video] * (12 * part.count)
            places.append(counter.video(part.count, 3, 4, 2 / fps, at))
            at += part.count
    closing = [*prompt.av_close, *prompt.user_close]
    assert said.ids == written + closing
    expected = np.concatenate([*places, counter.text(len(closing))], axis=1)
    np.testing.assert_allclose(said.positions, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(said.features(tokens.audio), said.heard_at_once(pcm), rtol=0, atol=1e-5)
    assert all(piece.deepstack is not None for piece in said.turn.pieces if tokens.video in piece.ids)


@torch.inference_mode()
@pytest.mark.parametrize("mix", ["separate", "interleaved"])
def test_a_late_loud_sound_revises_what_is_settled(mix: str) -> None:
    said = Said(5, camera=True, mix=mix, audio_window_s=8)
    pad = said.shared.spec.tokens.audio
    quiet, loud = sound(9, 1) // 200, sound(2, 2)
    said.feed(quiet, frames_every_s=1.0)
    said.work()
    before = said.features(pad)[: 8 * PER_SECOND]
    said.feed(loud * 4)
    said.close()
    after = said.features(pad)
    torch.testing.assert_close(after, said.heard_at_once(np.concatenate([quiet, loud * 4])), rtol=0, atol=1e-5)
    assert (after[: 8 * PER_SECOND] - before).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("mix", ["separate", "interleaved"])
def test_a_copy_goes_on_by_itself(mix: str) -> None:
    said, other = (Said(6, camera=True, mix=mix, audio_window_s=1) for _ in range(2))
    first, rest, another = sound(3.3, 1), sound(2.4, 2), sound(1.9, 3)
    for one in (said, other):
        one.feed(first, frames_every_s=1.0)
        one.work()
    state = said.rng.bit_generator.state
    turn = Turn("user")
    twin = said.utterance.copy(turn)
    assert [len(piece) for piece in turn.pieces] == [len(piece) for piece in said.turn.pieces]
    twin.append(another)
    twin.show(said.frame(), camera=True)
    twin.close()
    while twin.due:
        twin.work()
    said.rng.bit_generator.state = state
    for one in (said, other):
        one.feed(rest, frames_every_s=1.0)
        one.close()
    assert said.ids == other.ids
    pad = said.shared.spec.tokens.audio
    torch.testing.assert_close(said.features(pad), other.features(pad), rtol=0, atol=0)
    twins = [token for piece in turn.pieces for token in piece.ids]
    assert twins.count(pad) == said.shared.audio_stream(None).tokens_for(len(first) + len(another))


@torch.inference_mode()
@pytest.mark.parametrize("mix", ["separate", "interleaved"])
def test_pictures_end_with_their_budget_and_the_sound_goes_on(mix: str) -> None:
    said = Said(7, camera=True, mix=mix, audio_window_s=1, turn_frame_tokens=40)
    tokens, pcm = said.shared.spec.tokens, sound(11.0)
    said.feed(pcm, frames_every_s=1.0)
    said.close()
    pictures = sum(token in (tokens.image, tokens.video) for token in said.ids)
    assert 24 <= pictures <= 40
    assert said.ids.count(tokens.audio) == said.shared.audio_stream(None).tokens_for(len(pcm))
    torch.testing.assert_close(said.features(tokens.audio), said.heard_at_once(pcm), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_camera_can_be_shown_two_frames_at_a_time() -> None:
    said, pcm = Said(11, frame_pairs=True, audio_window_s=1), sound(8.3)
    said.feed(pcm, frames_every_s=1.0)
    said.close()
    tokens = said.shared.spec.tokens
    # Nine frames at most, in pairs; the last may stand alone.
    assert said.ids.count(tokens.video) in (36, 48, 60)
    assert tokens.image not in said.ids
    assert said.ids.count(tokens.vision_start) == said.ids.count(tokens.video) // 12
    torch.testing.assert_close(said.features(tokens.audio), said.heard_at_once(pcm), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_what_was_not_said_is_no_turn() -> None:
    said = Said(8)
    said.utterance.append(sound(0.01))
    said.close()
    assert not said.ids
    assert not said.utterance.audio_tokens


@torch.inference_mode()
def test_words_stand_behind_what_was_shown() -> None:
    said = Said(9)
    said.utterance.show(said.frame(), camera=False)
    said.utterance.show(said.frame(), camera=False)
    said.utterance.write("What is this?")
    said.close()
    prompt, tokens = said.shared.prompt, said.shared.spec.tokens
    picture = [*prompt.vision_open, *[tokens.image] * 12, *prompt.vision_close]
    words = said.shared.tokenizer.encode("What is this?")
    assert said.ids == [*prompt.user_open, *picture, *picture, *words, *prompt.user_close]


@torch.inference_mode()
def test_bad_sound_is_refused_and_leaves_the_utterance_as_it_was() -> None:
    said = Said(10)
    said.feed(sound(1.0))
    with pytest.raises(EngineError):
        said.utterance.append(np.full(160, np.nan, np.float32))
    said.close()
    assert said.ids.count(said.shared.spec.tokens.audio) == PER_SECOND
