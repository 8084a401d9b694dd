"""Time of day and cloud cover for MetaDrive, which has none: its two lights and its sky, tinted.

Runs in the worker's environment only. There is no fog: the ground is one polygon, on which
Panda3D's fog, worked out at its far corners, hides what is near as well. Headlights fail likewise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import panda3d.core as p3d

Rgb = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Light:
    """Colours as factors, 1 = MetaDrive's own; `haze` is what the sky turns to, by `haze_share`."""

    sun: Rgb
    ambient: Rgb
    sky: Rgb
    haze: Rgb = (0.0, 0.0, 0.0)
    haze_share: float = 0.0


# MetaDrive's own: the sun is white light of 6800 K, the ambient light (0.18, 0.2, 0.2).
LIGHTS = {
    "day": Light(sun=(1.02, 0.986, 1.08), ambient=(0.18, 0.2, 0.2), sky=(1.0, 1.0, 1.0)),
    "overcast": Light(
        sun=(0.45, 0.47, 0.5),
        ambient=(0.3, 0.31, 0.32),
        sky=(0.7, 0.7, 0.7),
        haze=(0.62, 0.64, 0.66),
        haze_share=0.6,
    ),
    "dusk": Light(
        sun=(0.75, 0.45, 0.3),
        ambient=(0.16, 0.13, 0.16),
        sky=(0.75, 0.5, 0.42),
        haze=(0.8, 0.45, 0.25),
        haze_share=0.1,
    ),
    "night": Light(sun=(0.08, 0.09, 0.13), ambient=(0.05, 0.055, 0.08), sky=(0.1, 0.11, 0.17)),
}

_VERTEX = """#version 150
in vec4 p3d_Vertex;
uniform mat4 p3d_ModelViewProjectionMatrix;
out vec3 at;
void main() { at = p3d_Vertex.xyz; gl_Position = p3d_ModelViewProjectionMatrix * p3d_Vertex; }
"""
# Where a direction lies in MetaDrive's sky picture is as in its own skybox.frag.glsl.
_FRAGMENT = """#version 150
in vec3 at;
out vec4 color;
uniform sampler2D p3d_Texture0;
uniform vec3 tint;
uniform vec4 haze;
void main() {
    vec3 direction = normalize(at);
    float east = (atan(direction.y, direction.x) + 1.57079633) / 6.28318531;
    float up = clamp(direction.z * 0.72 + 0.35, 0.0, 1.0);
    vec3 sky = textureLod(p3d_Texture0, vec2(east, up), 0).xyz * tint;
    color = vec4(mix(sky, haze.rgb, haze.a), 1.0);
}
"""


def apply_light(engine: Any, name: str) -> None:
    """Light the engine's world as `name`, a key of LIGHTS, says."""
    light = LIGHTS[name]
    engine.world_light.direction_np.node().setColor((*light.sun, 1.0))
    engine.world_light.ambient_np.node().setColor((*light.ambient, 1.0))
    sky = engine.sky_box.origin.getChildren()[0]
    sky.setShader(p3d.Shader.make(p3d.Shader.SL_GLSL, vertex=_VERTEX, fragment=_FRAGMENT))
    sky.setShaderInput("tint", p3d.LVector3(*light.sky))
    sky.setShaderInput("haze", p3d.LVector4(*light.haze, light.haze_share))
