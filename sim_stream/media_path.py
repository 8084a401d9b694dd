"""Names that FFmpeg takes literally, and reading of videos that nobody here has made.

FFmpeg takes ``12:00.mp4`` for an address, ``frame%03d.png`` for a series, and a playlist for leave
to fetch what it names. Here a path is a path: colons, quotes, wildcards, bytes that are no UTF-8. A
file is read if it is a regular one whose format holds all of its pictures itself; nothing else is
opened, on this machine or another.

Knows nothing about what is in the pictures.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from types import MappingProxyType

import av
from av.container import InputContainer, OutputContainer

# Those that name other files are missing: concat, hls, dash, sdp, imf, ...
SELF_CONTAINED = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv"),
    *(
        "ogg",
        "asf",
        "mxf",
        "nut",
        "wtv",
        "ivf",
        "obu",
        "av1",
        "h264",
        "hevc",
        "vvc",
        "m4v",
        "mjpeg",
    ),
    *("h261", "h263", "vc1", "dv", "gif", "apng", "yuv4mpegpipe"),
    *("image2", "jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "ppm_pipe"),
)
CLOSED = MappingProxyType(
    {
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(SELF_CONTAINED),
        "pattern_type": "none",  # image2: a name is one picture's, not a series'
        "enable_drefs": "0",  # mov: no pictures from another file
    }
)


def media_name(path: str | os.PathLike[str]) -> str:
    """The path as ``av.open`` takes it literally, for reading and for writing. Raises OSError."""
    name = os.fspath(path)
    if "\0" in name:  # FFmpeg would take what stands before it
        raise OSError(errno.EINVAL, "a name with a null character", name)
    return f"file:{name}"


def open_video(
    path: str | os.PathLike[str],
    *,
    max_pixels: int | None = None,
    form: str | None = None,
    codec: str | None = None,
) -> InputContainer:
    """A video to read. Raises OSError, or FFmpegError (as all that reads from it).

    ``max_pixels``: of one frame; decoding makes no room for more, nor does this call where a format
    names its streams at the start (MPEG's program and transport streams do not). ``form`` and
    ``codec``: FFmpeg's names of the one format and of the one decoder that it may have.
    """
    name = media_name(path)
    require_regular(path)
    bound = {} if max_pixels is None else {"max_pixels": str(max_pixels)}
    closed = {**CLOSED} if codec is None else {**CLOSED, "codec_whitelist": codec}
    container = av.open(
        name,
        mode="r",
        format=form,
        options=bound,
        container_options=closed,
        metadata_errors="replace",  # a title in another encoding
    )
    for stream in container.streams.video:
        if stream.codec_context is not None:  # None: there is no decoder for it
            stream.codec_context.options = bound
    return container


def create_video(
    path: str | os.PathLike[str], form: str, options: Mapping[str, str] = MappingProxyType({})
) -> OutputContainer:
    """A video to write, of the format with FFmpeg's name ``form``; ``options`` are its muxer's."""
    return av.open(media_name(path), mode="w", format=form, options={**options})


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuses what would block or never end: pipes, devices, sockets. Raises OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
