"""The benchmark of turn-taking: its script falls on exact times, its measures find what is known to be there."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from omni_rt.client.report import Row
from omni_rt.config import load
from omni_rt.engine.api import INPUT_RATE, OUTPUT_RATE, Pcm
from omni_rt.realtime.settings import WireSession
from omni_rt.session.policy import duplex_policy
from omni_rt.transport.caller import Arrival
from tests.support.scripted import ScriptedEngine
from tools.duplex.analysis import Analysis, analyse
from tools.duplex.clips import FOLDER, LIST, SPEECH_LEVEL, Clip, for_tuning, held_out, read_clips
from tools.duplex.echo import DELAY_S, Echo
from tools.duplex.heard_words import heard_text_error, words_covered
from tools.duplex.microphone import FRAME, ROOM_LEVEL, ScriptedMicrophone, time_of
from tools.duplex.policies import OURS, PEERS
from tools.duplex.recording import FORGOT, HUSHED, Event, Recording, Said
from tools.duplex.replies import HeardReply, replies
from tools.duplex.rows import rows_of
from tools.duplex.scenes import GROUPS, PAUSES_S, scenes
from tools.duplex.sounds import Sound, crowd, whole, with_pause
from tools.duplex.timeline import picture
from tools.duplex.truth import active_level, bounds

PACKET = OUTPUT_RATE // 50
WORDS = ["once", "upon", "a", "time", "there", "was", "a", "fox", "that", "could", "not", "swim"]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return read_clips()


def tone(seconds: float, level: float = 4000.0, rate: int = OUTPUT_RATE) -> Pcm:
    return (level * np.sin(2 * np.pi * 220 * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


# -- the clips and their split


def test_the_clips_kept_for_the_final_report_are_these(clips: list[Clip]) -> None:
    """A change of this list lets clips that something was tuned on into the final report."""
    assert sorted(clip.name for clip in held_out(clips)) == [
        "be_quiet_awb", "be_quiet_slt", "call_later", "card1", "circuits", "cough_1", "cough_3", "goforward",
        "lv_0920", "lv_0930", "mm_hm_2", "monday", "not_answering", "oh", "okay_rms", "okay_slt", "pause", "seven",
        "typing", "wait_awb", "wait_slt", "weasels", "yeah_rms", "yeah_slt", "yes_slt", "yesterday",
    ]  # fmt: skip


def test_a_third_of_the_clips_of_each_kind_is_kept(clips: list[Clip]) -> None:
    kept, tuned = held_out(clips), for_tuning(clips)
    assert {clip.name for clip in kept} | {clip.name for clip in tuned} == {clip.name for clip in clips}
    assert len(kept) + len(tuned) == len(clips)
    for kind in {clip.kind for clip in clips}:
        of_kind = [sum(clip.kind == kind for clip in some) for some in (kept, clips)]
        assert abs(of_kind[0] - of_kind[1] / 3) <= 1, kind


def test_listed_times_are_those_of_the_energy_but_where_they_were_corrected(clips: list[Clip]) -> None:
    listed = {entry["name"]: entry for entry in json.loads((FOLDER / LIST).read_text("utf-8"))}
    for clip in clips:
        if listed[clip.name].get("by") != "hand":
            onset, offset = bounds(clip.pcm)
            assert abs(onset - clip.onset) <= INPUT_RATE // 50, clip.name
            assert abs(offset - clip.offset) <= INPUT_RATE // 50, clip.name


def test_speech_is_played_at_one_level(clips: list[Clip]) -> None:
    for clip in clips:
        if clip.kind == "turn":
            assert active_level(clip.pcm, clip.onset, clip.offset) == pytest.approx(SPEECH_LEVEL, rel=0.05), clip.name


def test_the_bounds_of_a_sound_in_noise() -> None:
    pcm = np.random.default_rng(0).normal(0, 5, 2 * INPUT_RATE)
    pcm[8000:20000] += tone(0.75, rate=INPUT_RATE)
    pcm[30000] = 9000  # a click
    onset, offset = bounds(pcm.astype(np.int16))
    assert abs(onset - 8000) <= 160
    assert abs(offset - 20000) <= 160
    with pytest.raises(ValueError, match="silent"):
        bounds(np.zeros(INPUT_RATE, np.int16))


# -- the script


def clip_of(seconds: float = 2.0) -> Clip:
    pcm = np.zeros(round((seconds + 0.4) * INPUT_RATE), np.int16)
    begin, end = round(0.2 * INPUT_RATE), round((seconds + 0.2) * INPUT_RATE)
    pcm[begin:end] = tone(seconds, 2000.0, INPUT_RATE)
    return Clip("made", "turn", pcm, begin, end, splits=(round(1.2 * INPUT_RATE),))


def test_a_pause_is_put_in_with_its_exact_length() -> None:
    clip = clip_of()
    sound = with_pause(clip, clip.splits[0], 0.6)
    assert sound.spans == ((3200, 19200), (28800, 44800))
    assert not sound.pcm[19200:28800].any()
    assert np.array_equal(sound.pcm[:19100], clip.pcm[:19100])
    assert np.array_equal(sound.pcm[28900:], clip.pcm[19300:])
    assert (sound.onset, sound.offset, sound.pause_s) == (3200, 44800, 0.6)
    with pytest.raises(ValueError, match="does not sound"):
        with_pause(clip, clip.offset, 0.6)


async def test_sounds_are_mixed_at_the_samples_where_they_were_placed() -> None:
    microphone = ScriptedMicrophone()
    first, second = (
        Sound("a", "turn", np.full(1000, 5000, np.int16), ((0, 1000),)),
        Sound("b", "cough", np.full(700, -2000, np.int16), ((0, 700),)),
    )
    microphone.next_frame()
    assert microphone.place(first) == FRAME
    assert microphone.place(second, in_s=0.05) == FRAME + 800
    for _ in range(7):
        microphone.next_frame()
    expected = np.zeros(8 * FRAME)
    expected[FRAME : FRAME + 1000] += 5000
    expected[FRAME + 800 : FRAME + 1500] -= 2000
    noise = np.concatenate(microphone.frames) - expected
    assert np.abs(noise).max() < 6 * ROOM_LEVEL
    assert np.std(noise) == pytest.approx(ROOM_LEVEL, rel=0.1)


def test_a_sample_was_caught_before_its_frame_left() -> None:
    times = [10.0, 10.02, 10.05]
    assert time_of(times, FRAME) == pytest.approx(10.0)
    assert time_of(times, 2 * FRAME) == pytest.approx(10.03)
    assert time_of(times, 3 * FRAME - 1) == pytest.approx(10.05, abs=1e-4)


@pytest.mark.parametrize("level_db", [-20.0, -30.0])
def test_the_echo_comes_late_and_soft(level_db: float) -> None:
    echo = Echo(level_db)
    caught = []
    for number in range(60):
        now = 5.0 + number * 0.02
        caught.append(echo.take(now))
        voice = tone(0.02, 8000.0) if 10 <= number < 40 else np.zeros(PACKET, np.int16)
        echo.hear(now, voice)
    wave = np.concatenate(caught)
    loud = np.flatnonzero(np.abs(wave) > 1.0)
    begins = 5.0 + 10 * 0.02 + DELAY_S
    assert abs(5.0 - 0.02 + loud[0] / INPUT_RATE - begins) < 0.001
    assert abs(5.0 - 0.02 + loud[-1] / INPUT_RATE - (begins + 0.6 + 0.041)) < 0.002


def test_the_echos_level_is_that_of_noise() -> None:
    echo, rng = Echo(-20.0), np.random.default_rng(3)
    caught = []
    for number in range(100):
        caught.append(echo.take(number * 0.02))
        # below 4 kHz, as the way down to 16 kHz is without a filter
        echo.hear(number * 0.02, np.repeat(rng.normal(0, 3000, PACKET // 8), 8).astype(np.int16))
    assert 20 * np.log10(np.std(np.concatenate(caught[20:])) / 3000) == pytest.approx(-20.0, abs=1.5)


def test_jitter_leaves_the_echo_whole() -> None:
    """Packets and frames that are a few ms early or late make no holes in it."""
    echo, rng = Echo(-20.0), np.random.default_rng(4)
    voice = np.repeat(rng.normal(0, 3000, 150 * PACKET // 8), 8).reshape(150, PACKET).astype(np.int16)
    caught = []
    for number, packet in enumerate(voice):
        caught.append(echo.take(number * 0.02 + rng.uniform(0, 0.008)))
        echo.hear(number * 0.02 + rng.uniform(0, 0.008), packet)
    steady, again = Echo(-20.0), []
    for number, packet in enumerate(voice):
        again.append(steady.take(number * 0.02 + 0.004))
        steady.hear(number * 0.02 + 0.004, packet)
    wave, still = np.concatenate(caught)[8000:40000], np.concatenate(again)
    best = max(np.corrcoef(wave, still[8000 + lag : 40000 + lag])[0, 1] for lag in range(-160, 161))
    assert best > 0.9


def test_a_crowd_is_softer_than_the_speaker_and_the_same_each_time(clips: list[Clip]) -> None:
    turns = [clip for clip in clips if clip.kind == "turn"]
    sound = crowd(turns, 3.0, seed=1)
    assert len(sound.pcm) == 3 * INPUT_RATE
    level = active_level(sound.pcm, 0, len(sound.pcm))
    assert 20 * np.log10(level / SPEECH_LEVEL) == pytest.approx(-18.0, abs=0.5)
    assert np.array_equal(sound.pcm, crowd(turns, 3.0, seed=1).pcm)
    assert not np.array_equal(sound.pcm, crowd(turns, 3.0, seed=2).pcm)


@pytest.mark.parametrize("size", [1, 4])
def test_conversations_are_built_of_the_clips_that_were_given(clips: list[Clip], size: int) -> None:
    for some, others in ((for_tuning(clips), held_out(clips)), (held_out(clips), for_tuning(clips))):
        script = scenes(some, size=size)
        assert [scene.group for scene in script] == sorted((s.group for s in script), key=GROUPS.index)
        assert {scene.group for scene in script} == set(GROUPS)
        assert len({scene.name for scene in script}) == len(script)
        exchanges = [exchange for scene in script for exchange in scene.exchanges]
        sounds = [exchange.turn for exchange in exchanges] + [cue.sound for e in exchanges for cue in e.cues]
        names = {sound.name.partition("+")[0].partition("x")[0] for sound in sounds if sound is not None}
        assert not names & {clip.name for clip in others}
        assert all(exchange.turn or exchange.ask for exchange in exchanges)


def test_no_place_has_the_same_pause_twice_before_it_had_every_one(clips: list[Clip]) -> None:
    places = [(clip.name, split) for clip in held_out(clips) if clip.kind == "turn" for split in clip.splits]
    script = scenes(held_out(clips), ("pause",), size=len(places))
    said = [(e.turn.name, e.turn.spans[0][1]) for scene in script for e in scene.exchanges if e.turn]
    assert len(said) == len(set(said)) == len(places) * len(PAUSES_S)


def test_a_full_run_has_every_pause_and_both_ways_of_speaking_over(clips: list[Clip]) -> None:
    script = scenes(for_tuning(clips))
    pauses = [e.turn.pause_s for scene in script if scene.group == "pause" for e in scene.exchanges if e.turn]
    assert {pause: pauses.count(pause) for pause in PAUSES_S} == dict.fromkeys(PAUSES_S, 4)
    cues = [cue.sound for scene in script for exchange in scene.exchanges for cue in exchange.cues]
    assert sum(cue.kind in ("backchannel", "cough") for cue in cues) >= 33
    assert {cue.made for cue in cues if cue.kind == "backchannel"} == {False, True}


def test_the_peers_policy_is_500_ms_of_silence_and_any_speech() -> None:
    session = PEERS.session("be brief", 12)
    settings = load(overrides=PEERS.overrides)
    policy = duplex_policy(WireSession.model_validate(session), settings.turn, ScriptedEngine().capabilities)
    assert policy.turns is not None
    assert (policy.turns.fixed_silence_ms, policy.turns.threshold, policy.turns.speculate_ms) == (500, 0.5, 0)
    assert policy.overlap.interrupt_ms <= policy.turns.onset_ms
    assert not policy.overlap.by_words
    assert not settings.media.echo
    assert "audio" not in OURS.session("be brief", 12)


# -- measuring: a conversation of which all is known


class Made:
    """A recording of 30 s of silence, to which is added what happens."""

    def __init__(self, group: str, policy: str = OURS.name) -> None:
        self.recording = Recording("made", group, policy)
        self.recording.microphone = [(0.02 * n, np.zeros(FRAME, np.int16)) for n in range(1, 1500)]
        self._received = np.zeros(30 * OUTPUT_RATE, np.int16)
        self._late: dict[int, float] = {}
        self._replies = 0

    def say(self, kind: Any, onset: float, offset: float, **known: Any) -> Said:
        said = Said(f"{kind}@{onset:g}", kind, ((onset, offset),), 0, **known)
        self.recording.said.append(said)
        return said

    def tell(self, at: float, kind: str, **fields: Any) -> None:
        self.recording.events.append(Event(at, {"type": kind, **fields}))

    def turn(self, at: float) -> None:
        self.tell(at, "input_audio_buffer.speech_stopped", item_id="u")
        self.tell(at, "input_audio_buffer.committed", item_id="u")

    def reply(
        self, created: float, begin: float, end: float, *, cleared: bool = False, kept: str | None = None,
        text: str = " ".join(WORDS), gain: tuple[float, float] | None = None, sound: Pcm | None = None,
    ) -> str:  # fmt: skip
        """Sounds from `begin` to `end`; from the first of `gain` on it is as loud as the second says."""
        self._replies += 1
        name, item = f"r{self._replies}", f"i{self._replies}"
        pcm = tone(end - begin) if sound is None else sound[: round((end - begin) * OUTPUT_RATE)]
        if gain is not None:
            later = round((gain[0] - begin) * OUTPUT_RATE)
            pcm = np.concatenate([pcm[:later], (pcm[later:] * gain[1]).astype(np.int16)])
        place = round(begin * OUTPUT_RATE)
        self._received[place : place + len(pcm)] = pcm
        self.tell(created, "response.created", response={"id": name})
        self.tell(begin - 0.005, "response.output_item.added", response_id=name, item={"id": item})
        self.tell(begin - 0.004, "response.output_audio_transcript.delta", response_id=name, delta=text)
        self.tell(begin - 0.001, "output_audio_buffer.started", response_id=name)
        status = "cancelled" if cleared else "completed"
        self.tell(end + 0.002, "response.done", response={"id": name, "status": status})
        self.tell(end + 0.003, f"output_audio_buffer.{'cleared' if cleared else 'stopped'}", response_id=name)
        if kept is not None:
            self.tell(end + 0.3, "conversation.item.truncated", item_id=item, transcript=kept)
        return name

    def late(self, at: float, seconds: float) -> None:
        """From here on packets come so much later."""
        self._late[round(at / 0.02)] = seconds

    def done(self) -> Recording:
        delay, heard = 0.0, []
        for number, pcm in enumerate(self._received.reshape(-1, PACKET)):
            delay += self._late.get(number, 0.0)
            heard.append(Arrival(number * 0.02 + delay, number * 960, pcm, False))
        self.recording.heard = heard
        self.recording.events.sort(key=lambda event: event.at)
        return self.recording

    def analysed(self, heard: str = "", speak: Any = None) -> Analysis:
        return analyse(self.done(), speak, lambda _: heard.split())


def rows(*analyses: Analysis) -> dict[str, Row]:
    return {row.name: row for row in rows_of(analyses)}


def test_the_wait_is_from_the_true_end_to_the_decision() -> None:
    made = Made("wait")
    made.say("turn", 1.0, 3.0)
    made.turn(3.25)
    made.reply(3.26, 3.6, 5.0)
    made.say("turn", 7.0, 9.0)
    made.turn(9.45)
    made.reply(9.46, 10.0, 12.0)
    found = rows(made.analysed(" ".join(WORDS)))
    assert (found["wait"].n, found["wait"].p50) == (2, pytest.approx(350))
    assert found["speech_end_to_first_audio_sent"].p50 == pytest.approx((599 + 999) / 2)
    assert found["speech_end_to_first_sound_received"].p50 == pytest.approx(800, abs=1)
    assert (found["missed_turns"].value, found["cut_in_rate_no_pause"].value) == (0, 0)
    assert found["undisturbed_words_off"].p95 == 0


def test_a_turn_decided_in_a_pause_is_a_cut_in_and_its_wait_does_not_count() -> None:
    made = Made("pause")
    made.say("turn", 1.0, 4.0, pause_s=1.0)
    made.turn(2.6)
    made.reply(2.61, 3.1, 3.3, cleared=True)
    made.turn(4.3)
    made.reply(4.31, 4.8, 6.0)
    made.say("turn", 8.0, 10.0, pause_s=0.3)
    made.turn(10.4)
    made.reply(10.41, 11.0, 12.0)
    made.say("turn", 14.0, 17.0, pause_s=1.5)
    made.turn(15.9)
    made.reply(15.95, 18.0, 19.0)
    found = rows(made.analysed())
    assert (found["cut_in_rate"].n, found["cut_in_rate"].value) == (2, 0.5)
    assert found["spoken_over_rate"].value == 0.5
    assert [found[f"cut_in_rate_pause_{p}s"].value for p in ("0.3", "1", "1.5")] == [0, 1, 1]
    assert (found["wait"].n, found["wait"].p50) == (1, pytest.approx(400))
    assert found["missed_turns"].value == 0


def test_a_turn_without_a_decision_or_without_an_answer_was_missed() -> None:
    made = Made("answer")
    made.say("answer", 1.0, 1.4)
    made.say("answer", 11.0, 11.4)
    made.turn(11.9)
    made.say("answer", 15.0, 15.4)
    made.turn(15.8)
    made.reply(15.9, 16.2, 17.0)
    found = rows(made.analysed())
    assert (found["missed_turns"].n, found["missed_turns"].value) == (3, pytest.approx(0.6667))
    assert (found["wait_short_answer"].n, found["wait_short_answer"].p50) == (1, pytest.approx(400))


def test_an_obeyed_interruption_has_its_stop_time_and_its_words() -> None:
    made = Made("interruption")
    made.reply(0.5, 1.0, 3.25, cleared=True, kept="once upon a time there was")
    made.say("interruption", 3.0, 3.6, over=True)
    made.turn(4.0)
    made.reply(10.0, 10.5, 14.0)
    made.say("interruption", 12.0, 12.5, over=True)
    found = rows(made.analysed("once upon a time there"))
    assert (found["interruption_obeyed"].n, found["interruption_obeyed"].value) == (2, 0.5)
    assert (found["stop_time"].n, found["stop_time"].p50) == (1, pytest.approx(250, abs=1))
    assert (found["heard_text_error_words"].n, found["heard_text_error_words"].p50) == (1, 1)


@pytest.mark.parametrize("duck_ms", [60, 66, 69, 75])
def test_ducking_is_seen_in_the_sound(duck_ms: int) -> None:
    """A voice of which every word is known, ducked so long after the onset, beside one that only stops."""
    rng = np.random.default_rng(1)
    voice = (np.repeat(rng.uniform(0.4, 1.0, 100), PACKET) * rng.normal(0, 3000, 100 * PACKET)).astype(np.int16)
    made = Made("interruption")
    made.reply(0.5, 1.0, 2.7, cleared=True, gain=(2.5 + duck_ms / 1000, 0.2), sound=voice)
    made.say("interruption", 2.5, 3.0, over=True)
    made.reply(9.5, 10.0, 11.7, cleared=True, sound=voice)
    made.say("interruption", 11.5, 12.0, over=True)
    found = rows(made.analysed(speak=lambda _: voice))
    assert (found["duck_time"].n, found["duck_time"].p50) == (1, pytest.approx(duck_ms, abs=5))
    assert rows(made.analysed(speak=lambda _: voice[::-1].copy()))["duck_time"].n == 0


def test_a_pause_of_the_voice_is_no_duck() -> None:
    """The voice pauses for 15 ms at the end of a packet, and is ducked from the next one on."""
    rng = np.random.default_rng(1)
    voice = rng.normal(0, 3000, 100 * PACKET).astype(np.int16)
    voice[78 * PACKET - PACKET * 3 // 4 : 78 * PACKET] = 0
    made = Made("interruption")
    made.reply(0.5, 1.0, 2.7, cleared=True, gain=(2.56, 0.2), sound=voice)
    made.say("interruption", 2.5, 3.0, over=True)
    assert rows(made.analysed(speak=lambda _: voice))["duck_time"].p50 == pytest.approx(60, abs=1)


@pytest.mark.parametrize(("packets", "known"), [(1, 1), (2, 0)])
def test_what_happened_in_a_longer_pause_of_the_voice_is_not_known(packets: int, known: int) -> None:
    rng = np.random.default_rng(1)
    voice = rng.normal(0, 3000, 100 * PACKET).astype(np.int16)
    voice[78 * PACKET : (78 + packets) * PACKET] = 0
    made = Made("interruption")
    made.reply(0.5, 1.0, 2.7, cleared=True, gain=(2.57, 0.2), sound=voice)
    made.say("interruption", 2.5, 3.0, over=True)
    assert rows(made.analysed(speak=lambda _: voice))["duck_time"].n == known


def test_what_keeps_the_reply_and_what_does_not() -> None:
    made = Made("backchannel")
    made.reply(0.5, 1.0, 5.0)
    made.say("backchannel", 2.0, 2.4, over=True, made=True)
    made.reply(6.0, 6.5, 8.2, cleared=True)
    made.say("backchannel", 8.0, 8.4, over=True)
    made.reply(8.5, 9.0, 11.0)  # goes on, and nobody had a turn
    made.reply(12.0, 12.5, 14.2, cleared=True)
    made.say("backchannel", 14.0, 14.4, over=True)
    made.turn(14.6)
    made.reply(14.7, 15.5, 17.0)
    made.reply(18.0, 18.5, 20.0)
    made.say("backchannel", 19.9, 20.3, over=True)  # too little of the reply was left
    made.say("backchannel", 25.0, 25.0, over=True, skipped=True)
    found = rows(made.analysed(" ".join(WORDS[:-3])))
    assert (found["backchannel_kept"].n, found["backchannel_kept"].value) == (3, pytest.approx(0.6667))
    assert (found["backchannel_kept_recorded"].n, found["backchannel_kept_recorded"].value) == (2, 0.5)
    assert found["backchannel_skipped"].value == 1
    assert found["resume_words_off"].p50 == 3
    assert "cough_kept" not in found


@pytest.mark.parametrize(("lost", "repeated"), [(0, 0), (10, 0), (25, 0), (0, 10)])
def test_where_a_held_reply_goes_on(lost: int, repeated: int) -> None:
    """Ducked, held for half a second in the middle of a word, and let go on some packets too late, or too early."""
    rng = np.random.default_rng(2)
    loudness = np.repeat(np.tile([*rng.uniform(0.4, 1.0, 12), 0, 0, 0], 8), PACKET)
    voice = (loudness * rng.normal(0, 3000, len(loudness))).astype(np.int16)
    parts = np.split(voice, [35 * PACKET, 40 * PACKET])
    parts[1] = (parts[1] * 0.2).astype(np.int16)
    rest = np.split(voice, [(40 + lost) * PACKET])[1]
    held = [*parts[:2], np.zeros(25 * PACKET, np.int16), rest]
    if repeated:
        held.insert(3, voice[(40 + lost - repeated) * PACKET : (40 + lost) * PACKET])
    sound = np.concatenate(held)
    made = Made("backchannel")
    made.reply(0.5, 1.0, 1.0 + len(sound) / OUTPUT_RATE, sound=sound)
    made.say("backchannel", 1.7, 1.9, over=True)
    found = rows(made.analysed(speak=lambda _: voice))
    # packets of a pause do not count: three of fifteen are
    assert found["resume_lost"].p50 == pytest.approx(20 * lost * 0.8, abs=41)
    assert found["resume_repeated"].p50 == pytest.approx(20 * repeated * 0.8, abs=41)
    assert found["resume_exact"].value == (lost == repeated == 0)


def test_a_reply_that_the_client_ends_was_not_stopped_by_what_was_said() -> None:
    made = Made("cough")
    made.reply(0.5, 1.0, 5.0, cleared=True)
    made.say("cough", 4.0, 4.3, over=True)
    made.tell(4.95, HUSHED)
    found = rows(made.analysed())
    assert found["cough_kept"].value == found["backchannel_kept"].value == 1


def test_noise_is_counted_by_the_minute_over_replies_and_alone() -> None:
    made = Made("typing")
    made.say("typing", 1.0, 7.0)
    made.turn(5.0)
    made.reply(9.0, 10.0, 17.0, cleared=True)
    made.say("typing", 14.0, 23.0, over=True)
    found = rows(made.analysed())
    assert found["false_interruptions_per_minute"].value == pytest.approx(20.0, rel=0.01)  # one in 3 s of it
    assert found["noise_over_reply"].value == 0.05
    assert found["false_turns_per_minute"].value == 10
    assert found["false_replies_per_minute"].value == 0


@pytest.mark.parametrize(("typed", "answered"), [(False, 10), (True, 0)])
def test_a_turn_of_a_noise_is_answered_unless_something_typed_is(typed: bool, answered: float) -> None:
    made = Made("crowd")
    made.say("crowd", 1.0, 7.0)
    made.turn(5.0)
    made.tell(5.0, "conversation.item.added", item={"role": "user", "content": [{"type": "input_audio"}]})
    if typed:
        made.tell(5.2, "conversation.item.added", item={"role": "user", "content": [{"type": "input_text"}]})
    made.tell(5.3, "response.created", response={"id": "r"})
    made.tell(5.5, "conversation.item.added", item={"role": "assistant", "content": []})
    made.tell(6.0, "response.created", response={"id": "asked for"})
    assert rows(made.analysed())["false_replies_per_minute"].value == answered


def test_what_the_echo_does_is_counted_once() -> None:
    made = Made("echo")
    made.reply(0.5, 1.0, 13.0)
    made.reply(14.0, 15.0, 18.0, cleared=True)
    made.turn(19.0)
    made.reply(19.1, 20.0, 23.0)
    found = rows(made.analysed())
    assert (found["echo_interrupts"].value, found["echo_minutes"].value) == (1, 0.3)


def test_holes_are_glitches_and_a_steady_delay_is_none() -> None:
    made = Made("wait")
    made.reply(0.5, 1.0, 5.0)
    made.late(0.5, 0.3)
    assert rows(made.analysed())["glitches"].value == 0
    made.late(2.0, 0.1)
    made.late(3.0, 0.015)
    made.recording.underruns = 2
    assert rows(made.analysed())["glitches"].value == 3


def test_the_policys_rows_stand_beside_ours() -> None:
    waits = []
    for policy, wait in ((OURS.name, 0.2), (PEERS.name, 0.5)):
        made = Made("wait", policy)
        made.say("turn", 1.0, 3.0)
        made.turn(3.0 + wait)
        made.reply(3.0 + wait, 4.0, 5.0)
        waits.append(made.analysed())
    found = rows(*waits)
    assert found["wait_ratio_to_policy"].value == pytest.approx(0.4)
    assert found["wait"].ratio == pytest.approx(2.5)
    assert found["policy_wait"].p50 == pytest.approx(500)


@pytest.mark.parametrize(
    ("heard", "covered"),
    [
        ("", 0),
        ("once upon a time", 4),
        ("once apon a thyme there", 5),  # mistaken in the middle
        ("once upon a time there was a fox that could not swi", 12),  # most of the last word
        ("once upon a time th", 4),  # little of it
        ("once upon time", 4),
    ],
)
def test_how_far_into_its_text_a_reply_was_heard(heard: str, covered: int) -> None:
    assert words_covered(WORDS, heard.split()) == covered


def test_the_error_of_the_heard_text_counts_words() -> None:
    reply = HeardReply("r", 0.0, text=" ".join(WORDS))
    assert heard_text_error(reply, WORDS[:5]) is None
    reply.kept = "Once upon a time, there was a"
    assert heard_text_error(reply, WORDS[:5]) == 2
    reply.kept = ""
    assert heard_text_error(reply, WORDS[:5]) == 5


def test_packets_belong_to_the_reply_that_was_announced_last() -> None:
    made = Made("wait")
    made.reply(0.5, 1.0, 2.0)
    made.reply(2.1, 2.5, 4.0)
    first, second = replies(made.done())
    assert first.first_sound == pytest.approx(1.0, abs=0.001)
    assert first.last_sound == pytest.approx(2.0, abs=0.001)
    assert second.first_sound == pytest.approx(2.5, abs=0.001)
    assert second.sounding_seconds(3.0, 9.0) == pytest.approx(1.0, abs=0.001)


def test_what_the_client_deletes_was_heard_all_the_same() -> None:
    made = Made("interruption")
    made.reply(0.5, 1.0, 3.25, cleared=True)
    made.tell(5.0, FORGOT, item_id="i1")
    made.tell(5.1, "conversation.item.deleted", item_id="i1")
    made.reply(6.5, 7.0, 8.0, cleared=True)
    made.tell(8.2, "conversation.item.deleted", item_id="i2")
    assert [reply.kept for reply in replies(made.done())] == [None, ""]


def test_the_picture_tells_what_was_said_and_what_came_of_it() -> None:
    made = Made("pause")
    said = made.say("turn", 1.0, 3.0)
    made.turn(3.25)
    made.reply(3.26, 3.6, 20.0, cleared=True)
    over = made.say("interruption", 19.8, 20.4, over=True)
    made.recording.fault = "the call was <cut>"
    words = " ".join(ElementTree.fromstring(picture(made.analysed())).itertext())
    for told in (said.name, over.name, "250 ms", "turn decided", "reply stopped", "the call was <cut>", "16 s"):
        assert told in words


def test_both_channels_lie_on_one_clock() -> None:
    made = Made("wait")
    made.reply(0.5, 2.0, 4.0)
    made.recording.microphone[100] = (made.recording.microphone[100][0], tone(0.02, rate=INPUT_RATE))
    you, assistant = made.done().channels()
    assert abs(int(np.flatnonzero(you)[0]) - 100 * FRAME) <= 2
    assert abs(int(np.flatnonzero(np.abs(assistant) > 100)[0]) - 2 * INPUT_RATE) <= 20


def test_a_whole_clip_sounds_where_it_is_said_to() -> None:
    clip = clip_of()
    assert whole(clip).spans == ((clip.onset, clip.offset),)
