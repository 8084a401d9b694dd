"""Files that are damaged, joined, cut or no videos at all: what is used and what is said."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sim_stream.errors import VideoError
from sim_stream.jpeg import cut_short
from sim_stream.video import inspect_video, iter_frames, read_clip

WriteVideo = Callable[..., Path]


def moving(count: int) -> list[np.ndarray]:
    """A bright square over a gradient; every frame differs from the one before."""
    frames = []
    for i in range(count):
        image = np.zeros((512, 512, 3), np.uint8)
        image[..., 0] = np.linspace(0, 200, 512).astype(np.uint8)
        image[200:264, 6 * i % 448 : 6 * i % 448 + 64] = 255
        frames.append(image)
    return frames


def picture() -> Image.Image:
    y, x = np.mgrid[0:512, 0:640]
    return Image.fromarray(
        np.stack([x % 256, y % 256, (x // 40 + y // 40) % 2 * 255], -1).astype(np.uint8)
    )


def jpeg(**options: object) -> bytes:
    data = BytesIO()
    picture().save(data, "JPEG", quality=85, **options)
    return data.getvalue()


@pytest.mark.parametrize("lengths", [(60, 60), (30, 60), (60, 30)])
def test_a_clock_that_starts_over_is_refused_with_its_time_and_frame(
    write_video: WriteVideo, lengths: tuple[int, int]
) -> None:
    parts = [write_video(moving(n), rate=30, name=f"{i}.ts") for i, n in enumerate(lengths)]
    path = parts[0].with_name("joined.ts")
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    last = (lengths[0] - 1) / 30
    said = rf"time goes back by {last:.2f} s at frame {lengths[0]}, after {last:.2f} s"
    with pytest.raises(VideoError, match=said):
        inspect_video(path)
    # What comes before is the first recording, from whichever start.
    assert np.array_equal(read_clip(path, frames=3), read_clip(parts[0], frames=3))
    with pytest.raises(VideoError, match=said):
        read_clip(path, start_s=2.5)
    with pytest.raises(VideoError, match=said):
        list(iter_frames(path))


def test_a_recording_that_begins_between_key_frames_counts_from_its_first_picture(
    write_video: WriteVideo,
) -> None:
    whole = write_video(moving(90), rate=30, name="whole.ts", key_frames_every=30)
    path = whole.with_name("late.ts")
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.dts is not None):
            if number >= 15:
                packet.stream = stream
                out.mux(packet)
    facts = inspect_video(path)
    assert facts.frames == 60
    assert float(facts.lead_s) == pytest.approx(0.5, abs=0.1)  # B-frames reorder the first ones
    clip = read_clip(path, frames=6)
    assert np.array_equal(clip, read_clip(whole, start_s=1.0, frames=6))
    assert (np.diff(clip.astype(int), axis=0).any(axis=(1, 2, 3))).all()  # no frame stands
    assert np.array_equal(read_clip(path, start_s=1.25, frames=1)[0], clip[5])


def test_a_raw_stream_is_refused_for_what_it_lacks(tmp_path: Path, write_video: WriteVideo) -> None:
    path = write_video(moving(8), name="raw.h264")
    with pytest.raises(VideoError, match=r"a raw h264 stream, which has no clock.*-framerate"):
        read_clip(path)


def test_damage_that_the_decoder_reports_counts(tmp_path: Path) -> None:
    path = tmp_path / "motion.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 512, 640, "yuvj420p"
        for shift in range(10):
            image = np.roll(np.asarray(picture()), 8 * shift, axis=1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    whole = path.read_bytes()
    assert inspect_video(path).frames == 10
    for seed in range(3):
        at = random.Random(seed).randrange(len(whole) // 3, len(whole) * 2 // 3)
        path.write_bytes(whole[:at] + bytes(2048) + whole[at + 2048 :])
        with pytest.raises(VideoError, match="damaged"):
            inspect_video(path)
        with pytest.raises(VideoError, match="damaged"):
            list(iter_frames(path))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_damaged_wherever_it_is_cut(
    tmp_path: Path, progressive: bool
) -> None:
    path, whole = tmp_path / "picture.jpg", jpeg(progressive=progressive)
    path.write_bytes(whole + b"a note that a camera left")
    assert (inspect_video(path).frames, read_clip(path, frames=1).shape[0]) == (1, 1)
    for share in (0.1, 0.3, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(VideoError, match=r"damaged|cut short"):
            inspect_video(path)
        with pytest.raises(VideoError, match=r"damaged|cut short"):
            read_clip(path, frames=1)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture() -> None:
    whole = jpeg()
    inside = b"Exif\0\0" + whole[:400] + b"\xff\xd9"
    with_thumbnail = (
        whole[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside + whole[2:]
    )
    assert not cut_short(whole) and not cut_short(with_thumbnail)
    assert cut_short(with_thumbnail[:-2]) and cut_short(with_thumbnail[: len(whole) // 2])
    assert cut_short(b"") and cut_short(b"\xff\xd8\xff") and cut_short(b"\xff\xd8\xff\xff")


def test_zeros_in_a_jpeg_are_damage_where_the_decoder_says_so(tmp_path: Path) -> None:
    path, whole = tmp_path / "picture.jpg", bytearray(jpeg())
    middle = len(whole) // 2
    whole[middle : middle + 4096] = bytes(4096)
    path.write_bytes(whole)
    with pytest.raises(VideoError, match="damaged"):
        inspect_video(path)


def test_what_is_no_file_is_refused_at_once_and_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "nowhere.mov").symlink_to("/nonexistent/x.mov")
    (tmp_path / "loop.mov").symlink_to("loop.mov")
    (tmp_path / "folder.mov").mkdir()
    os.mkfifo(tmp_path / "pipe.mov")
    (tmp_path / "null.mov").symlink_to("/dev/null")
    kinds = {
        "nowhere": "a link to nothing", "loop": "symbolic links", "folder": "a directory",
        "pipe": "a pipe", "null": "a device",
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX) as heard:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's name must be short
        try:
            heard.bind("socket.mov")
        finally:
            os.chdir(here)
        for name, kind in {**kinds, "socket": "a socket", "x\0y": "null"}.items():
            with pytest.raises(VideoError, match=kind):
                inspect_video(tmp_path / f"{name}.mov")


def test_a_list_of_other_files_opens_none_of_them(write_video: WriteVideo) -> None:
    clip = write_video(moving(8), name="clip.ts")
    lists = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{clip}\n#EXT-X-ENDLIST\n",
        "list.mov": f"ffconcat version 1.0\nfile {clip.name}\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in lists.items():
        clip.with_name(name).write_text(text)
        with pytest.raises(VideoError, match="not a video"):
            read_clip(clip.with_name(name))


@pytest.mark.parametrize(
    "name", ["2024-01-01T12:00:00.mp4", "100%03d.mp4", "-a'b\".mp4", "a\nb.mp4", "http:x.mp4"]
)
def test_odd_names_are_names(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_video(moving(8), rate=4, name="clip.mp4")
    monkeypatch.chdir(path.parent)
    path.rename(name)
    assert read_clip(name).shape == (2, 256, 256, 3)


def test_a_name_that_is_not_utf8_is_a_name(write_video: WriteVideo) -> None:
    path = write_video(moving(8), rate=4)
    odd = os.fsdecode(os.fsencode(path.parent) + b"/\xff\xfe.mp4")
    path.rename(odd)
    assert read_clip(odd).shape == (2, 256, 256, 3)


def test_a_declared_size_beyond_reason_is_refused_before_room_is_made(tmp_path: Path) -> None:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60000).to_bytes(2, "big") * 2
    path = tmp_path / "huge.jpg"
    path.write_bytes(data)
    with pytest.raises(VideoError, match="60000x60000"):
        inspect_video(path)


def test_a_title_in_another_encoding_is_no_fault(write_video: WriteVideo) -> None:
    path = write_video(moving(4), rate=4, name="plain.mp4")
    titled = path.with_name("titled.mp4")
    with av.open(str(path)) as source, av.open(str(titled), "w") as out:
        out.metadata["title"] = "muenchen"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = titled.read_bytes()
    assert b"muenchen" in data
    titled.write_bytes(data.replace(b"muenchen", b"m\xfcnchen!"))
    assert inspect_video(titled).frames == 4


def test_a_picture_that_changes_its_size_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "sizes.mjpeg.avi"
    small = BytesIO()
    picture().resize((320, 256)).save(small, "JPEG")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 512, 640, "yuvj420p"
        for number, data in enumerate([jpeg()] * 4 + [small.getvalue()] * 4):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.is_keyframe = True
            out.mux(packet)
    with pytest.raises(VideoError, match=r"from 640x512 to 320x256 pixels at frame 4"):
        inspect_video(path)


@pytest.mark.parametrize("options", [{"fps": float("inf")}, {"start_s": 1e300}])
def test_numbers_beyond_reason_are_refused(
    write_video: WriteVideo, options: dict[str, float]
) -> None:
    path = write_video(moving(4), rate=4)
    with pytest.raises(VideoError) as caught:
        read_clip(path, **options)  # type: ignore[arg-type]
    assert caught.value.field in options
