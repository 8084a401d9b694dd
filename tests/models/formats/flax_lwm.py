"""LWM's two networks in Flax, small: the independent side of the conversion tests.

Written after LWM's key layout and arithmetic (facts/models.md parts 1 to 3): interleaved rotary
pairs, (in, out) kernels, NHWC. Parameters are saved by flax's own serialisation, in tux's stream.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from flax.serialization import to_bytes
from flax.traverse_util import flatten_dict

from sim_stream.config import VQConfig, WorldModelConfig

Params = dict[str, Any]


def interleaved_rope(x_BSHK: jax.Array, theta: float) -> jax.Array:
    """Pairs (2i, 2i+1) as complex numbers, as in LWM's `apply_rotary_emb`."""
    positions, width = x_BSHK.shape[1], x_BSHK.shape[3]
    frequency = 1.0 / theta ** (jnp.arange(0, width, 2) / width)
    angle_SP = jnp.outer(jnp.arange(positions), frequency)
    pairs = x_BSHK.reshape(*x_BSHK.shape[:-1], -1, 2)
    turned = jax.lax.complex(pairs[..., 0], pairs[..., 1]) * jnp.exp(1j * angle_SP)[:, None]
    return jnp.stack([turned.real, turned.imag], -1).reshape(x_BSHK.shape)


class RMSNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.ones, (x.shape[-1],))
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps) * kernel


class Attention(nn.Module):
    config: WorldModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        split = (*x.shape[:2], c.num_heads, c.head_dim)
        q, k, v = (
            nn.Dense(c.hidden_size, use_bias=False, name=n)(x).reshape(split)
            for n in ("wq", "wk", "wv")
        )
        q, k = interleaved_rope(q, c.rope_theta), interleaved_rope(k, c.rope_theta)
        scores = jnp.einsum("bqhk,bthk->bhqt", q, k) / jnp.sqrt(c.head_dim)
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = nn.softmax(jnp.where(causal, scores, -jnp.inf))
        y = jnp.einsum("bhqt,bthk->bqhk", weights, v).reshape(x.shape)
        return nn.Dense(c.hidden_size, use_bias=False, name="wo")(y)


class FeedForward(nn.Module):
    config: WorldModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        gate = nn.Dense(c.intermediate_size, use_bias=False, name="w1")(x)
        up = nn.Dense(c.intermediate_size, use_bias=False, name="w3")(x)
        return nn.Dense(c.hidden_size, use_bias=False, name="w2")(nn.silu(gate) * up)


class Block(nn.Module):
    config: WorldModelConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        eps = self.config.rms_norm_eps
        x = x + Attention(self.config, name="attention")(RMSNorm(eps, name="attention_norm")(x))
        y = FeedForward(self.config, name="feed_forward")(RMSNorm(eps, name="ffn_norm")(x))
        return x + y, None


class Blocks(nn.Module):
    config: WorldModelConfig
    scan_axis: int | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.scan_axis is None:
            for i in range(self.config.num_layers):
                x, _ = Block(self.config, name=str(i))(x, None)
            return x
        scanned = nn.scan(
            Block,
            variable_axes={"params": self.scan_axis},
            split_rngs={"params": True},
            length=self.config.num_layers,
        )
        return scanned(self.config, name="scan_decoder")(x, None)[0]


class Transformer(nn.Module):
    config: WorldModelConfig
    scan_axis: int | None

    @nn.compact
    def __call__(self, ids: jax.Array, vision: jax.Array) -> jax.Array:
        c = self.config
        vte = nn.Embed(c.vision_vocab_size, c.hidden_size, name="vte")(jnp.where(vision, ids, 0))
        wte = nn.Embed(c.text_vocab_size, c.hidden_size, name="wte")(jnp.where(vision, 0, ids))
        x = Blocks(c, self.scan_axis, name="h")(jnp.where(vision[..., None], vte, wte))
        return RMSNorm(c.rms_norm_eps, name="ln_f")(x)


class LWM(nn.Module):
    """Ids and where they are vision ids -> vision logits, text logits."""

    config: WorldModelConfig
    scan_axis: int | None = 0

    @nn.compact
    def __call__(self, ids: jax.Array, vision: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config
        x = Transformer(c, self.scan_axis, name="transformer")(ids, vision)
        heads = (("vision_head", c.vision_vocab_size), ("lm_head", c.text_vocab_size))
        y, z = (nn.Dense(size, use_bias=False, name=name)(x) for name, size in heads)
        return y, z


class Resnet(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Conv(self.channels, [3, 3])(nn.silu(nn.GroupNorm()(x)))
        h = nn.Conv(self.channels, [3, 3])(nn.silu(nn.GroupNorm()(h)))
        return h + (x if x.shape[-1] == self.channels else nn.Conv(self.channels, [1, 1])(x))


class Sample(nn.Module):
    down: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if self.down:
            x = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
            return nn.Conv(channels, [3, 3], strides=[2, 2], padding="VALID")(x)
        batch, height, width, _ = x.shape
        x = jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "nearest")
        return nn.Conv(channels, [3, 3])(x)


class Level(nn.Module):
    channels: int
    blocks: int
    down: bool
    sample: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = Resnet(self.channels, name=f"ResnetBlock_{i}")(x)
        name = "Downsample_0" if self.down else "Upsample_0"
        return Sample(self.down, name=name)(x) if self.sample else x


class Mid(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(2):
            x = Resnet(x.shape[-1], name=f"ResnetBlock_{i}")(x)
        return x


class Half(nn.Module):
    """Encoder (`down`) or decoder."""

    config: VQConfig
    down: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, last = self.config, len(self.config.block_out_channels) - 1
        channels = c.block_out_channels if self.down else c.block_out_channels[::-1]
        x = nn.Conv(channels[0], [3, 3])(x)
        x = x if self.down else Mid(name="MidBlock_0")(x)
        for i, width in enumerate(channels):
            blocks = c.layers_per_block + (not self.down)
            name = f"{'Down' if self.down else 'Up'}samplingBlock_{i}"
            x = Level(width, blocks, self.down, i != last, name=name)(x)
        x = Mid(name="MidBlock_0")(x) if self.down else x
        return nn.Conv(c.latent_channels if self.down else 3, [3, 3])(nn.silu(nn.GroupNorm()(x)))


class Quantize(nn.Module):
    config: VQConfig

    @nn.compact
    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = (self.config.num_vq_embeddings, self.config.latent_channels)
        codes = self.param("embeddings", nn.initializers.normal(0.5), shape)
        ids = jnp.argmin(jnp.sum((z[..., None, :] - codes) ** 2, -1), -1)
        return codes[ids], ids


class VQGAN(nn.Module):
    """Pixels (B H W 3) -> latents, ids, reconstruction."""

    config: VQConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        d = self.config.latent_channels
        z = nn.Conv(d, [1, 1], name="quant_conv")(Half(self.config, True, name="encoder")(x))
        q, ids = Quantize(self.config, name="quantize")(z)
        h = nn.Conv(d, [1, 1], name="post_quant_conv")(q)
        return z, ids, Half(self.config, False, name="decoder")(h)


def random_params(module: nn.Module, *inputs: np.ndarray, seed: int = 0) -> Params:
    """Flax's own tree of parameters with values at which activations stay of order 1."""
    shapes = jax.eval_shape(module.init, jax.random.PRNGKey(seed), *inputs)["params"]
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, shape = "/".join(step.key for step in path), leaf.shape
        noise = rng.normal(0, 1, shape).astype(np.float32)
        if name.endswith("bias"):
            return 0.1 * noise
        if name.endswith("scale") or "norm" in name or "ln_f" in name:
            return 1.0 + 0.1 * noise
        if name.endswith("kernel"):
            return noise / math.sqrt(math.prod(shape[:-1]) if len(shape) == 4 else shape[-2])
        return 0.5 * noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


def write_params(path: Path, params: Params, dtype: Any = jnp.float32) -> None:
    """tux's `StreamingCheckpointer.save_train_state_to_file`."""
    packer = msgpack.Packer()
    with path.open("wb") as file:
        for key, value in flatten_dict(params).items():
            file.write(packer.pack((key, to_bytes(np.asarray(value).astype(dtype)))))
