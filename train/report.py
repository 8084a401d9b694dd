"""What a run shows: a progress bar with the time left, log.jsonl, TensorBoard with pictures.

Only the leading rank writes. Knows nothing about stages or weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor
from tqdm import tqdm

from sim_stream.errors import Unavailable
from sim_stream.models.vq_model import to_pixels
from sim_stream.plain_json import to_json
from train.config import LoopConfig

CLIP_FPS = 4


class Report:
    def __init__(self, config: LoopConfig, leads: bool, step: int, progress: float) -> None:
        self.config, self.leads = config, leads
        self.timed = config.minutes is not None
        # With a time budget steps have no known total; percent of the budget has.
        self.bar = tqdm(
            total=100 if self.timed else config.steps,
            initial=round(100 * progress, 1) if self.timed else step,
            disable=not leads,
            mininterval=2.0,
            desc=config.out.name,
            unit="%" if self.timed else "step",
            smoothing=0.1,
        )
        self.events = open_events(config) if leads and config.tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.close()
        if self.events is not None:
            self.events.close()

    def advance(self, step: int, progress: float) -> None:
        self.bar.update((round(min(100.0, 100 * progress), 1) if self.timed else step) - self.bar.n)

    def warn(self, text: str) -> None:
        tqdm.write(text)

    def log(self, step: int, spent_s: float, figures: Mapping[str, float]) -> None:
        if not self.leads or not figures:
            return
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()}, refresh=False)
        line = {"step": step, "minutes": round(spent_s / 60, 2), **figures}
        try:
            with (self.config.out / "log.jsonl").open("a") as file:
                file.write(to_json(line) + "\n")
        except OSError as error:
            self.warn(f"step {step}: log.jsonl not written: {error}")
        if self.events is not None:
            for name, value in figures.items():
                self.events.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, Tensor]) -> None:
        if self.events is None:
            return
        for name, x_NCHW in pictures.items():
            images = to_pixels(x_NCHW).cpu().numpy()
            if name.endswith("_clip"):
                add_clip(self.events, name, images, step)
            else:
                self.events.add_images(name, images, step, dataformats="NHWC")


def open_events(config: LoopConfig) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Unavailable(
            "tensorboard is not installed: pip install 'sim-stream[train]', or --no-tensorboard"
        ) from error
    return SummaryWriter(str(config.out / "tensorboard"))


def add_clip(events: Any, name: str, images_THWC: np.ndarray, step: int) -> None:
    """A moving picture. TensorBoard shows a GIF as an image; its own add_video needs moviepy."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    first, *rest = [Image.fromarray(image) for image in images_THWC]
    data = io.BytesIO()
    first.save(data, "GIF", save_all=True, append_images=rest, duration=1000 // CLIP_FPS, loop=0)
    height, width, _ = images_THWC.shape[1:]
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=data.getvalue()
    )
    summary = Summary(value=[Summary.Value(tag=name, image=image)])
    events._get_file_writer().add_summary(summary, step)
