"""Decoding strategies against transformers' `generate` on the same weights, in one run.

`generate` is Llama with a static cache and transformers' own sampling of as many new ids. All
decode the last frame of a full context of held-out frames; jacobi's and diagonal's tokens a pass
depend on what is predicted. They run in turn, so that a drift of the machine's speed meets all.

python -m tests.perf.decode [--rounds N] [--window W] [--k K] [--also ENGINES] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim_stream.config import DecodingConfig
from sim_stream.decoding.noise import gumbel_noise
from sim_stream.decoding.strategy import Task
from sim_stream.models.vq_model import from_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.plain_json import to_json
from sim_stream.video import SAMPLE, read_clip
from tests.perf.machine import describe


class Bench:
    """One context; the sample clip's frames with unknown actions."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, layout = runtime, runtime.layout
        known = runtime.preset.session.context_frames - 1
        clip = read_clip(SAMPLE, frames=known, size=runtime.preset.vq.frame)
        with torch.inference_mode():
            ids_TN = runtime.encoder.encode(from_pixels(torch.from_numpy(clip)))
        action = torch.tensor(layout.action_ids(None))
        end = torch.tensor([layout.end_of_frame])
        parts = [part for ids_N in ids_TN for part in (action, ids_N, end)]
        self.context_1S = torch.cat([*parts, action])[None]
        self.guess_N = ids_TN[-1]

    def strategy(self, config: DecodingConfig) -> Callable[[int], int]:
        """A function of the seed that decodes a frame and gives the number of passes."""
        runtime, layout = self.runtime, self.runtime.layout
        cache = runtime.pool.take()
        lead = layout.lead_length
        with torch.inference_mode():
            runtime.world_model(self.context_1S[:, :-lead], None, cache)
        start = cache.length

        def decode(seed: int) -> int:
            cache.roll_back(start)
            noise = gumbel_noise(seed, 1, layout.codes_per_frame, layout.num_codes)
            lead_1P, sampling = self.context_1S[:, -lead:], runtime.preset.sampling
            slot = runtime.begin(config, Task(cache, lead_1P, noise, sampling, self.guess_N))
            while not slot.done:
                runtime.advance()
            assert slot.decoded is not None
            return slot.decoded.passes

        return decode

    def generate(self) -> Callable[[int], int]:
        """transformers on the same weights; prefill is measured apart and taken off."""
        from transformers import LlamaConfig, LlamaForCausalLM

        runtime, codes = self.runtime, self.runtime.layout.codes_per_frame
        config, model = runtime.preset.world_model, runtime.world_model
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vision_vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_heads,
                rms_norm_eps=config.rms_norm_eps,
                max_position_embeddings=4096,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                tie_word_embeddings=False,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=0,
            )
        ).eval()
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        state["model.embed_tokens.weight"] = state.pop("model.vte.weight")
        state["lm_head.weight"] = state.pop("model.vision_head.weight")
        state.pop("model.lm_head.weight")
        llama.load_state_dict(state)
        self._check_equal(llama)
        sampling = runtime.preset.sampling

        def run(new: int, seed: int) -> Tensor:
            torch.manual_seed(seed)
            ids: Tensor = llama.generate(
                self.context_1S,
                attention_mask=torch.ones_like(self.context_1S),
                do_sample=True,
                top_k=sampling.top_k,
                temperature=sampling.temperature,
                max_new_tokens=new,
                min_new_tokens=new,
                cache_implementation="static",
                disable_compile=True,
            )
            return ids

        def decode(seed: int) -> int:
            assert run(codes, seed).shape[1] == self.context_1S.shape[1] + codes
            return codes

        self.prefill = lambda: run(1, 0)
        return decode

    @torch.inference_mode()
    def _check_equal(self, llama: Any) -> None:
        """The same weights indeed: equal logits after the context."""
        model = self.runtime.world_model
        ours = model.vision_logits(model(self.context_1S)[:, -1])
        torch.testing.assert_close(llama(self.context_1S).logits[:, -1], ours, atol=1e-3, rtol=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--window", type=int, default=8, help="of jacobi")
    parser.add_argument("--k", type=int, default=1, help="of diagonal")
    parser.add_argument("--also", default="static,compiled", help="other step engines")
    parser.add_argument("--out", type=Path, help="also write the report here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe()
    runtime = Runtime.load("pocket", device="cpu")
    bench = Bench(runtime)
    configs = {
        "raster": DecodingConfig(),
        "jacobi": DecodingConfig(strategy="jacobi", window=args.window),
        "diagonal": DecodingConfig(strategy="diagonal", k=args.k),
    }
    runs = {name: bench.strategy(runtime.check_decoding(c)) for name, c in configs.items()}
    for engine in filter(None, args.also.split(",")):
        other = Bench(Runtime.load("pocket", device="cpu", step_engine=engine))
        for name in ("raster", "jacobi"):
            runs[f"{engine}_{name}"] = other.strategy(configs[name])
    runs["generate"] = bench.generate()
    for run in runs.values():
        run(0)  # compiles what compiles
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    passes: dict[str, list[int]] = {name: [] for name in runs}
    prefill: list[float] = []
    for seed in range(args.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            passes[name].append(run(seed))
            seconds[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        bench.prefill()
        prefill.append(time.perf_counter() - start)
    seconds["generate"] = [s - float(np.median(prefill)) for s in seconds["generate"]]

    codes = runtime.layout.codes_per_frame
    report: dict[str, Any] = {
        "benchmark": "decode",
        "machine": machine,
        "step_engine": runtime.step_engine,
        "jacobi_window": args.window,
        "diagonal_k": args.k,
    }
    for name in runs:
        p50 = float(np.median(seconds[name]))
        per_pass = codes / float(np.mean(passes[name]))
        ratios = np.array(seconds["generate"]) / np.array(seconds[name])
        ratio = round(float(np.median(ratios)), 2)
        per_s = codes / p50
        print(
            f"{name:16} {1e3 * p50:7.1f} ms per frame  {1 / p50:6.2f} fps  {per_s:6.0f} tokens/s"
            f"  {per_pass:5.2f} tokens per pass  {ratio:5.2f} x generate"
        )
        report[f"{name}_fps"] = round(1 / p50, 3)
        report[f"{name}_tokens_per_s"] = round(codes / p50, 1)
        report[f"{name}_tokens_per_pass"] = round(per_pass, 3)
        report[f"{name}_ratio_to_generate"] = ratio
    report["ratio_to_generate"] = report["raster_ratio_to_generate"]
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


if __name__ == "__main__":
    main()
