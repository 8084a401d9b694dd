"""Every kind of file that somebody else may hand over: small ones of it, and what reads them.

    prepare(folder)         writes good files of the kind
    read(folder, changed)   does with them what the product does, one of them changed; any
                            SimStreamError is a refusal, everything else that is raised is a fault

Only a worker prepares and reads, so imports are where they are used.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Read = Callable[[Path, Path], object]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`rules`: how files are mutated, by a pattern of their names; `reader` gives `read` and may
    take its time. `seal`: makes hashes true again after a mutation, so that what lies behind them
    is reached."""

    name: str
    prepare: Callable[[Path], None]
    rules: Mapping[str, str]
    reader: Callable[[], Read]
    seal: Callable[[Path, Path], None] | None = None


# -- weights ---------------------------------------------------------------------------------------


def _least() -> Any:
    """A preset whose VQGAN has as few tensors as one can: they make it slow, and no difference."""
    from dataclasses import replace

    from sim_stream.config import FrameSize
    from tests.small import SMALL

    sizes = {"block_out_channels": (4,), "num_vq_embeddings": 4, "latent_channels": 2}
    return replace(
        SMALL, vq=replace(SMALL.vq, norm_num_groups=4, frame=FrameSize.square(8), **sizes)
    )


def prepare_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    from sim_stream.models import checkpoints
    from tests.small import random_vq

    preset = _least()
    state = {k: v.half().contiguous() for k, v in random_vq(preset.vq).state_dict().items()}
    save_file(state, folder / "vq_model.safetensors")
    sha256 = checkpoints.sha256_of_file(folder / "vq_model.safetensors")
    shard = {"vq_model.safetensors": sha256}
    vq_model = {
        "sha256": checkpoints.joined_sha256(shard.values()),
        "parameters": sum(v.numel() for v in state.values()),
        "pixel_range": "signed",
        "shards": shard,
    }
    about = {"model_id": "fuzz", "prompt_ids": [1, 2], "tokenizer": {"sha256": sha256}}
    checkpoints.write_manifest(folder, preset, {"vq_model": vq_model}, about)


def seal_weights(folder: Path, changed: Path) -> None:
    if changed.suffix != ".safetensors":
        return
    from sim_stream.models import checkpoints

    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["files"]["vq_model"]
    entry["shards"] = {changed.name: checkpoints.sha256_of_file(changed)}
    entry["sha256"] = checkpoints.joined_sha256(entry["shards"].values())
    (folder / "manifest.json").write_text(json.dumps(manifest))


def weights_reader() -> Read:
    from sim_stream.cli import weights as cli
    from sim_stream.models import checkpoints
    from sim_stream.models.inspection import inspect

    preset = _least()

    def read(folder: Path, changed: Path) -> object:
        said = [cli.lines(report) for report in inspect(folder)]
        manifest = checkpoints.read_manifest(folder)
        for part in manifest["files"]:
            checkpoints.check_config(folder, manifest, preset, part)
            if changed.suffix == ".safetensors":  # making a model takes ten times as long
                checkpoints.load_part(folder, manifest, preset, part)
        return said

    return read


def prepare_safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    for name, dtype in (("a", torch.float32), ("b", torch.bfloat16)):
        tensors = {
            f"model.layers.{name}.mlp.up_proj.weight": torch.ones(3, 4, dtype=dtype),
            f"layers.{name}.input_layernorm.weight": torch.ones(4, dtype=dtype),
        }
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
    names = {"x": "a.safetensors", "y": "b.safetensors"}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    config = {
        **{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 8},
        **{"num_attention_heads": 2, "intermediate_size": 64, "rms_norm_eps": 1e-6},
        **{"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "mlp_bias": False},
    }
    (folder / "config.json").write_text(json.dumps(config))
    vq = {
        **{"_class_name": "VQModel", "block_out_channels": [8, 16], "layers_per_block": 1},
        **{"latent_channels": 4, "num_vq_embeddings": 32, "norm_num_groups": 4},
        "mid_block_add_attention": False,
    }
    (folder / "vq.json").write_text(json.dumps(vq))


def foreign_reader() -> Read:
    from sim_stream.files import read_json
    from sim_stream.models.conversion import faults_of
    from sim_stream.models.formats import diffusers_vq, identify
    from tests.small import SMALL

    def read(folder: Path, changed: Path) -> object:
        if changed.name == "vq.json":
            return diffusers_vq.config_faults(read_json(changed))
        path = changed if changed.suffix == ".safetensors" else folder
        source = identify.source_of(path)
        return faults_of([source], SMALL, source.part), len(list(source.tensors(SMALL)))

    return read


def prepare_pickles(folder: Path) -> None:
    """numpy's arrays as protocols 2 to 5 have them."""
    import numpy as np

    tree = {
        "encoder": {"Conv_0": {"kernel": np.ones((1, 1, 2, 3), np.float32)}},
        "quantize": {"embeddings": np.asfortranarray(np.ones((2, 3), np.float16))},
    }
    for protocol in (2, 3, 4, 5):
        (folder / f"{protocol}.pickle").write_bytes(pickle.dumps({"params": tree}, protocol))


def pickle_reader() -> Read:
    from sim_stream.models.formats import lwm_vqgan
    from tests.small import SMALL

    def read(folder: Path, changed: Path) -> object:
        return len(list(lwm_vqgan.read(changed).tensors(SMALL)))

    return read


def prepare_streams(folder: Path) -> None:
    """tux's pairs, layers one by one, stacked, and an array in chunks; written by msgpack."""
    import msgpack
    import numpy as np

    def array(*shape: int) -> bytes:
        packed = msgpack.packb((shape, "float32", np.ones(shape, np.float32).tobytes()))
        return bytes(msgpack.packb(msgpack.ExtType(1, packed)))

    def chunked(n: int) -> bytes:
        packed = msgpack.packb(((n,), "float32", np.ones(n, np.float32).tobytes()))
        chunks = {"0": msgpack.ExtType(1, packed)}
        shape = {"0": n // 2, "1": 2}
        value = {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}
        return bytes(msgpack.packb(value))

    stacked, layers = "transformer/h/scan_decoder", "transformer/h"
    streams = {
        "stacked.params": {
            "transformer/ln_f/kernel": array(4),
            f"{stacked}/attention/wq/kernel": array(2, 4, 4),
            f"{stacked}/attention_norm/kernel": array(2, 4),
            "transformer/wte/embedding": chunked(8),
        },
        "single.params": {
            "params/transformer/ln_f/kernel": array(4),
            f"{layers}/0/attention/wq/kernel": array(4, 4),
            "lm_head/kernel": array(4, 8),
        },
    }
    for name, entries in streams.items():
        pairs = [(tuple(key.split("/")), value) for key, value in entries.items()]
        (folder / name).write_bytes(b"".join(msgpack.packb(pair) for pair in pairs))


def stream_reader() -> Read:
    from sim_stream.models.formats import lwm_params
    from sim_stream.models.formats.source import mismatches
    from tests.small import SMALL

    def read(folder: Path, changed: Path) -> object:
        source = lwm_params.read(changed)
        faults = mismatches([source], GOOD_STREAM[changed.name])
        # Converting reads tensors of what fits alone.
        return faults or len(list(source.tensors(SMALL)))

    return read


_LAYER = {"self_attn.q_proj.weight": (4, 4), "input_layernorm.weight": (4,)}
GOOD_STREAM = {
    "stacked.params": {
        **{"norm.weight": (4,), "embed_tokens.weight": (4, 2)},
        **{f"layers.{i}.{name}": shape for i in range(2) for name, shape in _LAYER.items()},
    },
    "single.params": {
        **{"norm.weight": (4,), "lm_head.weight": (8, 4)},
        "layers.0.self_attn.q_proj.weight": (4, 4),
    },
}


# -- adapters --------------------------------------------------------------------------------------


def prepare_adapter(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    q, norm = "base_model.model.model.layers.{}.self_attn.q_proj", "base_model.model.model.norm"
    tensors = {f"{norm}.weight": torch.ones(32)}
    for layer in range(2):
        tensors[f"{q.format(layer)}.lora_A.weight"] = torch.ones(2 + layer, 32)
        tensors[f"{q.format(layer)}.lora_B.weight"] = torch.ones(32, 2 + layer)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        **{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "use_rslora": False},
        **{"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["norm"]},
        **{"rank_pattern": {"model.layers.1.self_attn.q_proj": 3}, "alpha_pattern": {"q_proj": 8}},
        **{"layers_to_transform": None, "exclude_modules": None, "init_lora_weights": True},
        **{"use_dora": False, "fan_in_fan_out": None, "target_parameters": [], "eva_config": None},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def adapter_reader() -> Read:
    from sim_stream.cli import weights as cli
    from sim_stream.models import checkpoints
    from sim_stream.models.formats import peft_adapter
    from tests.small import SMALL

    shapes = checkpoints.shapes_of(checkpoints.make_part(SMALL, "world_model"))

    def read(folder: Path, changed: Path) -> object:
        said = cli.lines(peft_adapter.describe(folder))
        adapter = peft_adapter.read(folder)
        adapter.check(shapes)
        peft_adapter.check_base(adapter, "")
        return said

    return read


# -- engines ---------------------------------------------------------------------------------------


def prepare_engines(folder: Path) -> None:
    """Manifests as `build` and `verify` write them, of graphs that are never loaded."""
    from sim_stream.runtime.engine import FORMS, interface
    from sim_stream.runtime.engine_manifest import (
        EngineManifest,
        GraphManifest,
        config_of,
        engine_path,
        files_sha256,
        graph_path,
        write,
    )
    from sim_stream.runtime.onnx_backend import ONNX_RUNTIME
    from tests.small import SMALL

    (folder / "graphs").mkdir()
    weights = _engine_host().weights
    for form in FORMS:
        file = folder / "graphs" / f"{form.name}.onnx"
        file.write_bytes(form.name.encode())
        takes, gives = interface(SMALL.vq, form)
        graph = GraphManifest(
            **{"preset": SMALL.name, "config": config_of(SMALL), "form": form, "input": takes},
            **{"output": gives, "max_batch": 8, "precision": "fp32", "opset": 20, "exporter": "x"},
            weights_sha256=weights[form.part],
            graph_sha256=files_sha256([file]),
            files=(file.name,),
        )
        manifest = EngineManifest(
            **{"graph": graph, "backend": "onnxruntime", "provider": "cpu", "device": "cpu"},
            backend_version=str(ONNX_RUNTIME.version()),
            compute_capability=(),
            build={},
            files=(f"graphs/{file.name}",),
            engine_sha256=files_sha256([file]),
            verification={"passed": True, "alone": {"psnr_db": None}},
        )
        write(engine_path(folder, form), manifest)
        write(graph_path(folder / "graphs", form), graph)


def _engine_host() -> Any:
    import torch

    from sim_stream.runtime.engine_manifest import Host
    from tests.small import SMALL, random_video_decoder, random_vq

    return Host.of(SMALL, random_vq(), random_video_decoder(), torch.device("cpu"))


def engine_reader() -> Read:
    from sim_stream.runtime.engine_loader import read_folder
    from sim_stream.runtime.engine_manifest import read_graph

    host = _engine_host()

    def read(folder: Path, changed: Path) -> object:
        if changed.parent.name == "graphs":
            return read_graph(changed)
        return read_folder(folder, host)

    return read


# -- training's checkpoints ------------------------------------------------------------------------


def prepare_checkpoint(folder: Path) -> None:
    import torch

    from train import checkpoint

    state = {"identity": {"a": 1}, "step": 3, "model": {"w": torch.ones(3)}, "ema": None}
    checkpoint.write(folder, 3, state, keep=1)


def checkpoint_reader() -> Read:
    from train import checkpoint

    def read(folder: Path, changed: Path) -> object:
        state = checkpoint.latest(folder)
        with checkpoint.fitting(folder):
            checkpoint.check_identity(state, {"a": 1}, folder)
        return state

    return read


# -- recordings, videos, keys ----------------------------------------------------------------------


def prepare_recording(folder: Path, form: str) -> None:
    """Of the toy, and of a world with an array per step; the latter's fork, with a seed."""
    from sim_stream.recording.recorder import Recorder
    from sim_stream.wire.client.blocking_client import StreamClient
    from sim_stream.wire.server.server import StreamServer
    from tests.wire.toy import ToyModel, drive, prompt_frames
    from tests.wire.toy_worlds import map_world, semantic

    local = "tcp://127.0.0.1:0"
    with (
        Recorder(folder, by="server", form=form) as recorder,
        StreamServer(ToyModel(), bind=local, observer=recorder) as toys,
        StreamServer(map_world(), bind=local, observer=recorder) as maps,
        StreamClient(toys.endpoint, timeout_s=30) as toy,
        StreamClient(maps.endpoint, timeout_s=30) as mapped,
        toy.open(prompt_frames(), seed=3) as session,
        mapped.open(prompt_frames(1, size=32)[:, :24]) as parent,
    ):
        for action in drive(3):
            session.step(action)
        parent.step({"semantic": semantic(0)})
        with parent.fork(seed=4) as child:
            child.step({"semantic": semantic(1)})


def prepare_jsonl(folder: Path) -> None:
    prepare_recording(folder, "ffv1")


def prepare_mcap(folder: Path) -> None:
    prepare_recording(folder, "mcap")


def recording_reader() -> Read:
    """What `replay` does before it asks a server."""
    from sim_stream.recording.formats import LINE_SUFFIXES
    from sim_stream.recording.load import load

    def read(folder: Path, changed: Path) -> object:
        found = []
        for path in sorted(folder.iterdir()):
            if path.suffix in LINE_SUFFIXES:
                recording = load(path)
                starts = [run.start_values().frames.shape for run in recording.runs]
                steps = [len(list(run.steps())) for run in recording.runs]
                found.append((starts, steps, recording.intact_pixels()))
        return found

    return read


def prepare_videos(folder: Path) -> None:
    """Eight frames of noise, or one, in most containers and codecs that are read."""
    import av
    import numpy as np

    codecs = {
        **{"h264.mp4": "libx264", "mpeg2.ts": "mpeg2video", "mjpeg.avi": "mjpeg"},
        **{"vp9.webm": "libvpx-vp9", "ffv1.mkv": "ffv1", "still.jpg": "mjpeg", "still.png": "png"},
    }
    formats = {"mjpeg": "yuvj420p", "png": "rgb24"}
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    for name, codec in codecs.items():
        frames = noise[:1] if name.startswith("still") else noise
        options = {"format": "image2"} if name.startswith("still") else {}
        with av.open(str(folder / name), "w", **options) as container:
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = 64
            stream.pix_fmt = formats.get(codec, "yuv420p")
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())


def video_reader() -> Read:
    from sim_stream.config import FrameSize
    from sim_stream.errors import SimStreamError
    from sim_stream.video import inspect_video, read_clip

    def read(folder: Path, changed: Path) -> object:
        with suppress(SimStreamError):  # what the scan of a set refuses may be a prompt
            inspect_video(changed)
        frames = 1 if changed.stem == "still" else 2
        return read_clip(changed, frames=frames, size=FrameSize.square(16))

    return read


def prepare_keys(folder: Path) -> None:
    from sim_stream.wire.keys import write_pair

    write_pair(folder / "client")
    write_pair(folder / "server")
    both = (folder / "client.pub").read_text() + (folder / "server.pub").read_text()
    (folder / "allow.pub").write_text(both)


def key_reader() -> Read:
    from sim_stream.wire.keys import ClientKeys, read_pair, read_publics

    def read(folder: Path, changed: Path) -> object:
        return (
            ClientKeys.load(folder / "client.secret", folder / "server.pub"),
            read_pair("key", folder / "server.secret"),
            read_publics("allow", folder / "allow.pub"),
        )

    return read


WHOLE = {"*": "bytes"}
JSON = {"*.json": "json"}
SAFETENSORS = {"*.safetensors": "safetensors", **JSON}
KINDS: tuple[Kind, ...] = (
    Kind(
        name="weights folders",
        prepare=prepare_weights,
        rules=SAFETENSORS,
        reader=weights_reader,
        seal=seal_weights,
    ),
    Kind(
        name="safetensors and configurations",
        prepare=prepare_safetensors,
        rules=SAFETENSORS,
        reader=foreign_reader,
    ),
    Kind(name="pickles", prepare=prepare_pickles, rules=WHOLE, reader=pickle_reader),
    Kind(name="flax streams", prepare=prepare_streams, rules=WHOLE, reader=stream_reader),
    Kind(name="adapters", prepare=prepare_adapter, rules=SAFETENSORS, reader=adapter_reader),
    Kind(name="engine manifests", prepare=prepare_engines, rules=JSON, reader=engine_reader),
    Kind(
        name="training checkpoints",
        prepare=prepare_checkpoint,
        rules=WHOLE,
        reader=checkpoint_reader,
    ),
    Kind(
        name="recordings",
        prepare=prepare_jsonl,
        rules={"*.jsonl": "json lines", "*.mkv": "bytes", "*.arrays": "bytes"},
        reader=recording_reader,
    ),
    Kind(name="MCAP", prepare=prepare_mcap, rules={"*.mcap": "bytes"}, reader=recording_reader),
    Kind(name="videos", prepare=prepare_videos, rules=WHOLE, reader=video_reader),
    Kind(name="key files", prepare=prepare_keys, rules={"*": "words"}, reader=key_reader),
)


def kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)
