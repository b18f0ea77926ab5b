"""The memory of a decoder: keys and values in pages of one pool, shared between sequences by reference count."""

from __future__ import annotations

from typing import NewType

import numpy as np
import torch
from numpy.typing import NDArray

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.spec import DecoderSpec

Page = NewType("Page", int)
"""Number of a page in its pool; its rows are the slots [number * page, (number + 1) * page)."""
PAGE = 64
"""Tokens of a page where nothing asks for others."""


class CacheFull(EngineError):
    """No room for more tokens; nothing was changed.

    `code` is "context_full" when the sequence itself is too long (for the model or for the whole pool), "busy" when
    other sequences hold the room. `needed` and `free` count tokens.
    """

    def __init__(self, code: str, message: str, *, needed: int, free: int) -> None:
        super().__init__(code, message)
        self.needed = needed
        self.free = free


class KVPool:
    """Room for `tokens` keys and values of every layer, allocated at once and handed out in pages of `page` tokens.

    `keys` and `values`: [layers, slots, kv_heads, head_dim]. The passes over one pool must run on one CUDA stream: a
    page given back is written again by the next pass without waiting.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        *,
        tokens: int,
        page: int = PAGE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if tokens < 1 or page < 1:
            raise ValueError(f"a pool needs at least one token and pages of at least one, not {tokens} and {page}")
        self.page = page
        self.pages = -(-tokens // page)
        self.context = spec.context
        self.spare = self.pages * page
        """First slot of a page that is never handed out: rows of a pass that are none are written there."""
        shape = (spec.layers, (self.pages + 1) * page, spec.kv_heads, spec.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self._users = [0] * self.pages
        self._free = [Page(number) for number in reversed(range(self.pages))]

    @property
    def tokens(self) -> int:
        """Capacity, in whole pages."""
        return self.pages * self.page

    @property
    def free_tokens(self) -> int:
        return len(self._free) * self.page

    @property
    def most_pages(self) -> int:
        """Of the longest sequence that there can be."""
        return min(self.pages, -(-self.context // self.page))

    @property
    def bytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def new(self) -> KVCache:
        return KVCache(self)

    def shared(self, page: Page) -> bool:
        return self._users[page] > 1

    def take(self) -> Page:
        """A page nobody uses; the caller made sure that there is one."""
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: Page) -> None:
        self._users[page] += 1

    def give(self, page: Page) -> None:
        self._users[page] -= 1
        if not self._users[page]:
            self._free.append(page)

    def copy(self, source: Page, target: Page, rows: int) -> None:
        """The first `rows` rows of a page, in every layer, to another page."""
        start, end = source * self.page, target * self.page
        for store in (self.keys, self.values):
            store[:, end : end + rows].copy_(store[:, start : start + rows])


class KVCache:
    """One sequence's keys and values: `length` tokens, in the order of its pages.

    Appending is done in two steps, so that a pass that fails leaves the sequence as it was: `reserve` makes the room,
    `commit` makes the rows count.
    """

    def __init__(self, pool: KVPool) -> None:
        self.pool = pool
        self.length = 0
        self._pages: list[Page] = []
        self._open = True

    @property
    def pages(self) -> tuple[Page, ...]:
        return tuple(self._pages)

    def reserve(self, rows: int) -> None:
        """Makes `rows` more slots writable. A page that others see too and would be written is copied first.

        Raises CacheFull, with nothing changed.
        """
        if not self._open:
            raise RuntimeError("this cache is closed")
        pool = self.pool
        used = self.length % pool.page
        torn = rows > 0 and used > 0 and pool.shared(self._pages[self.length // pool.page])
        more = max(0, -(-(self.length + rows) // pool.page) - len(self._pages))
        if self.length + rows > pool.context or more + torn > pool.free_tokens // pool.page:
            raise self._full(rows, more + torn)
        if torn:
            last = self._pages[self.length // pool.page]
            own = pool.take()
            pool.copy(last, own, used)
            pool.give(last)
            self._pages[self.length // pool.page] = own
        self._pages.extend(pool.take() for _ in range(more))

    def slots(self, rows: int) -> NDArray[np.int64]:
        """Slots of the next `rows` tokens; they must be reserved."""
        page = self.pool.page
        first = self.length // page
        pages = np.asarray(self._pages[first:], dtype=np.int64)
        places = np.arange(self.length, self.length + rows)
        return pages[places // page - first] * page + places % page

    @property
    def slot(self) -> int:
        """Of the next token; it must be reserved."""
        number, within = divmod(self.length, self.pool.page)
        return self._pages[number] * self.pool.page + within

    def commit(self, rows: int) -> None:
        """The next `rows` slots are written."""
        self.length += rows

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens; the time does not depend on how many are kept."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate {self.length} tokens to {length}")
        keep = -(-length // self.pool.page)
        while len(self._pages) > keep:
            self.pool.give(self._pages.pop())
        self.length = length

    def fork(self) -> KVCache:
        """A second sequence with the same tokens; whichever of the two writes first copies the last, partial page."""
        if not self._open:
            raise RuntimeError("this cache is closed")
        twin = KVCache(self.pool)
        twin.length = self.length
        twin._pages = self._pages[: -(-self.length // self.pool.page)]
        for page in twin._pages:
            self.pool.share(page)
        return twin

    def close(self) -> None:
        """Gives every page back; a second call does nothing."""
        self.truncate(0)
        self._open = False

    def _full(self, rows: int, pages: int) -> CacheFull:
        pool = self.pool
        length = self.length + rows
        limit = min(pool.context, pool.tokens)
        if length > limit:
            return CacheFull(
                "context_full",
                f"{rows} more tokens would make {length}, the limit is {limit}; remove older turns",
                needed=rows,
                free=limit - self.length,
            )
        needed = pages * pool.page
        return CacheFull(
            "busy",
            f"{needed} tokens of cache memory are needed and {pool.free_tokens} of {pool.tokens} are free; "
            "close other sessions or give the engine more cache memory",
            needed=needed,
            free=pool.free_tokens,
        )
