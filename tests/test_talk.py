"""talk and bench against a real server on real sockets; only the engine is a stand-in, but in the last tests."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from omni_rt.cli import main
from omni_rt.client.dialogue import Dialogue
from omni_rt.config import validate
from omni_rt.engine.api import OUTPUT_RATE, Pcm
from tests.support.scripted_server import AUDIO_DELAY_S, TEXT_DELAY_S, TONE_S, ScriptedServer, scripted_server
from tests.support.server import running_server
from tests.support.speech import FOLDER, clip, silence

pytestmark = pytest.mark.models

QUESTION = FOLDER / "goforward.wav"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ScriptedServer]:
    # without speculation, so that what is made begins when the turn is over
    sections = {"server": {"max_sessions": 1}, "media": {"frames_per_second": 5.0}, "turn": {"speculate_ms": 0}}
    with scripted_server(validate(sections)) as server:
        yield server


@pytest.fixture
def server(shared_server: ScriptedServer) -> Iterator[ScriptedServer]:
    yield shared_server
    shared_server.end_all_calls()
    shared_server.engine.mute, shared_server.engine.fail = False, ""


def talk(server: ScriptedServer | str, *options: object, wav: Path = QUESTION) -> int:
    url = server if isinstance(server, str) else server.url
    return main(["talk", "--wav", str(wav), "--server", url, *map(str, options)])


def write(path: Path, pcm: Pcm, rate: int = 16_000) -> Path:
    soundfile.write(path, pcm, rate)
    return path


def test_both_sides_and_the_moments_are_printed(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(server) == 0
    told = capsys.readouterr().out
    assert "you: hello there" in told
    assert "assistant: a tone" in told
    order = [told.index(name) for name in ("user_speech_end ", "turn_end_decided", "first_text", "first_audio_sent")]
    assert order == sorted(order)
    assert "first sound received here" in told


def test_the_answer_is_recorded_when_it_came(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answer.wav"
    began = time.monotonic()
    assert talk(server, "--out", out, "--json") == 0
    took = time.monotonic() - began
    told = json.loads(capsys.readouterr().out)
    assert told["understood"] == "hello there"
    assert [answer["text"] for answer in told["answers"]] == ["a tone"]
    moments = told["answers"][0]["moments"]
    assert moments["user_speech_end"] == 0
    assert moments["first_text"] - moments["turn_end_decided"] >= TEXT_DELAY_S * 1000
    assert moments["first_audio_sent"] - moments["first_text"] >= AUDIO_DELAY_S * 1000

    pcm, rate = soundfile.read(out, dtype="int16")
    assert rate == OUTPUT_RATE
    sounding = np.flatnonzero(np.abs(pcm.astype(int)) > 1000) / rate
    assert sounding[-1] - sounding[0] > TONE_S - 0.05
    # The recording begins when the question does, so the answer lies as far behind the last word as was told. A busy
    # machine may say the question more slowly, never faster.
    last_word = 2.23
    assert told["first_audio_received_ms"] > (TEXT_DELAY_S + AUDIO_DELAY_S) * 1000
    assert sounding[0] > last_word + told["first_audio_received_ms"] / 1000 - 0.06
    assert sounding[-1] < took


def test_other_formats_can_be_said(server: ScriptedServer, tmp_path: Path) -> None:
    pcm = np.repeat(clip("card3").pcm, 3)
    assert talk(server, wav=write(tmp_path / "question.flac", np.stack([pcm, pcm], axis=1), 48_000)) == 0


def test_the_camera_shows_the_picture(server: ScriptedServer, tmp_path: Path) -> None:
    Image.new("RGB", (321, 241), (200, 40, 40)).save(tmp_path / "red.png")
    assert talk(server, "--image", tmp_path / "red.png") == 0
    shown = server.session.shown
    assert len(shown) >= 5
    assert shown[-1].mean(axis=(0, 1)) == pytest.approx((200, 40, 40), abs=12)


def test_the_camera_shows_the_film_in_time(server: ScriptedServer, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(50):
            rgb = np.full((240, 320, 3), 40 if index < 25 else 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    assert talk(server, "--video", film) == 0
    levels = [rgb.mean() for rgb in server.session.shown]
    assert levels[0] == pytest.approx(40, abs=12)
    assert levels[-1] == pytest.approx(200, abs=12)
    assert 2 <= sum(level < 100 for level in levels) <= 8


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert talk(f"http://127.0.0.1:{port}") == 3
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_a_busy_server_says_so(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    taken, done = threading.Event(), threading.Event()

    async def hold() -> None:
        async with Dialogue(server.url):
            taken.set()
            await asyncio.to_thread(done.wait, 60)

    holder = threading.Thread(target=asyncio.run, args=(hold(),))
    holder.start()
    assert taken.wait(30)
    try:
        assert talk(server) == 4
    finally:
        done.set()
        holder.join()
    told = capsys.readouterr().err
    assert "busy" in told
    assert "places" in told


def test_a_server_that_does_not_answer_is_reported(
    server: ScriptedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.engine.mute = True
    out = tmp_path / "answer.wav"
    assert talk(server, "--wait", "2", "--out", out) == 5
    told = capsys.readouterr().err
    assert "no answer within 2 s" in told
    assert "no sound came" in told
    assert len(soundfile.read(out)[0]) > OUTPUT_RATE, "what did come is recorded"


def test_a_failed_answer_is_reported(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.engine.fail = "the model ran out of memory"
    assert talk(server) == 5
    told = capsys.readouterr().err
    assert "failed" in told
    assert "the model ran out of memory" in told


def test_a_call_cut_off_is_reported(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.engine.mute = True
    before = len(server.engine.sessions)

    def when_asked() -> None:
        while len(server.engine.sessions) == before or "respond" not in server.session.names():
            time.sleep(0.02)
        server.end_all_calls()

    cut = threading.Thread(target=when_asked, daemon=True)
    cut.start()
    try:
        assert talk(server) == 6
    finally:
        cut.join(10)
    assert "ended the call" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no sound at all", None], ids=["empty", "text", "missing"])
def test_a_file_that_is_no_sound_is_named(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "question.wav"
    if content is not None:
        path.write_bytes(content)
    assert talk("http://127.0.0.1:9", wav=path) == 2
    assert str(path) in capsys.readouterr().err


def test_a_recording_without_speech_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk("http://127.0.0.1:9", wav=write(tmp_path / "silence.wav", silence(2))) == 2
    assert "no speech" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--image", "--video"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"\xff\xd8\xff but nothing more")
    assert talk("http://127.0.0.1:9", option, path) == 2
    assert str(path) in capsys.readouterr().err


@pytest.fixture
def clips_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("goforward", "card3"):
        for ending in ("wav", "txt"):
            shutil.copy(FOLDER / f"{name}.{ending}", folder)
    return folder


def bench(server: ScriptedServer, folder: Path, *options: object) -> tuple[int, dict[str, Any]]:
    path = folder.parent / "result.json"
    status = main(
        ["bench", "voice", "--clips", str(folder), "--server", server.url, "--json", str(path), *map(str, options)]
    )
    return status, json.loads(path.read_text())


def test_bench_writes_what_the_format_says(
    server: ScriptedServer, clips_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = bench(server, clips_folder, "--n", 3, "--pause", 0.2)
    assert status == 0
    assert result["clock"] == "shared"
    assert set(result) >= {"machine", "commit", "date", "command", "rows"}
    rows = {row["name"]: row for row in result["rows"]}
    spans = [rows[f"speech_end_to_{moment}"] for moment in ("turn_decided", "first_text", "first_audio_sent")]
    assert [row["n"] for row in spans] == [3, 3, 3]
    assert {row["unit"] for row in spans} == {"ms"}
    assert spans[0]["p50"] > 0
    assert spans[1]["p50"] - spans[0]["p50"] >= TEXT_DELAY_S * 1000
    received = rows["speech_end_to_first_audio_received"]
    assert received["n"] == 3
    assert received["p50"] <= received["p90"] <= received["p95"]
    assert received["p50"] > spans[2]["p50"]
    # card3, goforward, card3 were said, "hello there" understood each time
    assert rows["word_error_rate"]["n"] == 3 + 4 + 3
    assert rows["word_error_rate"]["value"] == 1.0
    assert rows["cut_in"]["value"] == rows["unanswered"]["value"] == 0
    assert [said["clip"] for said in result["utterances"]] == ["card3", "goforward", "card3"]
    table = capsys.readouterr().out
    assert all(name in table for name in rows)
    assert len(server.engine.sessions) >= 1


def test_bench_uses_one_session_for_several_or_each_its_own(server: ScriptedServer, clips_folder: Path) -> None:
    before = len(server.engine.sessions)
    bench(server, clips_folder, "--n", 2, "--pause", 0.1)
    assert len(server.engine.sessions) == before + 1
    bench(server, clips_folder, "--n", 2, "--pause", 0.1, "--fresh")
    assert len(server.engine.sessions) == before + 3


def test_another_machines_clock_is_noticed(
    server: ScriptedServer, clips_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = 1e9

    def monotonic_ms() -> float:
        return time.monotonic() * 1000 + elsewhere

    for module in ("moments", "replies", "session"):
        monkeypatch.setattr(f"omni_rt.session.{module}.monotonic_ms", monotonic_ms)
    status, result = bench(server, clips_folder, "--n", 1)
    assert status == 0
    assert result["clock"] == "arrival"
    rows = {row["name"]: row for row in result["rows"]}
    decided, text = (rows[f"speech_end_to_{moment}"]["p50"] for moment in ("turn_decided", "first_text"))
    assert 0 < decided < text < elsewhere
    assert text - decided >= TEXT_DELAY_S * 1000 - 50


def test_a_server_that_speaks_too_early_is_counted_and_not_timed(server: ScriptedServer, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write(folder / "two.wav", np.concatenate([clip("card1").pcm, silence(3), clip("card3").pcm]))
    (folder / "two.txt").write_text("ten of clubs seven of clubs")
    status, result = bench(server, folder, "--n", 1)
    assert status == 0
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["cut_in"]["value"] == 1
    assert rows["speech_end_to_first_audio_received"]["n"] == 0
    assert result["utterances"][0]["understood"] == "hello there hello there"
    assert result["utterances"][0]["answer"] == "a tone / a tone"


def test_unanswered_utterances_are_counted(server: ScriptedServer, clips_folder: Path) -> None:
    server.engine.mute = True
    before = len(server.engine.sessions)
    status, result = bench(server, clips_folder, "--n", 2, "--wait", 1)
    assert status == 5
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["unanswered"]["value"] == 1
    assert rows["speech_end_to_first_text"]["n"] == 0
    assert len(server.engine.sessions) == before + 2, "an answer that is late must not fall into the next utterance"


def test_clips_without_words_are_refused(clips_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips_folder / "card3.txt").unlink()
    assert main(["bench", "voice", "--clips", str(clips_folder), "--server", "http://127.0.0.1:9"]) == 2
    assert "card3" in capsys.readouterr().err


def test_a_folder_without_clips_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "voice", "--clips", str(tmp_path), "--server", "http://127.0.0.1:9"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_talk_and_bench_with_the_real_models(
    clips_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_server(tmp_path, "local.chat_model=qwen2.5-coder-0.5b-instruct-q4_k_m") as real:
        out = tmp_path / "answer.wav"
        assert talk(real.url, "--out", out, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert "forward" in told["understood"].lower()
        assert told["answers"][-1]["text"]
        assert np.abs(soundfile.read(out, dtype="int16")[0].astype(int)).max() > 1000
        path = tmp_path / "result.json"
        command = ["bench", "voice", "--clips", str(clips_folder), "--server", real.url, "--json", str(path)]
        assert main([*command, "--n", "2"]) == 0
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["unanswered"]["value"] == 0
    assert rows["word_error_rate"]["value"] <= 0.3
    # a reply that is prepared may have its text before the turn is over, but not its sound
    decided, text, *sound = [rows[name]["p50"] for name in rows if name.startswith("speech_end_to")]
    assert [max(decided, text), *sound] == sorted([max(decided, text), *sound])
