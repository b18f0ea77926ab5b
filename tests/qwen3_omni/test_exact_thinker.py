"""What is said, shown and written reaches the thinker in pieces, and it answers as Hugging Face's to the whole."""

from __future__ import annotations

import pytest

from tools.exact.lines import failures
from tools.exact.thinker import KINDS, compared


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_in_random_chunks_equals_one_generate(kind: str) -> None:
    assert not failures(compared(1, kind))
