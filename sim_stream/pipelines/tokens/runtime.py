"""Runtime: a preset's three models on one device, and the sessions that share them.

Device and precision are decided once, here, and logged. Knows nothing about sockets.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from sim_stream.config import TORCH_ENGINES, get_preset
from sim_stream.models import assembly
from sim_stream.models.assembly import Parts
from sim_stream.pipelines.tokens.session import Session
from sim_stream.pipelines.tokens.stack import MAX_SESSIONS, Stack
from sim_stream.runtime.choices import pick_device, pick_precision

progress = logging.getLogger("sim_stream.progress")  # as in logs


class Runtime(Stack):
    """Loads a preset and opens its sessions."""

    @classmethod
    def load(
        cls,
        preset_name: str,
        *,
        weights: Path | str | None = None,
        parts: Parts | None = None,
        device: str = "auto",
        precision: str = "auto",
        kv_precision: str = "auto",
        step_engine: str = "auto",
        attention: str = "auto",
        max_sessions: int = MAX_SESSIONS,
        engines: str | Path = "eager",
    ) -> Runtime:
        """A preset with the weights of a folder (default: those shipped with the package).

        `parts` come from elsewhere. Models go straight to their device and type.
        Raises InvalidInput (what was asked for), CheckpointError, EngineError,
        Unavailable.
        """
        preset = get_preset(preset_name)
        where = pick_device(device)
        chosen = pick_precision(precision, kv_precision, where)
        whole, video = chosen.whole, chosen.video
        if str(engines) not in TORCH_ENGINES:  # a folder's are held to the weights as stored
            whole = video = torch.float32
        dtypes = {"vq_model": whole, "world_model": chosen.whole, "video_decoder": video}
        loaded = assembly.load(preset, weights, parts or Parts(), device=where, dtypes=dtypes)
        runtime = cls(
            preset,
            loaded.vq_model,
            loaded.world_model,
            loaded.video_decoder,
            device=where,
            precision=chosen,
            prompt_ids=loaded.prompt_ids,
            model_id=loaded.model_id,
            weights_sha256=loaded.sha256,
            inflated=loaded.inflated,
            expects=loaded.expects,
            step_engine=step_engine,
            attention=attention,
            max_sessions=max_sessions,
            engines=engines,
        )
        progress.info(
            "loaded preset %s (%s) on %s in %s, video decoder %s, steps by %s, attention %s, "
            "engines %s",
            *(preset.name, runtime.model_id, where, chosen.name, chosen.video),
            *(runtime.step_engine, runtime.attention, runtime.engines.description),
        )
        return runtime

    def open_session(self, *, lookahead: int | None = None) -> Session:
        """Raises Unavailable where `max_sessions` are open."""
        config = self.preset.session
        return Session(self, config if lookahead is None else replace(config, lookahead=lookahead))
