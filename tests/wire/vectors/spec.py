"""The model of the vectors: 16x16 frames, so that the bytes stay readable, and every kind of field.

Knows no messages.
"""

from __future__ import annotations

from sim_stream.expects import CameraPose
from sim_stream.spec import ArrayField, ChoiceField, NumberField, StreamSpec, TextField

SIZE = 16
MOST_FRAMES = 5

SPEC = StreamSpec(
    model_id="vectors",
    weights_sha256="0" * 64,
    fps_num=4,
    frame_shape=(SIZE, SIZE, 3),
    prompt_frames=(0, MOST_FRAMES),
    lookaheads=(1, 0),
    session_inputs=(
        ArrayField(name="heights", doc="of the ground", dtype="<f4", shape=(2, 3)),
        TextField(name="text", doc="what the drive is like", max_chars=40),
        ChoiceField(name="weather", choices=("clear", "rain"), default="clear"),
    ),
    step_inputs=(
        ArrayField(name="semantic", doc="what is where", dtype="|u1", shape=(4, 4), values=16),
        NumberField(
            name="speed_mps",
            required=True,
            doc="of the car",
            unit="m/s",
            low=0.0,
            high=32.0,
            clamped=True,
            levels=64,
            taken="end",
        ),
        NumberField(
            name="yaw_rate_radps", unit="rad/s", low=-0.8, high=0.8, clamped=True, taken="mean"
        ),
    ),
    options=(
        ChoiceField(name="strategy", choices=("raster", "jacobi"), default="raster"),
        NumberField(name="temperature", low=0.0, high=10.0, open_low=True, default=0.6),
        NumberField(name="top_k", low=1.0, high=2.0**31 - 1, integer=True, default=10.0),
    ),
    camera=CameraPose(field_of_view_deg=66.0, up_m=1.9, pitch_down_deg=3.5),
    prompt_psnr_min_db=25.0,
    prompt_psnr_own_db=28.0,
)
# Of a model that takes nothing, and whose weights say nothing.
BARE = StreamSpec(
    model_id="bare",
    weights_sha256="",
    fps_num=30_000,
    fps_den=1001,
    frame_shape=(SIZE, 2 * SIZE, 3),
    prompt_frames=(1, 1),
)
# Of one that makes several frames with every step, from no picture at all.
CLIPS = StreamSpec(
    model_id="clips",
    weights_sha256="f" * 128,
    fps_num=10,
    frame_shape=(SIZE, SIZE, 3),
    prompt_frames=(0, 0),
    frames_per_step=5,
    lookaheads=tuple(range(17)),
    session_inputs=(TextField(name="text", required=True, default=""),),
)
