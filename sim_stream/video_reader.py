"""A video stream's frames with their times, up to the first sign of damage.

Damage is what FFmpeg reports: an error, a frame marked corrupt, a line in its error log while this
stream is read. Also a clock that goes back (segments joined with `cat`), one that leaps,
a picture that changes its size, and an end long before the promised one. A decoder conceals what it
does not notice: flipped bits that still parse (HEVC, H.264) are pictures like any other here.

Decoding begins at the first key frame. What precedes it needs frames that the file does not have;
`lead` says how long that is, and times count from the first frame that is there.

Knows nothing about pixels.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sim_stream.errors import VideoError
from sim_stream.jpeg import cut_short
from sim_stream.media_path import open_video

if TYPE_CHECKING:
    AnyPacket = Packet[VideoStream]

# 4096 x 4096: 8-bit 4:2:0 frames of 25 MB, of which a decoder may hold 17.
MAX_PIXELS = 1 << 24
LONGEST_LEAP_S = 600
# Error lines about what surrounds the pictures: odd EXIF, colour profiles, remarks of an encoder.
HARMLESS = ("APP fields", "EXIF", "Exif", "TIFF header", "ICC", "SEI")


def open_container(path: Path) -> InputContainer:
    """The file, whose first video stream can be decoded. Raises VideoError."""
    reason = why_no_file(path)
    if reason is not None:
        raise VideoError("video", f"{path} ({reason})", "a video file")
    with _error_log() as log:
        try:
            container = open_video(path, max_pixels=MAX_PIXELS)
        except (FFmpegError, OSError) as error:
            reason = _why_unopened(error, _lines(log))
            raise VideoError("video", f"{path} ({reason})", "a video file") from error
    try:
        _require_usable(container, path)
    except VideoError:
        container.close()
        raise
    return container


def why_no_file(path: Path) -> str | None:
    """Why there is no file to open; a pipe would be waited for, a device read without end."""
    try:
        info = path.stat()
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else "does not exist"
    except (OSError, ValueError) as error:  # a loop of links, a name with a null character
        return getattr(error, "strerror", None) or str(error)
    kinds = {stat.S_ISDIR: "a directory", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    for is_kind, name in kinds.items():
        if is_kind(info.st_mode):
            return name
    if not stat.S_ISREG(info.st_mode):
        return "a device"
    return None if info.st_size else "empty, 0 bytes"


def _why_unopened(error: Exception, log: list[str]) -> str:
    if any("not on whitelist" in line for line in log):
        return "not a video: a list of other files, or a format that is not read here"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return f"not a video, or cut short: {getattr(error, 'strerror', None) or error}"


def _require_usable(container: InputContainer, path: Path) -> None:
    streams = container.streams.video
    if not streams:
        raise VideoError("video", f"{path} (no video stream)", "a file with a video stream")
    if streams[0].codec_context is None:
        raise VideoError("video", f"{path} (of an unknown codec)", "a codec that FFmpeg decodes")
    width, height = streams[0].codec_context.width, streams[0].codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError("video", f"{path} of {width}x{height} pixels", f"up to {MAX_PIXELS}")
    if streams[0].start_time is None and container.format.name in RAW:
        raise VideoError(
            "video",
            f"{path} (a raw {container.format.name} stream, which has no clock)",
            "a file with timestamps; put it into one at its rate: "
            "ffmpeg -framerate RATE -i IN -c copy OUT.mp4",
        )
    if _is_jpeg(container) and cut_short(path.read_bytes()):
        raise VideoError("video", f"{path} (damaged: the JPEG has no end)", "a whole picture")


RAW = frozenset({"h264", "hevc", "vvc", "m4v", "mpegvideo", "mjpeg", "obu", "av1", "h261", "h263",
                 "vc1"})  # fmt: skip


def _is_jpeg(container: InputContainer) -> bool:
    stills = container.format.name in ("image2", "jpeg_pipe")
    return stills and container.streams.video[0].codec_context.name == "mjpeg"


@contextmanager
def _error_log() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's log of this thread while the block runs: `_lines` gives its errors.

    Decoders here have one thread, this one, so the lines are about what the block does and nothing
    else. Lines outside of such blocks go nowhere, as without us.
    """
    level = av.logging.get_level()
    if level is None or level < av.logging.ERROR:
        logging.getLogger("libav").addHandler(logging.NullHandler())
        # Otherwise a line that another thread has just had is left out.
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as log:
        yield log


def _lines(log: list[tuple[int, str, str]]) -> list[str]:
    return [text.strip() for level, _, text in log if level <= av.logging.ERROR]


class Decoder:
    """The first video stream's frames with their times in s from the first one, up to any damage.

    ``lead``: s from the stream's start to its first frame; known once that was read.
    """

    def __init__(self, container: InputContainer) -> None:
        self.damage: str | None = None
        self.lead = Fraction(0)
        self.origin: Fraction | None = None
        self._container = container
        self._stream: VideoStream = container.streams.video[0]
        codec = self._stream.codec_context
        codec.thread_count = 1  # its error log is then this thread's
        codec.options = {**codec.options, "err_detect": "crccheck"}
        self._time_base = self._stream.time_base or Fraction(1, av.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        longest = Fraction(LONGEST_LEAP_S, 2)
        self.half_interval = min(1 / Fraction(rate) / 2, longest) if rate else Fraction(0)
        start = self._stream.start_time
        self._start = None if start is None else start * self._time_base
        self._count = 0
        self._last: Fraction | None = None

    def seek(self, time: Fraction, origin: Fraction) -> bool:
        """Goes to the last key frame at or before ``time``; False if the format cannot.

        ``origin``: the first frame's time on the stream's clock, as ``self.origin`` of a decoder
        that read it.
        """
        self.origin = origin
        try:
            ticks = int((time + origin) / self._time_base)
            self._container.seek(ticks, stream=self._stream)
        except (FFmpegError, OverflowError):
            return False
        return True

    def __iter__(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        size: tuple[int, int] | None = None
        for frame in self._frames():
            stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is None:
                self.damage = "a frame without a timestamp"
                return
            time = self._since_first(stamp * Fraction(frame.time_base or self._time_base))
            self.damage = self._leap(time - (time if self._last is None else self._last))
            if size is not None and size != (frame.width, frame.height):
                was, now = (f"{w}x{h}" for w, h in (size, (frame.width, frame.height)))
                self.damage = f"the picture changes from {was} to {now} pixels {self._here()}"
            if self.damage is not None:
                return
            self._last, size = time, (frame.width, frame.height)
            yield time, frame
            self._count += 1

    def _since_first(self, stamp: Fraction) -> Fraction:
        if self.origin is None:
            self.origin = stamp
            start = stamp if self._start is None else self._start
            self.lead = max(Fraction(0), stamp - start)
        return stamp - self.origin

    def _leap(self, by: Fraction) -> str | None:
        if by < 0:
            return f"time goes back by {float(-by):.2f} s {self._here()}"
        return f"time leaps by {float(by):.0f} s {self._here()}" if by > LONGEST_LEAP_S else None

    def _here(self) -> str:
        return f"at frame {self._count}, after {float(self._last or 0):.2f} s"

    def _frames(self) -> Iterator[VideoFrame]:
        """Frames from the first key frame on. What is wrong ends them and stands in ``damage``."""
        first_key: int | None = None
        begun = False
        for packet, log, step in self._packets():
            begun = begun or packet.is_keyframe or packet.size == 0
            if not begun:
                continue
            stamp = packet.pts
            first_key = stamp if first_key is None else first_key
            with _error_log() as said:
                frames = self._decode(packet)
            # Shown before the key frame: needs the frame before that, which is not there.
            leading = stamp is not None and first_key is not None and stamp < first_key
            log = [] if leading else self._about_us([*log, *_lines(said)])
            if step < -1:  # another recording begins; smaller disorder is the frames' to tell
                yield from [*frames, *self._decode(None)]
                self.damage = self._leap(step)
                return
            # A line of the log says more than an error's name.
            self.damage = next(iter(log), None) or self.damage or self._marked(frames)
            if self.damage is not None:
                return
            yield from (f for f in frames if first_key is None or (f.pts or first_key) >= first_key)

    def _packets(self) -> Iterator[tuple[AnyPacket, list[str], Fraction]]:
        """Each packet, the errors of reading it, and the s from its time to the next one's.

        The next one is known before a packet is judged: where recordings were joined, what the last
        packets say is wrong with them is the join's doing.
        """
        packets = iter(self._container.demux(self._stream))
        packet, log = self._next(packets)
        while packet is not None:
            following, said = self._next(packets)
            step = Fraction(0)
            if following and following.dts is not None and packet.dts is not None:
                step = (following.dts - packet.dts) * self._time_base
            yield packet, log, step
            packet, log = following, said
        self.damage = next(iter(self._about_us(log)), None)

    def _next(self, packets: Iterator[AnyPacket]) -> tuple[AnyPacket | None, list[str]]:
        packet = None
        with _error_log() as said:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                return None, [error.strerror or type(error).__name__]
        return packet, _lines(said)

    def _decode(self, packet: AnyPacket | None) -> list[VideoFrame]:
        """Frames that come out when the packet goes in; with None, those still inside."""
        try:
            return self._stream.codec_context.decode(packet)
        except EOFError:  # packets after the flush of a format that finds streams late
            return []
        except FFmpegError as error:
            self.damage = error.strerror or type(error).__name__
            return []

    @staticmethod
    def _marked(frames: list[VideoFrame]) -> str | None:
        return "a frame with missing data" if any(f.is_corrupt for f in frames) else None

    def _about_us(self, log: list[str]) -> list[str]:
        """The lines about pictures of this stream, not of a sound track beside it."""
        others = tuple(
            f"stream {stream.index}," for stream in self._container.streams
            if stream.index != self._stream.index
        )  # fmt: skip
        return [
            line for line in log
            if not line.startswith(others) and not any(word in line for word in HARMLESS)
        ]  # fmt: skip

    def missing_tail(self, end: Fraction) -> str | None:
        """What is missing if frames end clearly before the duration that the index promises.

        One second of slack: formats count edit lists and the last frame's length differently.
        """
        promised = (self._stream.duration or 0) * self._time_base
        if end + self.lead + 2 * self.half_interval + 1 >= promised:
            return None
        return f"frames end at {float(end):.2f} s of {float(promised):.2f} s"


def seek_origin(path: Path, start: Fraction) -> Fraction | None:
    """The first frame's time on the stream's clock, if going to ``start`` in one leap works here.

    Formats without an index land late or nowhere, and where a clock goes back a time is no place.
    Tried on file handles of its own: after a failed try some demuxers cannot go back.
    """
    with open_container(path) as container:
        first = Decoder(container)
        if next(iter(first), None) is None or first.origin is None:
            return None
    with open_container(path) as container:
        if not _clock_runs_on(container):
            return None
    with open_container(path) as container:
        decoder = Decoder(container)
        if not decoder.seek(start, first.origin):
            return None
        landed = next(iter(decoder), None)
        return first.origin if landed is not None and landed[0] <= start else None


def _clock_runs_on(container: InputContainer) -> bool:
    """Whether the packets' times never go back. An MP4's index cannot say otherwise."""
    if "mp4" in container.format.name:
        return True
    last: int | None = None
    with _error_log():
        try:
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is not None:
                    if last is not None and packet.dts < last:
                        return False
                    last = packet.dts
        except (FFmpegError, OSError):
            return False  # read from the start on, the damage is met where it is
    return True
