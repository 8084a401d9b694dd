"""Stage 2: next-token prediction of frame ids, teacher forcing, loss on image ids only.

Full training of small models, LoRA on the 7B one (`lora.py`). Actions are dropped to `unknown` for
whole runs now and then, so that a null action means something. With `scheduled_sampling` some
sequences are seen as a rollout sees them: as the model itself samples them; with `token_corruption`
a few codes that it sees are another drive's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sim_stream.config import Preset, SamplingConfig
from sim_stream.decoding.sampling import sample
from sim_stream.errors import InvalidInput
from sim_stream.layout import FrameLayout
from sim_stream.models.world_model import WorldModel
from train.config import WorldModelTraining
from train.loop import Player
from train.lora import frozen_keys
from train.parallel import Share
from train.sequences import Sequences

DRAWN = 2 / 3  # chance of a frame to be drawn, in sequences with contexts of the model's own
# Foreign codes: how long a run of them is, how much of a frame they are at most, and how many of
# its first codes.
RUN, MOST, CORNER = 3, 0.08, 8


class WorldModelNet(nn.Module):
    """The world model with its loss, as one module to call and to wrap."""

    def __init__(self, model: WorldModel, layout: FrameLayout, *, checkpointing: bool) -> None:
        super().__init__()
        self.model, self.layout = model, layout
        self.frozen_keys = frozen_keys(self)
        if checkpointing:
            for block in model.layers:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def forward(self, ids_BS: Tensor, *, ends: bool = False) -> Tensor:
        """Logits of every code (B T N V), with `ends` of ends of frames too (N + 1).

        Each id is predicted from all ids before it; a sequence that begins with an image id has
        nothing before it, and predicts it from a zero vector.
        """
        layout, first = self.layout, self.layout.prompt_length
        mask = None
        if first:
            mask = torch.arange(ids_BS.shape[1], device=ids_BS.device) >= first
            mask = mask.expand_as(ids_BS)[:, :-1]
        hidden_BSD = self.model(ids_BS[:, :-1], mask)
        # At index s stands what predicts position s of the frames' part.
        hidden_BSD = hidden_BSD[:, first - 1 :] if first else F.pad(hidden_BSD, (0, 0, 1, 0))
        hidden_BTLD = hidden_BSD.unflatten(1, (-1, layout.frame_length))
        # The head itself is called, not its weight: adapters and sharding live in the call.
        logits = self.model.vision_head(hidden_BTLD[:, :, self.image_ids(ends=ends)])
        return logits[..., : layout.num_codes + int(ends)]

    def image_ids(self, *, ends: bool) -> slice:
        """Where a frame's positions hold what is predicted."""
        lead = self.layout.actions_per_frame
        return slice(lead, lead + self.layout.codes_per_frame + int(ends))

    def losses(
        self,
        ids_BS: Tensor,
        *,
        ends: bool = False,
        seen_BS: Tensor | None = None,
        net: nn.Module | None = None,
    ) -> Tensor:
        """Cross-entropy in nats of every code (B T N), with `ends` of ends of frames too (N + 1).

        `seen_BS`: ids that it is predicted from, where they are not the true ones; `net`: this
        module, wrapped.
        """
        logits = (net or self)(ids_BS if seen_BS is None else seen_BS, ends=ends)
        frames_BTL = ids_BS[:, self.layout.prompt_length :].unflatten(
            1, (-1, self.layout.frame_length)
        )
        targets = frames_BTL[:, :, self.image_ids(ends=ends)]
        losses = F.cross_entropy(logits.flatten(0, 2).float(), targets.flatten(), reduction="none")
        return losses.view(targets.shape)

    @torch.no_grad()
    def drawn(self, ids_BS: Tensor, sampling: SamplingConfig) -> Tensor:
        """The same sequences with every code drawn from the true ids before it.

        The first frame has none before it and stays.
        """
        logits = self(ids_BS)[:, 1:]
        kept, kept_ids = logits.float().topk(min(sampling.top_k, logits.shape[-1]), dim=-1)
        noise = -torch.empty_like(kept).exponential_().log()
        codes = kept_ids.gather(-1, sample(kept, noise, sampling)[..., None]).squeeze(-1)
        first, drawn_BS = self.layout.prompt_length, ids_BS.clone()
        frames_BTL = drawn_BS[:, first:].unflatten(1, (-1, self.layout.frame_length))
        frames_BTL[:, 1:, self.image_ids(ends=False)] = codes
        return drawn_BS


@torch.no_grad()
def init_from_codebook(model: WorldModel, codebook_KD: Tensor, std: float = 0.02) -> None:
    """Embeddings and head rows of the codes start as one random rotation of their code vectors.

    Codes that look alike then begin alike, so that what is learnt of one is known of its
    neighbours: with a few million ids most codes are rare. A little noise keeps rows distinct.
    """
    codes, width = len(codebook_KD), model.config.hidden_size
    centred = codebook_KD - codebook_KD.mean(0)
    basis, _ = torch.linalg.qr(torch.randn(width, centred.shape[1]))
    rows = centred @ basis.T
    rows *= std / rows.std()
    for weight in (model.vte.weight, model.vision_head.weight):
        weight[:codes] = rows + 0.2 * std * torch.randn_like(rows)


class WorldModelStage:
    """Mean cross-entropy of the image ids that the configuration counts."""

    players: Mapping[str, Player] = {}
    unused = True  # the text head gets no loss; without a prompt text embeddings get none either

    def __init__(
        self,
        model: WorldModel,
        preset: Preset,
        config: WorldModelTraining,
        sequences: Sequences | None,
        validation: Tensor | None = None,
        *,
        tokenizer: str | None = None,
        prompt_length: int = 0,
    ) -> None:
        """`model`: fresh, loaded, or with adapters. `validation`: held-out sequences (n S).

        `sequences` None serves a dry run. Raises InvalidInput where the preset's sessions keep
        first frames and the loss would count what follows them after a gap.
        """
        if preset.session.sink_frames and config.all_image_ids:
            allowed = "false for a preset whose sessions keep their first frames"
            raise InvalidInput("all_image_ids", True, allowed)
        layout = sequences.layout if sequences else FrameLayout.of(preset, prompt_length)
        self.net = WorldModelNet(model, layout, checkpointing=config.checkpointing)
        self.model: nn.Module = self.net
        self.preset, self.config, self.tokenizer = preset, config, tokenizer
        self.sequences, self.validation = sequences, validation
        self.replaced: set[str] = set()

    def blocks(self) -> list[nn.Module]:
        return list(self.net.model.layers)

    def identity(self) -> dict[str, Any]:
        lora = self.config.lora
        return {
            "stage": "world-model",
            "world_model": vars(self.preset.world_model),
            "lora": vars(lora) if lora else None,
            "actions_per_frame": self.preset.actions_per_frame,
            "action_bins": vars(self.preset.action_bins),
            "tokenizer": self.tokenizer,
        }

    @property
    def device(self) -> torch.device:
        return self.net.model.norm.weight.device

    def batch(self, step: int, share: Share) -> tuple[Tensor, ...]:
        assert self.sequences is not None
        ids = self.sequences(step, share)
        if not self.config.token_corruption:
            return (ids,)
        return ids, self.sequences.others(step, share)

    def loss(self, net: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Any]]:
        ends, (ids, seen, counted) = (
            self.config.all_image_ids,
            self.with_scheduled_sampling(batch[0]),
        )
        if self.config.token_corruption:
            seen = self.with_token_corruption(seen, batch[1])
        losses = self.net.losses(ids, ends=ends, seen_BS=seen, net=net).mean(-1)
        first = 0 if ends else 1 + self.preset.session.sink_frames
        return losses[:, first:][counted[:, first:]].mean(), {}

    def with_scheduled_sampling(self, ids_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sequences of one frame less, (true, seen), and which frames count (B T): that share
        of the sequences, rounded up, are seen with codes of the model's own drawing.

        A rollout fades when its context is a little paler than any that was trained on. So each
        frame but the last has codes replaced by draws with a chance of `DRAWN`, another share of
        them each time. Such a frame is context and no target: a code is to be trusted by those that
        follow it in its frame, or a frame's rows fall apart. The frame more is what the first one
        is drawn from: a frame that is never drawn tells the model how the others ought to look. So
        do the first frames that a session keeps, and they are true in a session too. (Scheduled
        sampling in parallel, Mihaylova and Martins 2019, arXiv:1906.07651, of frames.)
        """
        layout, frames = self.net.layout, self.config.frames
        prompt, length = layout.prompt_length, layout.frame_length
        counted = torch.ones(len(ids_BS), frames, dtype=torch.bool, device=ids_BS.device)
        if not self.config.scheduled_sampling:
            return ids_BS, ids_BS, counted
        kept = self.preset.session.sink_frames
        more = layout.frame_start(kept)  # the frame more begins there
        cut = torch.cat([ids_BS[:, :more], ids_BS[:, more + length :]], 1)
        # The same number on every rank: sharded ranks call the model together.
        count = math.ceil(self.config.scheduled_sampling * len(cut))
        drawn = self.net.drawn(ids_BS[:count, :-length], self.preset.sampling)
        counted[:count, :-1] = torch.rand(count, frames - 1, device=cut.device) >= DRAWN
        counted[:, :kept] = True
        shares = torch.rand(count, frames - 1, device=cut.device) * ~counted[:count, :-1]
        replaced = torch.rand(*shares.shape, length, device=cut.device) < shares[..., None]
        seen = cut.clone()
        context = seen[:count, prompt:-length]
        drawn = torch.cat([drawn[:, prompt:more], drawn[:, more + length :]], 1)
        context[:] = drawn.where(replaced.flatten(1), context)
        return cut, seen, counted

    def with_token_corruption(self, seen_BS: Tensor, others_BS: Tensor) -> Tensor:
        """The same, where `token_corruption` of the sequences see a few codes of another drive.

        In training all codes agree, so the nearest tell a model all it wants to know: once the
        draws at a frame's corner happen to look like another light, the frame goes on in it, and
        then the drive, whatever the older frames show. So runs of `RUN` codes, up to `MOST` of a
        frame, and in half of the frames up to `CORNER` of the first, are foreign. What is asked
        stays true, and so does the first frame, with all first frames that a session keeps.
        """
        layout, kept = self.net.layout, max(1, self.preset.session.sink_frames)
        seen = seen_BS.clone()

        def newer_codes(ids_BS: Tensor) -> Tensor:
            frames_BTL = ids_BS[:, layout.prompt_length :].unflatten(1, (-1, layout.frame_length))
            newer = slice(kept, self.config.frames)
            return frames_BTL[:, newer, self.net.image_ids(ends=False)]

        def chance(*shape: int) -> Tensor:
            return torch.rand(*shape, device=seen.device)

        codes_BTN = newer_codes(seen)
        batch, frames, positions = codes_BTN.shape
        chosen_B11 = chance(batch, 1, 1) < self.config.token_corruption
        runs = chance(batch, frames, -(-positions // RUN)) < MOST * chance(batch, frames, 1)
        corner_BT1 = (2 * chance(batch, frames, 1) - 1) * CORNER
        foreign = runs.repeat_interleave(RUN, -1)[..., :positions]
        foreign |= torch.arange(positions, device=seen.device) < corner_BT1
        codes_BTN[:] = newer_codes(others_BS).where(foreign & chosen_B11, codes_BTN)
        return seen

    def player_loss(self, name: str, net: nn.Module) -> Tensor | None:
        return None

    def before_step(self, step: int, progress: float) -> None: ...

    def after_step(self, step: int) -> None: ...

    def validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        with torch.autocast(self.device.type, torch.bfloat16):
            parts = [self.net.losses(x.to(self.device)) for x in self.validation.split(4)]
        per_frame = torch.cat(parts).mean((0, 2))
        return {f"nats_frame{t + 1}": v.item() for t, v in enumerate(per_frame)}

    def pictures(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
