"""The step loop: take commands, let mlx-lm's BatchGenerator do one step, send one frame.

Everything MLX is on this thread.

An exception inside a step ends the process: its traceback is on stderr, its last acts are in the flight recorder, and
the daemon owns what happens next.
"""

import importlib.metadata
import json
import os
import queue
import socket
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.generate import BatchGenerator, StopSequences

from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.recorder import FlightRecorder
from lmx_ledger.engine.worker.model import ResidentModel, read_model
from lmx_ledger.engine.worker.sampling import greedy, make_processors, make_sampler, read_logprob

_PREFILL_ROWS = 4


class StepLoop:
    """One worker's life. `inbox` is filled by the thread that reads the socket; this thread alone writes to it."""

    def __init__(
        self, sock: socket.socket, inbox: "queue.SimpleQueue[wire.Command]", recorder: FlightRecorder, blas: str
    ) -> None:
        self._sock = sock
        self._inbox = inbox
        self._recorder = recorder
        self._blas = blas
        self._model: ResidentModel | None = None
        self._generator: BatchGenerator | None = None
        self._streams: dict[int, wire.Insert] = {}
        self._uid_of: dict[int, int] = {}
        self._stops: dict[tuple[int, ...], StopSequences] = {}
        self._steps = 0

    def run(self) -> None:
        """Until shutdown: wait for a command when idle, else step."""
        self._send(
            wire.Hello(
                pid=os.getpid(),
                recommended_bytes=int(mx.device_info().get("max_recommended_working_set_size", 0)),
                mlx=importlib.metadata.version("mlx"),
                mlx_lm=importlib.metadata.version("mlx-lm"),
                device=str(mx.default_device()),
                blas=self._blas,
            )
        )
        self._recorder.note("ready")
        while True:
            if not self._streams and not self._obey(self._inbox.get()):
                return
            while not self._inbox.empty():
                if not self._obey(self._inbox.get()):
                    return
            if self._streams:
                self._step()

    def _obey(self, command: wire.Command) -> bool:
        """Carry out one command; False for the last one."""
        match command:
            case wire.Load():
                self._load(command)
            case wire.Insert():
                self._insert(command)
            case wire.Cancel():
                self._cancel(command.streams)
            case wire.ParseTool():
                self._parse_tool(command)
            case wire.Shutdown():
                self._recorder.note("shutdown")
                return False
        return True

    def _load(self, command: wire.Load) -> None:
        self._recorder.note(f"load {command.path}")
        try:
            model = read_model(Path(command.path))
        except Exception as error:  # noqa: BLE001 - any architecture's code may raise anything; all of it means "cannot be served"
            self._send(wire.LoadFailed(error=f"{type(error).__name__}: {error}"))
            return
        self._model = model
        self._generator = BatchGenerator(
            model.module,
            sampler=greedy,
            completion_batch_size=max(command.max_running, _PREFILL_ROWS),
            prefill_batch_size=_PREFILL_ROWS,
            prefill_step_size=command.prefill_step,
        )
        # On Metal the constructor raises the wired limit of the whole machine (tied to kernel panics under
        # concurrency, ml-explore/mlx#3186); close() only puts it back, the generator stays usable.
        self._generator.close()
        self._recorder.note(f"loaded {model.architecture}, {model.weights_bytes} bytes")
        self._send(
            wire.Loaded(
                weights_bytes=model.weights_bytes,
                vocab=model.vocab,
                architecture=model.architecture,
                dialect=model.dialect,
                active_bytes=mx.get_active_memory(),
                ms=model.ms,
            )
        )

    def _insert(self, command: wire.Insert) -> None:
        self._recorder.note(f"insert {command.stream}: {len(command.prompt)} tokens, at most {command.max_tokens} more")
        if self._generator is None or self._model is None:
            self._send(wire.Refused(stream=command.stream, error="no model is loaded"))
            return
        vocab = self._model.vocab
        if not all(0 <= token < vocab for token in command.prompt):
            self._send(wire.Refused(stream=command.stream, error=f"a token id is outside the vocabulary of {vocab}"))
            return
        eos = tuple(command.eos)
        if eos not in self._stops:
            self._stops[eos] = StopSequences([[token] for token in eos])
        try:
            (uid,) = self._generator.insert(
                [command.prompt],
                max_tokens=[command.max_tokens],
                samplers=[make_sampler(command.sampling, vocab, len(command.prompt) - command.prompt_len)],
                logits_processors=[make_processors(command.sampling, vocab, command.prompt_len)],
                stop_sequences=[self._stops[eos]],
            )
        except ValueError as error:
            self._send(wire.Refused(stream=command.stream, error=str(error)))
            return
        self._streams[uid] = command
        self._uid_of[command.stream] = uid

    def _cancel(self, streams: list[int]) -> None:
        uids = [self._uid_of.pop(stream) for stream in streams if stream in self._uid_of]
        if not uids or self._generator is None:
            return
        self._recorder.note(f"cancel {len(uids)} streams")
        self._generator.remove(uids)
        for uid in uids:
            del self._streams[uid]
        if not self._streams:
            mx.clear_cache()

    def _step(self) -> None:
        assert self._generator is not None  # noqa: S101 - streams exist only behind a loaded model
        self._steps += 1
        self._recorder.note(f"step {self._steps}, streams: {len(self._streams)}")
        reading, generated = self._generator.next()
        tokens = []
        for response in generated:
            stream = self._streams[response.uid]
            tokens.append(
                wire.Token(
                    stream=stream.stream,
                    id=response.token,
                    finish=response.finish_reason,
                    logprob=_logprob(stream.sampling, response),
                )
            )
            if response.finish_reason is not None:
                del self._streams[response.uid]
                del self._uid_of[stream.stream]
        prefill = [
            wire.Prefill(stream=self._streams[r.uid].stream, done=r.progress[0], total=r.progress[1])
            for r in reading
            if r.uid in self._streams
        ]
        self._send(
            wire.Step(
                tokens=tokens,
                prefill=prefill,
                active_bytes=mx.get_active_memory(),
                peak_bytes=mx.get_peak_memory(),
            )
        )
        if not self._streams:
            mx.clear_cache()

    def _parse_tool(self, command: wire.ParseTool) -> None:
        self._recorder.note(f"parse a tool call of {len(command.text)} characters")
        parser = self._model.parse_tool if self._model else None
        if parser is None:
            self._send(wire.ToolParsed(call=command.call, calls_json=None, error="this model has no tool parser"))
            return
        try:
            parsed = parser(command.text, json.loads(command.tools_json))
            calls = parsed if isinstance(parsed, list) else [parsed]
            # To JSON inside the try: a parser may return what JSON cannot hold.
            report = wire.ToolParsed(call=command.call, calls_json=_calls_json(calls), error=None)
        except Exception as error:  # noqa: BLE001 - a parser meets whatever the model wrote; each failure means "no call"
            report = wire.ToolParsed(call=command.call, calls_json=None, error=f"{type(error).__name__}: {error}")
        self._send(report)

    def _send(self, report: wire.Report) -> None:
        try:
            self._sock.sendall(wire.frame(report))
        except BrokenPipeError:
            os._exit(0)


def _logprob(sampling: wire.Sampling, response: Any) -> wire.Logprob | None:
    if not sampling.logprobs:
        return None
    return read_logprob(response.logprobs, response.token, sampling.top_logprobs)


def _calls_json(calls: list[Any]) -> str:
    plain = []
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            raise ValueError(f"a call needs a name: {call!r:.80}")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {call['name']} are no object")
        plain.append({"name": call["name"], "arguments": arguments})
    return msgspec.json.encode(plain).decode()
