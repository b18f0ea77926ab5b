"""The talker's frames against those of Hugging Face's `generate`, and against themselves packed and rolled back.

Stands alone: the thinker's hidden states and tokens are Hugging Face's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni_rt.engine.qwen3_omni.kv_cache import KVCache, KVPool
from omni_rt.engine.qwen3_omni.positions import PositionCounter
from omni_rt.engine.qwen3_omni.sampler import PREDICTOR, TALKER, SamplingParams, SamplingRows, noise
from omni_rt.engine.qwen3_omni.talker import FixedRows, Talker, TalkerState
from tools.exact.draw import Draw, draw
from tools.exact.lines import Line

FRAMES = 48
_SHORT = 20
_GREEDY = [(TALKER.greedy(), PREDICTOR.greedy())]


def lines(seed: int) -> list[Line]:
    """The rows of the exactness table about the talker, everything drawn from the seed."""
    drawn = draw(seed)
    rng = drawn.rng("talker")
    with torch.inference_mode(), _few_codes(drawn, rng):
        conversations = [_conversation(drawn, rng, media=True), _conversation(drawn, rng, media=False)]
        return [
            _reference(drawn, conversations[0], "audio, image and perhaps video"),
            _reference(drawn, conversations[1], "text"),
            _packed(drawn, conversations, rng),
            _rolled_back(drawn, conversations[0], rng),
        ]


def ours(drawn: Draw) -> Talker:
    """Our talker with the weights of Hugging Face's."""
    talker = Talker(drawn.spec)
    talker.load_state_dict(drawn.reference.talker.state_dict())
    return talker.eval()


@dataclass(slots=True)
class Conversation:
    """A prompt in Hugging Face's form, and what `generate` makes of it.

    `user` are the rows of user turns, `media` those among them that stand for media, `positions` [3, len(user)] the
    talker's. `chunks` cut the user rows. `accepted` [rows, thinker's hidden]; `answer` are the spoken tokens, `codes`
    int64 [frames, 16] Hugging Face's frames.
    """

    voice: str
    ids: list[int] = field(default_factory=list)
    user: list[int] = field(default_factory=list)
    media: set[int] = field(default_factory=set)
    inputs: dict[str, Any] = field(default_factory=dict)
    positions: list[NDArray[np.float32]] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    accepted: Tensor = field(default_factory=lambda: torch.empty(0))
    answer: list[int] = field(default_factory=list)
    codes: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(slots=True)
class Speaker:
    """One reply of our talker to a conversation, frame by frame."""

    talker: Talker
    fixed: FixedRows
    text: Tensor
    state: TalkerState

    def row(self) -> Tensor:
        """[hidden]: what the next frame is given."""
        frame, tokens = self.state.frames, len(self.text)
        if frame == 0:
            return self.talker.first_row(self.text[0])
        if frame < tokens:
            return self.talker.text_rows(self.text[frame])
        return self.fixed.eos if frame == tokens else self.fixed.pad


def speaker(drawn: Draw, talker: Talker, cache: KVCache, conversation: Conversation) -> Speaker:
    """Everything before the first token, in the conversation's chunks."""
    embed = drawn.reference.thinker.get_input_embeddings()
    fixed = talker.fixed_rows(embed)
    positions = np.concatenate(conversation.positions, axis=1)
    for start, end in zip([0, *conversation.chunks], [*conversation.chunks, len(conversation.user)], strict=True):
        at = conversation.user[start:end]
        media = [row for row, place in enumerate(at) if place in conversation.media]
        ids = torch.tensor([conversation.ids[place] for place in at])
        talker.listen(cache, embed(ids), conversation.accepted[at], media, torch.from_numpy(positions[:, start:end]))
    state = talker.start(cache, len(conversation.user), float(positions.max() + 1))
    talker.prefill([state], [fixed.prefix(conversation.voice)])
    return Speaker(talker, fixed, embed(torch.tensor(conversation.answer)), state)


def step(speakers: list[Speaker], params: list[tuple[SamplingParams, SamplingParams]], uniform: Tensor) -> Tensor:
    """A frame of each, in one pass: int64 [B, 16]."""
    codes, residuals = (SamplingRows.of(column, "cpu") for column in zip(*params, strict=True))
    text = torch.stack([one.row() for one in speakers])
    return speakers[0].talker.frames([one.state for one in speakers], text, codes, residuals, uniform)


def _reference(drawn: Draw, conversation: Conversation, what: str) -> Line:
    frames = _speak(drawn, conversation, len(conversation.codes))
    wrong = int((frames != conversation.codes).sum())
    note = (
        f"{len(conversation.user)} user rows in {len(conversation.chunks) + 1} chunks, {len(conversation.codes)} frames"
    )
    return Line(f"talker, {what} in the prompt: codes = Hugging Face's", None, wrong, frames.numel(), note)


def _speak(drawn: Draw, conversation: Conversation, frames: int) -> Tensor:
    talker = ours(drawn)
    one = speaker(drawn, talker, _pool(drawn).new(), conversation)
    return torch.cat([step([one], _GREEDY, torch.zeros(1, 16)) for _ in range(frames)])


def _packed(drawn: Draw, conversations: list[Conversation], rng: np.random.Generator) -> Line:
    """Replies in common passes, the first some frames ahead, each with its own parameters and numbers."""
    talker, pool = ours(drawn), _pool(drawn)
    strict = replace(TALKER, repetition_penalty=2.0)  # so that a neighbour's history would be noticed
    params = [(strict, PREDICTOR), (strict, PREDICTOR), (strict.greedy(), PREDICTOR.greedy())]
    told = [*conversations, conversations[0]]
    seeds = [int(s) for s in rng.integers(1, 1 << 30, len(told))]
    ahead, frames = int(rng.integers(1, 4)), int(rng.integers(5, 9))

    def begin() -> tuple[list[Speaker], list[torch.Generator]]:
        speakers = [speaker(drawn, talker, pool.new(), conversation) for conversation in told]
        return speakers, [torch.Generator().manual_seed(seed) for seed in seeds]

    together, numbers = begin()
    packed = [[step(together[:1], params[:1], noise(numbers[0], 16)[None])[0] for _ in range(ahead)], [], []]
    for _ in range(frames):
        made = step(together, params, torch.stack([noise(generator, 16) for generator in numbers]))
        for own, frame in zip(packed, made, strict=True):
            own.append(frame)
    wrong = compared = 0
    apart, numbers = begin()
    for own, one, drawing, generator in zip(packed, apart, params, numbers, strict=True):
        alone = [step([one], [drawing], noise(generator, 16)[None])[0] for _ in own]
        wrong += int((torch.stack(own) != torch.stack(alone)).sum())
        compared += 16 * len(own)
    return Line("talker, three replies packed, two drawn and one greedy: codes = each alone", None, wrong, compared)


def _rolled_back(drawn: Draw, conversation: Conversation, rng: np.random.Generator) -> Line:
    """Frames are made with wrong text, forgotten and made again; then the whole reply, on the same cache."""
    talker, cache = ours(drawn), _pool(drawn).new()
    one = speaker(drawn, talker, cache, conversation)
    right = conversation.codes[:_SHORT]

    def made(count: int) -> list[Tensor]:
        return [step([one], _GREEDY, torch.zeros(1, 16))[0] for _ in range(count)]

    frames: list[Tensor] = []
    back = sorted(int(at) for at in rng.integers(1, len(right), 3))
    for at in back:
        frames += made(at - len(frames))
        text, one.text = one.text, one.text.flip(0) + 1
        made(int(rng.integers(1, 6)))
        one.text = text
        kept = int(rng.integers(0, at + 1))
        one.state.keep(kept)
        del frames[kept:]
    frames += made(len(right) - len(frames))
    one.state = talker.start(cache, one.state.rows, one.state.position)
    talker.prefill([one.state], [one.fixed.prefix(conversation.voice.upper())])
    wrong = int((torch.stack(frames) != right).sum() + (torch.stack(made(len(right))) != right).sum())
    note = f"back from behind frames {back}"
    return Line(
        "talker, frames and reply rolled back and made again: codes = without", None, wrong, 2 * right.numel(), note
    )


@contextmanager
def _few_codes(drawn: Draw, rng: np.random.Generator) -> Iterator[None]:
    """Makes some first codes much likelier than the others, so that they come again and their penalty matters."""
    weight = drawn.reference.talker.codec_head.weight
    kept = weight.clone()
    weight[torch.from_numpy(rng.choice(2048, 12, replace=False))] *= 4
    try:
        yield
    finally:
        weight.copy_(kept)


def _pool(drawn: Draw) -> KVPool:
    assert drawn.spec.talker is not None
    return KVPool(drawn.spec.talker.decoder, tokens=4096)


# -- Hugging Face's side


def _conversation(drawn: Draw, rng: np.random.Generator, *, media: bool) -> Conversation:
    """System, user, assistant, user; audio, an image and perhaps a video among the text if asked for."""
    assert drawn.spec.talker is not None
    conversation = Conversation(voice=str(rng.choice(sorted(drawn.spec.talker.voices))).capitalize())
    prompt = _Prompt(drawn, rng, conversation)
    prompt.turn("system", [])
    prompt.turn("user", [prompt.audio] * media)
    prompt.turn("assistant", [])
    blocks = [prompt.audio, prompt.image, *[prompt.video] * int(rng.integers(0, 2))] if media else []
    prompt.turn("user", [blocks[int(i)] for i in rng.permutation(len(blocks))])
    prompt.close()
    rows = len(conversation.user)
    conversation.chunks = sorted({int(cut) for cut in rng.integers(1, rows, int(rng.integers(1, 6)))})
    _generate(drawn, conversation, int(rng.integers(2, 30)), FRAMES if media else _SHORT)
    return conversation


class _Prompt:
    """Writes a conversation's ids, inputs and the talker's positions."""

    def __init__(self, drawn: Draw, rng: np.random.Generator, conversation: Conversation) -> None:
        self._spec, self._rng, self._to = drawn.spec, rng, conversation
        self._counter = PositionCounter(drawn.spec.positions_per_second)
        self._user = False
        self._mels: list[NDArray[np.float32]] = []
        self._pixels: list[NDArray[np.float32]] = []
        self._frames: list[NDArray[np.float32]] = []
        self._grids: list[list[int]] = []
        self._clips: list[list[int]] = []
        self._seconds: list[float] = []

    def turn(self, role: str, blocks: list[Callable[[], None]]) -> None:
        tokens = self._spec.tokens
        self._user = role == "user"
        self._text([tokens.im_start, getattr(tokens, role), tokens.newline])
        self._words()
        for block in blocks:
            block()
            self._words()
        self._text([tokens.im_end, tokens.newline])

    def audio(self) -> None:
        frames = int(self._rng.integers(20, 420))
        count = 13 * (frames // 100) + -(-(frames % 100) // 8)
        tokens = self._spec.tokens
        self._mels.append(self._rng.normal(0, 0.5, (self._spec.audio.mel_bins, frames)).astype(np.float32))
        self._block(tokens.audio_start, tokens.audio, tokens.audio_end, partial(self._counter.audio, count), count)

    def image(self) -> None:
        rows, cols = (int(n) for n in self._rng.integers(1, 7, 2))
        tokens = self._spec.tokens
        self._grids.append([1, 2 * rows, 2 * cols])
        self._pixels.append(self._patches(4 * rows * cols))
        positions = partial(self._counter.image, rows, cols)
        self._block(tokens.vision_start, tokens.image, tokens.vision_end, positions, rows * cols)

    def video(self) -> None:
        pairs, rows, cols = (int(n) for n in self._rng.integers(1, 5, 3))
        seconds = float(self._rng.choice([0.5, 1.0, 2.0, 0.4]))
        tokens = self._spec.tokens
        self._clips.append([pairs, 2 * rows, 2 * cols])
        self._seconds.append(seconds)
        self._frames.append(self._patches(4 * pairs * rows * cols))
        positions = partial(self._counter.video, pairs, rows, cols, seconds)
        self._block(tokens.vision_start, tokens.video, tokens.vision_end, positions, pairs * rows * cols)

    def close(self) -> None:
        """The start of the answer, and the inputs."""
        tokens = self._spec.tokens
        self._user = False
        self._text([tokens.im_start, tokens.assistant, tokens.newline])
        inputs: dict[str, Any] = {"input_ids": torch.tensor([self._to.ids])}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if self._mels:
            longest = max(mel.shape[1] for mel in self._mels)
            padded = [np.pad(mel, ((0, 0), (0, longest - mel.shape[1]))) for mel in self._mels]
            inputs["input_features"] = torch.from_numpy(np.stack(padded))
            lengths = torch.tensor([mel.shape[1] for mel in self._mels])
            inputs["feature_attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        if self._pixels:
            inputs["pixel_values"] = torch.from_numpy(np.concatenate(self._pixels))
            inputs["image_grid_thw"] = torch.tensor(self._grids)
        if self._frames:
            inputs["pixel_values_videos"] = torch.from_numpy(np.concatenate(self._frames))
            inputs["video_grid_thw"] = torch.tensor(self._clips)
            inputs["video_second_per_grid"] = torch.tensor(self._seconds)
        self._to.inputs = inputs

    def _patches(self, count: int) -> NDArray[np.float32]:
        vision = self._spec.vision
        width = vision.channels * vision.temporal_patch * vision.patch**2
        return self._rng.normal(0, 0.5, (count, width)).astype(np.float32)

    def _words(self) -> None:
        self._text([int(i) for i in self._rng.integers(1000, 140_000, int(self._rng.integers(1, 9)))])

    def _block(self, start: int, pad: int, end: int, positions: Callable[[], NDArray[np.float32]], count: int) -> None:
        self._text([start])
        self._to.media.update(range(len(self._to.ids), len(self._to.ids) + count))
        self._rows([pad] * count, positions)
        self._text([end])

    def _text(self, ids: list[int]) -> None:
        self._rows(ids, partial(self._counter.text, len(ids)))

    def _rows(self, ids: list[int], positions: Callable[[], NDArray[np.float32]]) -> None:
        if self._user:
            self._to.user += range(len(self._to.ids), len(self._to.ids) + len(ids))
            self._to.positions.append(positions())
        self._to.ids += ids


def _generate(drawn: Draw, conversation: Conversation, tokens: int, frames: int) -> None:
    """Fills in `accepted`, `answer` and `codes`."""
    reference = drawn.reference
    with spied(drawn) as seen:
        ids, _ = reference.generate(
            **conversation.inputs,
            return_audio=True,
            speaker=conversation.voice,
            thinker_max_new_tokens=tokens,
            thinker_eos_token_id=None,
            thinker_do_sample=False,
            talker_do_sample=False,
            talker_max_new_tokens=frames + 1,
            talker_repetition_penalty=1.05,
        )
    conversation.accepted = seen["accepted"][0]
    conversation.answer = ids[0, len(conversation.ids) : -1].tolist()
    conversation.codes = seen["codes"][0].T


@contextmanager
def spied(drawn: Draw) -> Iterator[dict[str, Tensor]]:
    """What `generate` hands from thinker to talker at the prefill, and the codes instead of their sound."""
    assert drawn.spec.talker is not None
    seen: dict[str, Tensor] = {}
    reference = drawn.reference

    def accepted(_module: Any, _inputs: Any, output: Tensor) -> None:
        seen.setdefault("accepted", output)

    def codes(codes: Tensor, **_: Any) -> Tensor:
        seen["codes"] = codes
        return torch.zeros(1, 1, 1)

    layer = reference.thinker.model.language_model.layers[drawn.spec.talker.accept_layer - 1]
    hook = layer.register_forward_hook(accepted)
    reference.code2wav.chunked_decode = codes
    try:
        yield seen
    finally:
        del reference.code2wav.chunked_decode
        hook.remove()
