"""`evaluate --protocol openviga`: the paper's evaluation (Sec. IV, Tables II-VI).

T = 2 true frames, N = 14 predicted, of up to 500 held-out videos. Systems: TOK+DEC and TOK+VDEC
transcode the true frames; TOK+WM+DEC and TOK+WM+VDEC decode what the world model predicts at each
top-k. Predicted ids are kept in the report's folder, so that an interrupted evaluation goes on.

Legend: V videos, T prompt frames, N predicted frames, P codes of a frame, C H W of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sim_stream.config import FrameSize, Preset, SamplingConfig, SessionConfig
from sim_stream.errors import InvalidInput
from sim_stream.models import checkpoints
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import VQModel, from_pixels, to_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from train.data.ego import action_of
from train.data.manifest import file_sha256
from train.data.sample import allocate
from train.data.split import Split
from train.data.work import Journal
from train.metrics.suite import NAMES, Suite

TOP_K = (1, 5, 10, 50, 200, 1000)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    videos: int = 500
    prompt: int = 2
    predicted: int = 14
    top_k: tuple[int, ...] = TOP_K
    temperature: float = 1.0
    metrics: tuple[str, ...] = NAMES
    networks: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("videos", "prompt", "predicted"):
            if getattr(self, name) < 1:
                raise InvalidInput(name, getattr(self, name), "1 or more")
        if not self.top_k or min(self.top_k) < 1:
            raise InvalidInput("top_k", list(self.top_k), "values of 1 or more")
        unknown = sorted(set(self.metrics) - set(NAMES))
        if unknown:
            raise InvalidInput("metrics", ", ".join(unknown), ", ".join(NAMES))


class IdsTap(nn.Module):
    """Stands in a runtime's video decoder's place and keeps the ids that it is given.

    Both decoders then decode one and the same prediction, outside of the runtime.
    """

    def __init__(self, frame: FrameSize) -> None:
        super().__init__()
        self.frame = frame
        self.ids_P = torch.zeros(0)

    def forward(self, ids_BTP: Tensor, emit: int) -> Tensor:
        self.ids_P = ids_BTP[0, emit].cpu()
        return torch.zeros(1, 3, self.frame.height, self.frame.width)


@dataclass
class Models:
    """A weights folder's three models, and a runtime of its world model."""

    preset: Preset
    vq: VQModel
    video: VideoDecoder
    runtime: Runtime
    tap: IdsTap
    weights_sha256: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def load(
        cls, preset: Preset, weights: Path, device: torch.device, protocol: Protocol
    ) -> Models:
        frames = protocol.prompt + protocol.predicted
        session = SessionConfig(context_frames=frames, anchor_frames=1, lookahead=0)
        preset = replace(preset, session=session)
        loaded = checkpoints.load(weights, preset)
        tap = IdsTap(preset.vq.frame)
        runtime = Runtime(
            preset,
            loaded.vq_model,
            loaded.world_model,
            tap,  # type: ignore[arg-type]  # takes the place of a video decoder
            device=device,
            prompt_ids=loaded.prompt_ids,
            max_sessions=1,
        )
        video = loaded.video_decoder.to(device).eval()
        return cls(preset, loaded.vq_model, video, runtime, tap, loaded.sha256, device)

    @torch.inference_mode()
    def encode(self, frames_THWC: np.ndarray) -> Tensor:
        return self.vq.encode(from_pixels(torch.from_numpy(frames_THWC)).to(self.device))

    @torch.inference_mode()
    def decode_images(self, ids_TP: Tensor, first: int) -> Tensor:
        """DEC of frames from `first` on, (n C H W) in [-1, 1]."""
        return torch.cat([self.vq.decode(part) for part in ids_TP[first:].split(4)]).float()

    @torch.inference_mode()
    def decode_video(self, ids_TP: Tensor, first: int) -> Tensor:
        """VDEC of frames from `first` on: the middle of three, the last one a right slot."""
        last = len(ids_TP) - 1
        frames = []
        for t in range(first, last + 1):
            low = min(max(t - 1, 0), max(last - 2, 0))
            frames.append(self.video(ids_TP[None, low : low + 3], t - low))
        return torch.cat(frames).float()

    def predict(
        self, frames_THWC: np.ndarray, actions_T2: np.ndarray, k: int, protocol: Protocol, seed: int
    ) -> np.ndarray:
        """Ids (N P) that follow the first frames; `actions_T2` of all T + N frames."""
        takes = bool(self.preset.actions_per_frame)
        actions = [action_of(row) if takes else None for row in actions_T2]
        sampling = SamplingConfig(
            top_k=min(k, self.preset.vq.num_vq_embeddings), temperature=protocol.temperature
        )
        found = []
        with self.runtime.open_session(lookahead=0) as session:
            prompt = frames_THWC[: protocol.prompt]
            leads = actions[: protocol.prompt] if takes else None
            session.reset(prompt, seed=seed, actions=leads, sampling=sampling)
            for action in actions[protocol.prompt :]:
                session.step(action)
                found.append(self.tap.ids_P.numpy().astype(np.uint16))
        return np.stack(found)


def clips_of(split: Split, protocol: Protocol) -> list[int]:
    """Start rows: the beginning of each video, at most as many videos as asked, evenly spread."""
    length = protocol.prompt + protocol.predicted
    starts = [drive.start for drive in split.drives if drive.length >= length]
    if not starts:
        raise InvalidInput("cache", f"{split.folder} without a drive of {length} frames", "longer")
    picked = np.linspace(0, len(starts) - 1, min(protocol.videos, len(starts))).astype(int)
    return [starts[i] for i in picked]


def predicted_ids(
    models: Models, split: Split, starts: list[int], k: int, protocol: Protocol, out: Path
) -> np.ndarray:
    """(V N P) uint16, from the folder where they are there already."""
    path = out / f"ids-k{k}.npy"
    job = {
        "weights": models.weights_sha256, "cache": file_sha256(split.folder / "drives.json"),
        "videos": len(starts), "prompt": protocol.prompt, "predicted": protocol.predicted,
        "k": k, "temperature": protocol.temperature, "seed": protocol.seed,
    }  # fmt: skip
    journal = Journal(path.with_suffix(".jsonl"), job)
    codes = models.preset.vq.codes_per_frame
    allocate(path, (len(starts), protocol.predicted, codes), np.uint16)
    array = np.load(path, mmap_mode="r+")
    length = protocol.prompt + protocol.predicted
    for video, start in enumerate(tqdm(starts, f"predict k={k}", unit="video")):
        if str(video) in journal.rows:
            continue
        rows = slice(start, start + length)
        array[video] = models.predict(
            split.images(rows), split.actions[rows], k, protocol, protocol.seed + video
        )
        array.flush()
        journal.add({"id": str(video)})
    return array


def systems(protocol: Protocol) -> list[tuple[str, bool, int | None]]:
    """(name, through VDEC, top-k or None for transcoding), in Table V's order."""
    rows: list[tuple[str, bool, int | None]] = []
    for video, decoder in ((False, "DEC"), (True, "VDEC")):
        rows.append((f"TOK+{decoder}", video, None))
        rows += [(f"TOK+WM+{decoder} k={k}", video, k) for k in protocol.top_k]
    return rows


def made_clips(
    models: Models,
    split: Split,
    starts: list[int],
    ids_VNP: np.ndarray | None,
    protocol: Protocol,
    *,
    video: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(true, made) clips (1 N C H W) in [-1, 1]; made ones as uint8 would show them."""
    length, first = protocol.prompt + protocol.predicted, protocol.prompt
    for index, start in enumerate(starts):
        frames = split.images(slice(start, start + length))
        ids = models.encode(frames)
        if ids_VNP is not None:
            predicted = torch.from_numpy(ids_VNP[index].astype(np.int64)).to(ids.device)
            ids = torch.cat([ids[:first], predicted])
        decode = models.decode_video if video else models.decode_images
        made = from_pixels(to_pixels(decode(ids, first)))
        yield from_pixels(torch.from_numpy(frames[first:]))[None], made[None]


def evaluate(
    models: Models, split: Split, protocol: Protocol, out: Path, images: Split | None = None
) -> dict[str, Any]:
    """All systems' metrics; `images`: single validation frames for Tables II and III."""
    out.mkdir(parents=True, exist_ok=True)
    starts = clips_of(split, protocol)
    found: dict[str, Any] = {
        "weights_sha256": models.weights_sha256,
        "preset": models.preset.name,
        "videos": len(starts),
        "prompt_frames": protocol.prompt,
        "predicted_frames": protocol.predicted,
        "systems": {},
    }
    predicted: dict[int, np.ndarray] = {
        k: predicted_ids(models, split, starts, k, protocol, out) for k in protocol.top_k
    }
    for name, video, k in systems(protocol):
        suite = Suite.open(protocol.metrics, protocol.networks, models.device, protocol.predicted)
        ids = None if k is None else predicted[k]
        clips = made_clips(models, split, starts, ids, protocol, video=video)
        for true, made in tqdm(clips, name, len(starts), unit="video"):
            suite.add(true, made)
        found["systems"][name] = suite.result()
    if images is not None:
        found["reconstruction"] = reconstruct(models, images, protocol)
    return found


def reconstruct(models: Models, images: Split, protocol: Protocol) -> Mapping[str, Any]:
    """Tables II and III: TOK+DEC on single frames."""
    names = tuple(name for name in protocol.metrics if name != "FVD")
    suite = Suite.open(names, protocol.networks, models.device, 1)
    for start in tqdm(range(0, len(images), 8), "images", unit="batch"):
        frames = images.images(slice(start, start + 8))
        made = models.decode_images(models.encode(frames), 0)
        suite.add(
            from_pixels(torch.from_numpy(frames))[:, None], from_pixels(to_pixels(made))[:, None]
        )
    return {"images": len(images), **suite.result()}
