"""Frames in the making by the static loop: the host enqueues passes and never holds one up.

Sessions of equal window and sampling share passes. On a GPU a pass is a CUDA graph, and the rows'
fronts are copied to the host behind it. The host reads those of passes that are over and stays at
most `AHEAD` passes in front of the device, which so always has work: a frame's end is seen up to
`AHEAD` passes late, and what those do changes nothing. On a CPU a pass is over when it returns.

Knows no sessions. Belongs to one thread.

Legend: see `static_step`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import SamplingConfig
from sim_stream.decoding.static_step import StaticState, static_pass
from sim_stream.decoding.strategy import Decoded, Task
from sim_stream.models.attention import Attend
from sim_stream.models.kv_cache import KVPool
from sim_stream.models.world_model import WorldModel

log = logging.getLogger(__name__)
progress = logging.getLogger("sim_stream.progress")  # as in logs

AHEAD = 2
WARM_UP_PASSES = 3
MOST_FORMS = 256

StaticPass = Callable[[WorldModel, StaticState, Attend, Tensor, Tensor, int, int], None]


@dataclass(eq=False)
class StaticSlot:
    """One frame. `fronts`: where its front was after each pass that is known to be over."""

    task: Task
    window: int
    fronts: list[int] = field(default_factory=lambda: [0])
    decoded: Decoded | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.decoded is not None or self.error is not None

    @property
    def row(self) -> int:
        return self.task.cache.row


class StaticSlots:
    """`begin` adds a frame, `advance` gives every frame in the making one pass."""

    def __init__(
        self,
        model: WorldModel,
        pool: KVPool,
        attend: Attend,
        *,
        lead: int,
        codes: int,
        vocabulary: int,
        compiled: bool = False,
    ) -> None:
        """`lead`: ids that lead to a frame, `codes` and `vocabulary` of a frame."""
        self.state = StaticState(pool, lead, codes, vocabulary)
        self._model, self._attend = model, attend
        self._pass: StaticPass = compiled_pass() if compiled else static_pass
        self._watch = Watch(self.state.front_R)
        self.active: list[StaticSlot] = []
        self._forms: dict[tuple[int, int, int], Form] = {}
        model.rope(0, pool.slots, pool.device)

    @torch.inference_mode()
    def begin(self, window: int, task: Task) -> StaticSlot:
        """More ids may lead to a frame than the state has columns for: the first enter here."""
        state, first = self.state, task.lead_1P.shape[1] - self.state.lead
        assert first >= 0, "fewer ids lead to the frame than the state has columns for"
        task.cache.check_room(first + state.end)
        if first:
            self._model(task.lead_1P[:, :first], None, task.cache)
        cache, lead_P = task.cache, task.lead_1P[0, first:]
        state.put(cache.row, cache.length, lead_P, task.guess_N, task.noise_NV)
        slot = StaticSlot(task, window)
        self.active.append(slot)
        return slot

    @torch.inference_mode()
    def advance(self) -> None:
        """A pass that fails ends all slots that were in it, with its error."""
        groups: dict[tuple[int, SamplingConfig], list[StaticSlot]] = {}
        for slot in self.active:
            groups.setdefault((slot.window, slot.task.sampling), []).append(slot)
        for (window, sampling), slots in groups.items():
            try:
                self._form(window, sampling, slots).run(slots, sampling)
                self._watch.passed(slots)
            except Exception as error:
                for slot in slots:
                    slot.error = error
        for slot in self.active:
            if slot.error is None:
                self._look(slot)
        self.active = [slot for slot in self.active if not slot.done]

    def drop(self, slot: StaticSlot) -> None:
        """Ends a frame whose session is gone."""
        if slot in self.active:
            self.active.remove(slot)

    def _form(self, window: int, sampling: SamplingConfig, slots: list[StaticSlot]) -> Form:
        rows = 1 + max(slot.row for slot in slots)
        top_k = min(sampling.top_k, self.state.noise_RNV.shape[-1])
        key = (rows, window, top_k)
        if key not in self._forms:
            self._forms[key] = Form(self._pass, self._model, self.state, self._attend, *key)
        return self._forms[key]

    def _look(self, slot: StaticSlot) -> None:
        """Ends a frame that is done or whose time is up."""
        state, front, task = self.state, slot.fronts[-1], slot.task
        approximated = front < state.end
        if approximated and (task.expired is None or not task.expired()):
            return
        found = np.maximum(np.array(slot.fronts) - (state.lead - 1), 0)
        task.cache.advance(front)
        accepted = tuple(int(count) for count in np.diff(found))
        slot.decoded = Decoded(state.codes(slot.row), accepted, approximated)


class Form:
    """A pass over the first `rows` rows with one window and top-k, ready to run again and again."""

    def __init__(
        self,
        step: StaticPass,
        model: WorldModel,
        state: StaticState,
        attend: Attend,
        rows: int,
        window: int,
        top_k: int,
    ) -> None:
        device = state.front_R.device
        self._active_B = torch.zeros(rows, dtype=torch.bool, device=device)
        self._scale = torch.ones((), device=device)
        self._slots: list[StaticSlot] = []
        self._sampling: SamplingConfig | None = None
        arguments = (model, state, attend, self._active_B, self._scale, window, top_k)
        self._run: Callable[[], None] = lambda: step(*arguments)
        if device.type == "cuda":
            self._run = capture(self._run)
            log.info("captured a pass of %d rows, window %d, top-k %d", rows, window, top_k)

    def run(self, slots: list[StaticSlot], sampling: SamplingConfig) -> None:
        """Enqueues one pass."""
        if slots != self._slots:
            self._slots = list(slots)
            self._active_B.zero_()
            for slot in slots:
                self._active_B[slot.row].fill_(True)
        if sampling != self._sampling:
            self._sampling = sampling
            self._scale.fill_(1.0 / sampling.temperature)
        self._run()


class Watch:
    """Brings the rows' fronts from the device to the slots, in the order of the passes."""

    def __init__(self, front_R: Tensor) -> None:
        self._front_R = front_R
        self._under_way: deque[tuple[torch.cuda.Event, Tensor, list[StaticSlot]]] = deque()

    def passed(self, slots: list[StaticSlot]) -> None:
        """A pass of these slots was enqueued. Adds what is known of passes by now to all slots."""
        if self._front_R.device.type == "cpu":
            self._note(self._front_R, slots)
            return
        front_R = torch.empty(len(self._front_R), dtype=torch.int64, pin_memory=True)
        front_R.copy_(self._front_R, non_blocking=True)
        over = torch.cuda.Event()
        over.record()
        self._under_way.append((over, front_R, slots))
        while self._under_way and (len(self._under_way) > AHEAD or self._under_way[0][0].query()):
            oldest, front_R, its_lanes = self._under_way.popleft()
            oldest.synchronize()
            self._note(front_R, its_lanes)

    @staticmethod
    def _note(front_R: Tensor, slots: list[StaticSlot]) -> None:
        fronts = front_R.numpy()  # memory of the host: nothing is waited for
        for slot in slots:
            if not slot.done:
                slot.fronts.append(int(fronts[slot.row]))


def compiled_pass() -> StaticPass:
    """The pass through `torch.compile`, as one graph for each form."""
    compiled = torch.compile(static_pass, fullgraph=True, dynamic=False)
    known: set[tuple[int, ...]] = set()

    def run(*arguments: Any) -> None:
        active_B, (window, top_k) = arguments[3], arguments[-2:]
        form, begin_s = (len(active_B), window, top_k), time.monotonic()
        if form not in known:
            progress.info(
                "compiling a pass of %d rows, window %d, top-k %d; this may take minutes", *form
            )
        # Forms share their code: beyond 8 of them dynamo would give up.
        with torch._dynamo.config.patch(recompile_limit=MOST_FORMS):
            compiled(*arguments)
        if form not in known:
            known.add(form)
            progress.info("compiled in %.0f s", time.monotonic() - begin_s)

    return run


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """A CUDA graph of `run`, which must change nothing while no row is active."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_PASSES):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
