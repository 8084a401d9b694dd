"""Stage 3: the three-frame decoder from the inflated image decoder (eq. 8: all three slots).

The tokenizer is frozen: its ids are the input, its codebook does not move. The discriminator sees
the three frames as one clip.

Legend: B batch, T = 3 frames, N codes of a frame, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sim_stream.models.layers import channels_last
from sim_stream.models.video_decoder import VideoDecoder
from sim_stream.models.vq_model import from_pixels
from train.config import VideoDecoderTraining
from train.data.split import Split
from train.discriminator import Adversary
from train.losses import Features, psnr_db, reconstruction_terms
from train.parallel import WHOLE, Share

FRAMES = 3


class Clips:
    """Ids (B T N) and uint8 frames (B T H W C), three consecutive ones, from (seed, step)."""

    def __init__(
        self, split: Split, batch: int, seed: int = 0, *, tokenizer: str | None = None
    ) -> None:
        """`tokenizer`: the SHA-256 that the ids must be bound to."""
        self.split, self.batch, self.seed = split, batch, seed
        self.ids, self.starts = split.ids(tokenizer), split.windows(FRAMES)

    def at(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = starts[:, None] + np.arange(FRAMES)
        return torch.from_numpy(self.ids[rows].astype(np.int64)), torch.from_numpy(
            self.split.images(rows)
        )

    def __call__(self, step: int, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        return self.at(rng.choice(self.starts, self.batch)[share.rows(self.batch)])

    def evenly(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` clips spread over the whole split."""
        picked = np.linspace(0, len(self.starts) - 1, count).astype(int)
        return self.at(self.starts[picked])


class VideoDecoderStage:
    """Trains everything of the video decoder but its codebook."""

    unused = False

    def __init__(
        self,
        model: VideoDecoder,
        config: VideoDecoderTraining,
        clips: Clips | None,
        *,
        features: Features | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """`model`: inflated (``sim_stream.models.video_decoder.inflate``).

        `identity`: what a checkpoint must share; `clips` None serves a dry run.
        """
        model.quantize.requires_grad_(False)
        channels_last(model)
        self.model: nn.Module = model
        self.decoder, self.config, self.clips = model, config, clips
        self.features, self.validation = features, validation
        self.game = None
        if config.losses.gan:
            self.game = Adversary(config.discriminator, config.losses.gan, temporal=True)
        self.players = self.game.players if self.game else {}
        self._identity = dict(identity or {})
        self.replaced: set[str] = set()

    def blocks(self) -> list[nn.Module]:
        return list(self.decoder.decoder.up_blocks)

    def identity(self) -> dict[str, Any]:
        levels = self.decoder.config.temporal_levels
        return {"stage": "video-decoder", "temporal_levels": levels, **self._identity}

    @property
    def device(self) -> torch.device:
        return self.decoder.quantize.embedding.weight.device

    def batch(self, step: int, share: Share) -> tuple[Tensor, ...]:
        assert self.clips is not None
        return self.clips(step, share)

    def before_step(self, step: int, progress: float) -> None:
        if self.game:
            self.game.progress = progress

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Any]]:
        """Eq. 8: J_rec of each frame, summed over the three, plus the generator's clip loss."""
        ids_BTN, x_BTCHW = batch[0], from_pixels(batch[1])
        y_BTCHW = net(ids_BTN).float()
        x, y = x_BTCHW.flatten(0, 1), y_BTCHW.flatten(0, 1)
        terms = reconstruction_terms(y, x, self.config.losses, self.features)
        # A mean over the batch of B x 3 frames, three times, is the sum of three frames' means.
        terms = {name: FRAMES * value for name, value in terms.items()}
        rec = torch.stack([*terms.values()]).sum()
        figures: dict[str, Any] = {k: v.detach() for k, v in terms.items()}
        figures["psnr"] = psnr_db(y.detach(), x).mean()
        if self.game is None:
            return rec, figures
        clips = (x_BTCHW.transpose(1, 2), y_BTCHW.transpose(1, 2))
        last = self.decoder.decoder.conv_out.weight
        term = self.game.generator_term(*clips, rec, last, figures)
        return (rec if term is None else rec + term), figures

    def player_loss(self, name: str, net: nn.Module) -> Tensor | None:
        return self.game.loss(net) if self.game else None

    def after_step(self, step: int) -> None: ...

    def decoded(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """(reconstructions, frames) of held-out clips, (n T C H W) on the CPU."""
        assert self.validation is not None
        ids, frames = (part[:count] for part in self.validation)
        x = from_pixels(frames)
        y = torch.cat([self.decoder(part.to(self.device)).float().cpu() for part in ids.split(2)])
        return y, x

    def validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        y, x = self.decoded()
        return {f"psnr_slot{t}": psnr_db(y[:, t], x[:, t]).mean().item() for t in range(FRAMES)}

    def pictures(self) -> dict[str, Tensor]:
        if self.validation is None:
            return {}
        y, x = self.decoded(2)
        return {"true_and_decoded_clip": torch.cat([x[0], y[0]], -1)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
