"""Weights that go and come back: what is written, how fast they come, and what a request waits for it."""

import asyncio
import contextlib
import ctypes
import mmap
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lmx_ledger.bench.clients import ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from lmx_ledger.bench.sizes import MemorySizes

_OUT_MS: Final = 100
_PIECE: Final = 1 << 20
_PROMPT: Final = 32


def moving(folder: Path, sizes: MemorySizes) -> Iterator[Figure]:
    """In turns with the file read by itself.

    Raises:
        OSError: the daemon could not be started, or a question was not answered.
    """
    rng = random.Random(2)  # noqa: S311 - a load, not a secret
    model = write_bench_model(folder / "model-paged", sizes.paged)
    file = model / "model.safetensors"
    raw_s, resident_s, paged_s, warm = [], [], [], []
    ours = Daemon(folder / "home-paged", model)
    with running(ours):
        ours.first_token_s()
        _first_s(ours, rng)
        for _ in range(sizes.rounds):
            resident_s.append(_first_s(ours, rng))
            ours.post("/lmx/models/page-out", model="bench")
            warm.append(_let_go(file))
            raw_s.append(_read_s(file))
            warm.append(_let_go(file))
            paged_s.append(_first_s(ours, rng))
        out, back = ([one["data"] for one in ours.events(f"paging.{way}_finished")] for way in ("out", "in"))
    size = sizes.paged.weights_bytes
    told = f"{size / 1e6:,.0f} MB of weights, {len(out)} times"
    yield Figure("page-out: written", max(one["written_bytes"] for one in out), "B", 0, "lower", told)
    took = [one["ms"] for one in out]
    yield Figure("page-out, longest", max(took), "ms", _OUT_MS, "lower", f"median {quantile(took, 0.5):.1f} ms")
    ratios = [raw / (one["ms"] / 1e3) for raw, one in zip(raw_s, back, strict=True)]
    told = (
        f"file of {size / 1e6:,.0f} MB into a new buffer: {size / quantile(raw_s, 0.5) / 1e9:.2f} GB/s, "
        f"ours: {size / quantile([one['ms'] for one in back], 0.5) / 1e6:.2f} GB/s; {_told_of(max(warm))}"
    )
    yield Figure("page-in: bytes/s / raw read", quantile(ratios, 0.5), "x", 0.8, baseline=told)
    waits = [
        paged / (one["ms"] / 1e3 + resident) for paged, one, resident in zip(paged_s, back, resident_s, strict=True)
    ]
    page_in_ms = quantile([one["ms"] for one in back], 0.5)
    paged_ms, resident_ms = (quantile(times, 0.5) * 1e3 for times in (paged_s, resident_s))
    told = f"to the first text: {paged_ms:.0f} ms; resident {resident_ms:.0f} ms, page-in {page_in_ms:.0f} ms"
    yield Figure("TTFT of a paged model / page-in + TTFT", quantile(waits, 0.5), "x", 1.25, "lower", told)


def _first_s(ours: Daemon, rng: random.Random) -> float:
    heard = asyncio.run(ask(ours.port, completion(words(rng, _PROMPT), 1)))
    if heard.error:
        raise OSError(f"a question was not answered: {heard.error}")
    return heard.first_s


def _read_s(file: Path) -> float:
    began = time.perf_counter()
    buffer = memoryview(bytearray(file.stat().st_size))
    at = 0
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer[at : at + _PIECE]):
            at += count
    return time.perf_counter() - began


def _let_go(file: Path) -> float:
    """Have the system forget what it has of a file in memory; the share that is there still."""
    with file.open("rb") as source:
        os.fsync(source.fileno())
        with contextlib.suppress(AttributeError):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _cached(source.fileno())


def _cached(number: int) -> float:
    libc = ctypes.CDLL(None, use_errno=True)
    # A private mapping, for ctypes takes the address of writable ones only; nothing is written.
    with mmap.mmap(number, 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (len(mapped) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        there = (ctypes.c_ubyte * pages)()
        first = ctypes.c_char.from_buffer(mapped)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), there)
        del first
    return 1.0 if failed else sum(one & 1 for one in there) / pages


def _told_of(warm: float) -> str:
    return (
        "nothing of it in the page cache before" if not warm else f"up to {warm:.0%} of it was in the page cache before"
    )
