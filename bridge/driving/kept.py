"""The files of one drive: the video, the sheet and the JSON lines.

They are finished and get their names when the drive ends, whatever ends it: a drive that Ctrl-C or
an error cut off is readable up to there. A drive without a single frame leaves nothing.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from bridge.driving.log import DriveLog
from bridge.driving.loop import Moment
from bridge.driving.measures import Measure
from bridge.driving.page import SHEET_COLUMNS, Page
from sim_stream.outputs import write_whole
from sim_stream.plain_json import to_json
from sim_stream.video_writer import Mp4Writer, write_png


class KeptDrive:
    """Measures, draws and writes every moment of one drive; `finish` after it."""

    def __init__(self, out: Path, page: Page, *, frames: int, frame_s: float, name: str) -> None:
        self.out = out
        self._page, self._frames, self._frame_s, self._name = page, frames, frame_s, name
        self._measure = Measure(frame_s)
        self._shown = set(np.linspace(0, frames, SHEET_COLUMNS, dtype=int).tolist())
        self._pairs: list[tuple[Any, Any]] = []

    def add(self, moment: Moment) -> None:
        measured = self._measure(moment)
        self._log.add(moment, measured)
        # What a simulator whose drive is over last showed stays, in the dark.
        pair = (moment.frame // 3 if moment.over else moment.frame, moment.predicted.image)
        self._writer.write(self._page.frame(*pair, self._log.frames))
        if moment.index in self._shown:
            self._pairs.append(pair)
        if moment.index:
            if not moment.over:
                self._bar.set_postfix(psnr_db=f"{measured.psnr_db:.1f}", refresh=False)
            self._bar.update()

    def finish(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        """The summary of a drive that went on to its end, which is kept in a file, too."""
        summary = {**before, **self._log.summary(self._frame_s), **after, "out": str(self.out)}
        write_whole(self.out.with_suffix(".json"), to_json(summary) + "\n")
        return summary

    def __enter__(self) -> Self:
        size = (self._page.height, self._page.width)
        with ExitStack() as on_failure:
            self._writer = Mp4Writer(self.out, fps=round(1 / self._frame_s), size=size)
            on_failure.callback(self._writer.abort)
            self._log = DriveLog(self.out.with_suffix(".jsonl"))
            on_failure.pop_all()
        self.out.with_suffix(".json").unlink(missing_ok=True)  # that of an earlier drive
        self._bar = tqdm(total=self._frames, unit="frame", desc=self._name, file=sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
        try:
            self._log.close()
        finally:
            self._finish_pictures()

    def _finish_pictures(self) -> None:
        if not self._pairs:  # stopped at the first picture, which is always on the sheet
            self._writer.abort()
            return
        self._writer.close()
        write_png(self.out.with_suffix(".png"), self._page.sheet(self._pairs, self._log.frames))
