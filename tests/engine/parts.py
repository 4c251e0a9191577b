"""A step loop in this process, and a real model that fails when it is told to."""

import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama

from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.recorder import FlightRecorder
from lmx_ledger.engine.worker.loop import StepLoop


class Engine:
    """A step loop on a thread of its own, and the daemon's end of its line."""

    def __init__(
        self,
        model: Path,
        kv: wire.Kv | None = None,
        derived: Path | None = None,
        *,
        prefill_gap: float = 9,
        ahead: bool = False,
    ) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(60)
        self._inbox: queue.SimpleQueue[wire.Command] = queue.SimpleQueue()
        self.recorder = FlightRecorder.create()
        loop = StepLoop(self._theirs, self._inbox, self.recorder, "builtin")
        loop.ahead = ahead
        self._thread = threading.Thread(target=loop.run, daemon=True)
        self._thread.start()
        self._inbox.put(
            wire.Load(
                path=str(model),
                prefill_step=64,
                prefill_gap=prefill_gap,
                kv=kv,
                derived=str(derived) if derived else None,
            )
        )
        assert isinstance(self.report(), wire.Hello)
        loaded = self.report()
        assert isinstance(loaded, wire.Loaded)
        self.loaded = loaded
        self._numbers = 0

    def insert(
        self,
        prompt: list[int],
        max_tokens: int,
        owner: int | None = None,
        *,
        label: str = "",
        known: int = 0,
        boundary: int = 0,
        **sampling: Any,
    ) -> int:
        self._numbers += 1
        drawn = wire.Sampling(**{"temperature": 0.0, **sampling})
        self._inbox.put(
            wire.Insert(
                stream=self._numbers,
                prompt=prompt,
                prompt_len=len(prompt),
                max_tokens=max_tokens,
                eos=[],
                sampling=drawn,
                owner=owner or self._numbers,
                label=label,
                known=known,
                boundary=boundary,
            )
        )
        return self._numbers

    def ask(self, command: Callable[[int], wire.Command]) -> Any:
        """What the worker answers to a call."""
        self._numbers += 1
        self._inbox.put(command(self._numbers))
        while not isinstance(report := self.report(), wire.Answer):
            pass
        return report

    @property
    def kv(self) -> wire.KvOpened:
        """What it found of KV when it loaded the model."""
        assert self.loaded.kv is not None
        return self.loaded.kv

    def cancel(self, stream: int) -> None:
        self._inbox.put(wire.Cancel(streams=[stream]))

    def report(self) -> wire.Report:
        body = wire.read_frame(self._ours)
        assert body is not None
        return wire.decode_report(body)

    def until_done(self, streams: list[int]) -> "Outcome":
        """Reports until each of the streams has ended."""
        outcome, left = Outcome(), set(streams)
        while left:
            report = self.report()
            outcome.reports.append(report)
            if isinstance(report, wire.Step):
                for token in report.tokens:
                    outcome.tokens.setdefault(token.stream, []).append(token.id)
                left -= {token.stream for token in report.tokens if token.finish}
            elif isinstance(report, wire.Failed | wire.Refused):
                left.discard(report.stream)
        return outcome

    def stop(self) -> None:
        self._inbox.put(wire.Shutdown())
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._ours.close()
        self._theirs.close()
        self.recorder.close()


class Outcome:
    def __init__(self) -> None:
        self.reports: list[wire.Report] = []
        self.tokens: dict[int, list[int]] = {}

    def of(self, kind: type[Any]) -> list[Any]:
        return [report for report in self.reports if isinstance(report, kind)]


def fail_when(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[np.ndarray[Any, Any]], bool]) -> None:
    forward = llama.Model.__call__

    def failing(self: Any, inputs: mx.array, *rest: Any, **more: Any) -> Any:
        if wrong(np.array(inputs)):
            raise RuntimeError("[matmul] a kernel fails")
        return forward(self, inputs, *rest, **more)

    monkeypatch.setattr(llama.Model, "__call__", failing)


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(100, 250, length)]
