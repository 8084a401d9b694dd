"""The paper's Tables II to VI, to print beside measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RECONSTRUCTION = ("PSNR", "SSIM", "MS-SSIM", "LPIPS", "FID", "CMMD")
GENERATION = ("FID", "CMMD", "FVD")

Row = tuple[float, ...]

# Rows: ablation -> PSNR (dB), SSIM, MS-SSIM, LPIPS, FID, CMMD on BDD100K's validation images.
TABLE_II: Mapping[str, Row] = MappingProxyType(
    {
        "J_total": (25.75, 0.7630, 0.9022, 0.1170, 5.48, 0.074),
        "- J_SSL": (26.31, 0.7794, 0.9140, 0.1096, 5.79, 0.122),
        "- J'": (25.75, 0.7487, 0.8943, 0.1756, 18.64, 0.594),
        "- J_L2": (23.87, 0.7304, 0.8713, 0.1307, 6.10, 0.107),
        "- J_G": (27.11, 0.8041, 0.9178, 0.1759, 17.97, 0.393),
        "no fine-tuning": (25.08, 0.7690, 0.9018, 0.1207, 5.82, 0.385),
    }
)
TABLE_III: Mapping[str, Row] = MappingProxyType(
    {
        "D of Esser et al., 0.1 / 1.0": (25.75, 0.7630, 0.9022, 0.1170, 5.48, 0.074),
        "0.1 / 1.0": (25.88, 0.7685, 0.9039, 0.1148, 5.14, 0.065),
        "0.1 / 1.5": (25.89, 0.7694, 0.9044, 0.1146, 5.32, 0.064),
        "0.3 / 1.0": (25.68, 0.7704, 0.9049, 0.1050, 4.43, 0.053),
        "0.3 / 1.2": (25.68, 0.7712, 0.9050, 0.1053, 4.45, 0.059),
        "1.0 / 1.0 (proposed)": (25.14, 0.7649, 0.8991, 0.1035, 3.97, 0.048),
        "2.0 / 1.0": (24.74, 0.7616, 0.8941, 0.1042, 3.55, 0.050),
        "2.0 / 2.0": (24.77, 0.7623, 0.8954, 0.1040, 3.93, 0.051),
    }
)
# FID, CMMD, FVD of 14 frames of 500 validation videos. IV: TOK+WM+DEC at k = 50.
TABLE_IV: Mapping[str, Row] = MappingProxyType(
    {
        "no J_SSL": (14.65, 0.105, 188.59),
        "J_SSL DINO": (14.25, 0.099, 181.55),
        "J_SSL DINOv2": (14.72, 0.083, 178.97),
    }
)
TABLE_V: Mapping[str, Row] = MappingProxyType(
    {
        "TOK+DEC": (7.19, 0.048, 104.35),
        "TOK+WM+DEC k=1": (28.04, 0.255, 644.71),
        "TOK+WM+DEC k=5": (20.26, 0.114, 296.95),
        "TOK+WM+DEC k=10": (18.23, 0.092, 243.97),
        "TOK+WM+DEC k=50": (14.72, 0.083, 178.97),
        "TOK+WM+DEC k=200": (12.22, 0.081, 160.48),
        "TOK+WM+DEC k=1000": (11.29, 0.090, 163.80),
        "TOK+VDEC": (8.85, 0.155, 74.29),
        "TOK+WM+VDEC k=1": (28.61, 0.411, 646.03),
        "TOK+WM+VDEC k=5": (22.14, 0.244, 276.93),
        "TOK+WM+VDEC k=10": (19.94, 0.215, 210.71),
        "TOK+WM+VDEC k=50": (16.67, 0.229, 153.19),
        "TOK+WM+VDEC k=200": (14.22, 0.241, 136.41),
        "TOK+WM+VDEC k=1000": (13.29, 0.248, 132.16),
    }
)
TABLE_VI: Mapping[str, Row] = MappingProxyType(
    {name: TABLE_V[name] for name in ("TOK+WM+DEC k=200", "TOK+WM+VDEC k=1000")}
)
