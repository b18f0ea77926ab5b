"""The memory of a pass whose shapes never change, so that it can be captured as a graph: what is written there before
it runs, and for how many rows it is made.

All numbers of a pass (token ids, positions, slots, pages, ...) are one array that is copied to the device at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni_rt.engine.api import EngineError
from omni_rt.engine.qwen3_omni.attention import Span
from omni_rt.engine.qwen3_omni.kv_cache import KVPool

Given = Sequence[float] | NDArray[np.int32]
"""Numbers of a field, one for each row from the first on."""
BLOCK = 8
"""Rows of one sequence that are attended together where a sequence has several."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A size of pass: `rows`, in blocks of `block` rows of one sequence; keys are split among `splits` programs."""

    rows: int
    block: int
    sequences: int

    @property
    def blocks(self) -> int:
        return self.rows if self.block == 1 else self.rows // self.block + self.sequences

    @property
    def splits(self) -> int:
        if self.block == 1:
            return 32 if self.rows <= 2 else 16 if self.rows <= 8 else 8 if self.rows <= 16 else 4
        return 8 if self.rows <= 64 else 4 if self.rows <= 128 else 2 if self.rows <= 256 else 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rows of a pass see, int32 on the device.

    `lengths` [n]: keys a row sees, 0 for a row that is none. Of every block [b]: its `first` row, how many (`counts`,
    0 for a block that is none), the keys its first row sees (`begins`), and where its sequence's pages begin
    (`starts`) in `pages`.
    """

    lengths: Tensor
    first: Tensor
    counts: Tensor
    begins: Tensor
    starts: Tensor
    pages: Tensor


@dataclass(frozen=True, slots=True)
class Tables:
    """What the sequences of a pass hold, int32 on the device.

    `rows` and `keys` [sequences + 1]: running sums, from 0; a sequence that is none has neither. `pages` [sequences,
    most pages of one]: 0 behind its own.
    """

    rows: Tensor
    keys: Tensor
    pages: Tensor


@dataclass(frozen=True, slots=True)
class Pass:
    """A bucket's view of the memory: positions float32 [3, rows], slots int32 [rows], and each named field
    [rows], int32 or float32 as the memory says."""

    positions: Tensor
    slots: Tensor
    reading: Reading
    tables: Tables | None
    fields: Mapping[str, Tensor]


class PassMemory:
    """For passes of up to `most` rows of up to `sequences` sequences over one pool. Rows beyond those given are none:
    they write to the pool's spare page and see nothing. `floats` are those of the `fields` that are float32; `tables`:
    whether the passes hold `Tables`. `staged`: passes of single rows are left in memory of the host, from which a step
    takes them (`staging`)."""

    def __init__(
        self,
        pool: KVPool,
        *,
        most: int,
        sequences: int,
        fields: Sequence[str],
        device: torch.device,
        floats: Sequence[str] = (),
        tables: bool = False,
        staged: bool = False,
    ) -> None:
        self.pool = pool
        self._fields = tuple(fields)
        self._floats = frozenset(floats)
        self._device = device
        self._tables = tables
        self._room = 2 * pool.pages + sequences
        largest = Bucket(most, BLOCK, sequences)
        most_blocks = max(largest.blocks, most)
        size = (len(fields) + 5) * most + 4 * most_blocks + sum(self._table_sizes(sequences)) + self._room
        self.numbers = torch.zeros(size, dtype=torch.int32, device=device)
        self._head_formats: dict[int, struct.Struct] = {}
        host = torch.zeros(size, dtype=torch.int32, pin_memory=staged and device.type == "cuda")
        self._host: NDArray[np.int32] = host.numpy()
        self._staging = host if staged and not tables else None
        self._launched: Any = None
        if self._staging is not None and device.type == "cuda":
            self._launched = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def staging(self, bucket: Bucket) -> tuple[Tensor, int] | None:
        """Where `write` leaves a pass of this size, and how many numbers a step first has to take to `numbers`; None
        where `write` takes them there itself."""
        if self._staging is None or bucket.block > 1:
            return None
        pages = min(self._room, bucket.rows * self.pool.most_pages)
        return self._staging, self._format(bucket.rows).size // 4 + pages

    def launched(self) -> None:
        """A step that takes what was written is under way: the next `write` waits until it has run."""
        if self._launched is not None:
            self._launched.record()

    def view(self, bucket: Bucket) -> Pass:
        n, b, s = bucket.rows, bucket.blocks, bucket.sequences
        sizes = [n] * len(self._fields) + [n, n, 3 * n, b, b, b, b, *self._table_sizes(s)]
        *fields, slots, lengths, positions, first, counts, begins, starts, rows, keys, table, pages = torch.split(
            self.numbers, [*sizes, len(self.numbers) - sum(sizes)]
        )
        return Pass(
            positions=positions.view(torch.float32).view(3, n),
            slots=slots,
            reading=Reading(lengths, first, counts, begins, starts, pages),
            tables=Tables(rows, keys, table.view(s, self.pool.most_pages)) if self._tables else None,
            fields={
                name: field.view(torch.float32) if name in self._floats else field
                for name, field in zip(self._fields, fields, strict=True)
            },
        )

    def write(
        self,
        bucket: Bucket,
        spans: Sequence[Span],
        positions: NDArray[np.float32],
        fields: Mapping[str, Given],
    ) -> None:
        """Rows of `spans` whose room is reserved; positions [3, n]; fields that are not given are 0. Raises EngineError
        `busy` when the pages that the sequences share are too many."""
        if bucket.block == 1 and not self._tables:
            self._write_tokens(bucket.rows, spans, positions, fields)
            return
        n, b = bucket.rows, bucket.blocks
        rows = sum(span.rows for span in spans)
        tables = self._table_sizes(bucket.sequences)
        head = np.zeros((len(self._fields) + 5) * n + 4 * b + sum(tables), np.int32)
        for number, name in enumerate(self._fields):
            given = fields.get(name, ())
            own = head[number * n : number * n + len(given)]
            (own.view(np.float32) if name in self._floats else own)[:] = given
        at = len(self._fields) * n
        slots, lengths = head[at : at + n], head[at + n : at + 2 * n]
        places = head[at + 2 * n : at + 5 * n].view(np.float32).reshape(3, n)
        at += 5 * n
        first, counts, begins, starts = head[at : at + 4 * b].reshape(4, b)
        slots[:] = self.pool.spare
        places[:, :rows] = positions
        pages: list[NDArray[np.int32]] = []
        row = block = page = 0
        for span in spans:
            cache, count = span.cache, span.rows
            slots[row : row + count] = cache.slots(count)
            lengths[row : row + count] = np.arange(cache.length + 1, cache.length + count + 1)
            blocks = slice(block, block - (-count // bucket.block))
            offsets = np.arange(0, count, bucket.block)
            first[blocks] = row + offsets
            counts[blocks] = np.minimum(bucket.block, count - offsets)
            begins[blocks] = cache.length + 1 + offsets
            starts[blocks] = page
            used = np.asarray(cache.pages, np.int32)
            pages.append(used)
            row, block, page = row + count, blocks.stop, page + len(used)
        self._check(page)
        if self._tables:
            _tabulate(bucket, spans, pages, np.split(head[at + 4 * b :], np.cumsum(tables[:-1])))
        upload_into(self.numbers, np.concatenate([head, *pages]))

    def _write_tokens(
        self,
        n: int,
        spans: Sequence[Span],
        positions: NDArray[np.float32],
        fields: Mapping[str, Given],
    ) -> None:
        """The same for spans of one row each: this is on the way of every token and every frame, and for a few numbers
        lists take a fraction of the time of arrays."""
        count = len(spans)
        caches = [span.cache for span in spans]
        pages = [page for cache in caches for page in cache.pages]
        self._check(len(pages))
        none = [0] * (n - count)
        head: list[float] = []
        for name in self._fields:
            given = fields.get(name, ())
            head += given.tolist() if isinstance(given, np.ndarray) else given
            head += [0] * (n - len(given))
        lengths = [cache.length + 1 for cache in caches]
        head += [cache.slot for cache in caches]
        head += [self.pool.spare] * (n - count)
        head += [*lengths, *none]
        for axis in positions.tolist():
            head += [*axis, *none]
        head += [*range(count), *none, *[1] * count, *none, *lengths, *none]
        start = 0
        for cache in caches:
            head.append(start)
            start += len(cache.pages)
        form = self._format(n)
        if self._launched is not None:
            self._launched.synchronize()
        form.pack_into(self._host.data, 0, *head, *none)
        at = form.size // 4
        self._host[at : at + len(pages)] = pages
        if self._staging is None:
            upload_into(self.numbers, self._host[: at + len(pages)].copy())

    def _format(self, n: int) -> struct.Struct:
        """Of all numbers before the pages, in a pass of `n` single rows."""
        if n not in self._head_formats:
            fields = "".join(f"{n}{'f' if name in self._floats else 'i'}" for name in self._fields)
            self._head_formats[n] = struct.Struct(f"={fields}{2 * n}i{3 * n}f{4 * n}i")
        return self._head_formats[n]

    def _check(self, pages: int) -> None:
        if pages > self._room:
            raise EngineError("busy", f"the sequences of a pass have {pages} pages; there is room for {self._room}")

    def _table_sizes(self, sequences: int) -> tuple[int, int, int]:
        """Of the fields of `Tables`, flat."""
        if not self._tables:
            return 0, 0, 0
        return sequences + 1, sequences + 1, sequences * self.pool.most_pages


def single(pool: KVPool, spans: Sequence[Span], *, tables: bool) -> tuple[Bucket, Pass]:
    """A pass of just these spans, whose room is reserved, in memory of its own and without positions."""
    rows = sum(span.rows for span in spans)
    bucket = Bucket(rows, 1 if rows == len(spans) else BLOCK, len(spans))
    device = pool.keys.device
    memory = PassMemory(pool, most=rows, sequences=len(spans), fields=(), device=device, tables=tables)
    memory.write(bucket, spans, np.zeros((3, rows), np.float32), {})
    return bucket, memory.view(bucket)


def _tabulate(
    bucket: Bucket, spans: Sequence[Span], pages: Sequence[NDArray[np.int32]], parts: Sequence[NDArray[np.int32]]
) -> None:
    """Fills `Tables`, whose fields are `parts`, flat."""
    rows, keys, flat = parts
    table = flat.reshape(bucket.sequences, -1)
    rows[1 : len(spans) + 1] = np.cumsum([span.rows for span in spans])
    keys[1 : len(spans) + 1] = np.cumsum([span.cache.length + span.rows for span in spans])
    for sums in (rows, keys):
        sums[len(spans) + 1 :] = sums[len(spans)]
    for line, used in zip(table, pages, strict=False):
        line[: len(used)] = used


def upload_into(target: Tensor, values: NDArray[np.int32]) -> None:
    """The beginning of `target` gets these numbers, without the host waiting."""
    source = torch.from_numpy(values)
    if target.is_cuda:
        source = source.pin_memory()
    target[: len(values)].copy_(source, non_blocking=True)


def to_host(source: Tensor, target: Tensor) -> Tensor:
    """`target`, in pinned memory, with what `source` holds when all work before is done."""
    target.copy_(source, non_blocking=True)
    if source.is_cuda:
        torch.cuda.current_stream(source.device).synchronize()
    return target
