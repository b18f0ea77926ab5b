from __future__ import annotations

import pytest

from omni_rt.engine.api import RespondOptions
from omni_rt.engine.local.context import Context, Marks, Turn
from omni_rt.engine.local.reply import Reply
from omni_rt.engine.local.tts import Speech, TimedWord
from tests.support.speech import silence

MARKS = Marks(system=(1001,), user=(1002,), assistant=(1003,), end=(1004,), newline=(10,))


async def tokenise(text: str) -> list[int]:
    return list(text.encode())


def shown(ids: list[int]) -> str:
    names = {1001: "<s>", 1002: "<u>", 1003: "<a>", 1004: "<e>"}
    return "".join(names.get(token) or chr(token) for token in ids)


def conversation(*turns: Turn) -> Context:
    context = Context(MARKS, tokenise)
    context.system = Turn("system", pending="S")
    context.turns = list(turns)
    return context


async def test_turns_without_content_are_left_out_and_results_share_a_turn() -> None:
    context = conversation(
        Turn("user", pending="hi"),
        Turn("user"),
        Turn("assistant", ids=list(b"call"), pending="!"),
        Turn("tool", pending="1"),
        Turn("tool", pending="2"),
        Turn("assistant", pending="gone", gone=True),
    )
    ids = await context.ids(Turn("user", pending="and"))
    assert shown(ids) == "<s>S<e><u>hi<e><a>call!<e><u>1\n2<e><u>and<e>"
    assert shown(await context.ids(until=context.turns[2])) == "<s>S<e><u>hi<e>"


async def test_growing_keeps_the_beginning() -> None:
    context = conversation(Turn("user", pending="one"))
    before = await context.ids()
    context.add(Turn("assistant", ids=list(b"two")))
    assert (await context.ids())[: len(before)] == before


async def test_the_oldest_exchanges_leave_whole_and_the_last_stays() -> None:
    turns = [
        Turn("system", pending="x"),
        *(Turn(role, pending=f"{n}{role[0]}") for n in range(4) for role in ("user", "assistant")),
    ]
    context = conversation(*turns)
    used = len(await context.ids())
    assert context.leave(5)
    assert shown(await context.ids()) == "<s>S<e><u>1u<e><a>1a<e><u>2u<e><a>2a<e><u>3u<e><a>3a<e>"
    assert context.leave(used)
    assert shown(await context.ids()) == "<s>S<e><u>3u<e><a>3a<e>"
    assert not context.leave(used)
    assert context.least() == len(await context.ids())


def replied(*clauses: tuple[str, list[tuple[int, float, float]], int], audio: bool = True) -> Reply:
    """A reply of clauses with timed words and a length in ms; each character is a token."""
    reply = Reply(RespondOptions(1, audio=audio), Turn("assistant"))
    for text, words, length_ms in clauses:
        for character in text:
            reply.wrote(character, (ord(character),), calling=False)
        reply.speak(text, Speech(silence(length_ms * 1.5 / 1000), tuple(TimedWord(*word) for word in words)))
    return reply


@pytest.mark.parametrize(
    ("audio_ms", "text"),
    [
        (0, ""),
        (150, ""),
        (180, "One"),
        (700, "One, two."),
        (1200, "One, two."),
        (1390, "One, two. Three"),
        (9999, None),
    ],
)
def test_what_was_heard_stays_word_by_word(audio_ms: int, text: str | None) -> None:
    reply = replied(
        ("One, two.", [(3, 100, 200), (9, 400, 800)], 1000),
        (" Three", [(6, 100, 500)], 600),
        (" four", [(5, 50, 400)], 500),
    )
    reply.end("completed")
    heard = reply.cut(audio_ms)
    assert heard == ("One, two. Three four" if text is None else text)
    assert bytes(reply.turn.ids).decode() == heard
    assert reply.turn.gone == (not heard)


def test_a_cut_can_be_corrected() -> None:
    reply = replied(("One, two.", [(3, 100, 200), (9, 400, 800)], 1000))
    reply.end("cancelled")
    assert reply.cut(0) == ""
    assert reply.cut(9999) == "One, two."
    assert not reply.turn.gone
    assert reply.cut(300) == "One"


def test_a_cut_inside_a_token_leaves_text_to_tokenise() -> None:
    reply = Reply(RespondOptions(1), Turn("assistant"))
    reply.wrote("One two", (7,), calling=False)
    reply.wrote(" three", (8,), calling=False)
    reply.speak(
        "One two three", Speech(silence(1), (TimedWord(3, 0, 100), TimedWord(7, 100, 300), TimedWord(13, 300, 600)))
    )
    reply.end("cancelled")
    assert reply.cut(120) == "One"
    assert (reply.turn.ids, reply.turn.pending) == ([], "One")
    assert reply.cut(310) == "One two"
    assert (reply.turn.ids, reply.turn.pending) == ([7], "")


def test_calls_stay_when_the_speech_before_them_was_not_heard() -> None:
    reply = replied(("Wait.", [(5, 0, 500)], 600))
    reply.wrote("{}", (99,), calling=True)
    reply.end("completed")
    assert reply.cut(0) == ""
    assert reply.turn.ids == [99]
    assert not reply.turn.gone
    assert reply.cut(600) == "Wait."
    assert reply.turn.ids == [*b"Wait.", 99]


def test_text_that_was_never_to_be_spoken_counts_as_heard() -> None:
    reply = Reply(RespondOptions(1, audio=False), Turn("assistant"))
    reply.wrote("Hello", (1, 2), calling=False)
    reply.end("completed")
    assert reply.cut(1) == "Hello"
    assert reply.turn.ids == [1, 2]
