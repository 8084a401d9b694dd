"""Reading and writing videos, on files made here by libx264 and on real motorway footage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from sim_stream.config import FrameSize
from sim_stream.errors import InvalidInput, VideoError
from sim_stream.video import (
    Mp4Writer,
    halve,
    inspect_video,
    iter_frames,
    mark_prompt,
    read_clip,
    write_png,
)

WriteVideo = Callable[..., Path]

# A flat grey survives libx264 at CRF 10 and two colour conversions within 3 of 255 (measured: 2).
CODEC_TOLERANCE = 3


def grey(level: int, height: int = 512, width: int = 512) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def ramp(count: int, step: int = 7) -> list[np.ndarray]:
    """Frame i is flat grey of level i * step: a frame's number can be read off its pixels."""
    return [grey(index * step) for index in range(count)]


def numbers(clip: np.ndarray, step: int = 7) -> list[int]:
    return [round(float(image.mean()) / step) for image in clip]


def quadrants(height: int = 512, width: int = 640) -> np.ndarray:
    """Red, green / blue, white."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    top, left = slice(height // 2), slice(width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    image[top, left], image[top, right] = (255, 0, 0), (0, 255, 0)
    image[bottom, left], image[bottom, right] = (0, 0, 255), (255, 255, 255)
    return image


def corner_names(image: np.ndarray) -> str:
    """The colours of the four corners, clockwise from the top left: 'rgwb' is upright."""
    names = {(True, False, False): "r", (False, True, False): "g", (False, False, True): "b"}
    corners = (image[8, 8], image[8, -9], image[-9, -9], image[-9, 8])
    return "".join(names.get(tuple(bool(v > 128) for v in pixel), "w") for pixel in corners)


@pytest.mark.parametrize(
    ("rate", "expected"),
    # The nearest source frames to 0, 0.25, 0.5, 0.75 s; ties (7.5 at 30 fps) go to the later one.
    [(30, [0, 8, 15, 23]), (25, [0, 6, 13, 19]), (24, [0, 6, 12, 18]), (4, [0, 1, 2, 3])],
)
def test_samples_are_taken_by_timestamp_at_any_source_rate(
    write_video: WriteVideo, rate: int, expected: list[int]
) -> None:
    path = write_video(ramp(min(rate, 30), step=8), rate=rate)
    assert numbers(read_clip(path, frames=4), step=8) == expected


def test_variable_rate_follows_the_timestamps_and_holds_the_last_frame_in_a_gap(
    write_video: WriteVideo,
) -> None:
    times_ms = [0, 40, 80, 120, 240, 260, 900, 1000, 1040]
    path = write_video(ramp(9, step=20), rate=25, times_ms=times_ms)
    # Average interval 130 ms, half of it 65 ms: samples at 0, 250, 500, 750, 1000 ms.
    assert numbers(read_clip(path, frames=5), step=20) == [1, 5, 5, 5, 8]


def test_every_frame_of_a_4_fps_video_comes_once_and_the_iterator_ends(
    write_video: WriteVideo,
) -> None:
    samples = list(iter_frames(write_video(ramp(9), rate=4), 4))
    assert [timestamp for timestamp, _ in samples] == [k / 4 for k in range(9)]
    assert numbers(np.stack([image for _, image in samples])) == list(range(9))


@pytest.mark.parametrize("key_frames_every", [3, 250])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.mkv"])
def test_start_gives_the_same_frames_as_reading_from_the_beginning(
    write_video: WriteVideo, name: str, key_frames_every: int
) -> None:
    path = write_video(ramp(24, step=10), rate=4, name=name, key_frames_every=key_frames_every)
    whole = [image for _, image in iter_frames(path, 4)]
    assert np.array_equal(read_clip(path, start_s=4.0, frames=3), np.stack(whole[16:19]))


def test_halving_equals_torch_bilinear_on_even_and_odd_sizes() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for height, width in ((8, 12), (9, 13), (8, 11)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        x_BCHW = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        reference = torch.nn.functional.interpolate(x_BCHW, scale_factor=0.5, mode="bilinear")
        expected = (reference[0].permute(1, 2, 0) + 0.5).floor().byte().numpy()  # half rounds up
        assert np.array_equal(halve(image), expected)


def test_crop_is_the_centre_of_the_halved_frame(write_video: WriteVideo) -> None:
    image = grey(40, 720, 1280)
    image[104:616, 384:896] = 200  # the middle 512x512
    clip = read_clip(write_video([image] * 4, rate=4), frames=1)
    inner = clip[0, 2:-2, 2:-2].astype(int)  # the block filter softens the square's edge
    assert clip.shape == (1, 256, 256, 3)
    assert np.abs(inner - 200).max() <= CODEC_TOLERANCE
    wider = read_clip(write_video([image] * 4, rate=4), frames=1, size=FrameSize.square(264))[0]
    assert wider[0, 132, 0] < 60 and wider[132, 0, 0] < 60  # 4 pixels further on every side


@pytest.mark.parametrize(
    ("matrix", "corners"),
    # tkhd matrices by the QuickTime rule x' = a x + c y, y' = b x + d y (y down): clockwise turns.
    [
        ((1, 0, 0, 1), "rgwb"),
        ((0, 1, -1, 0), "brgw"),
        ((-1, 0, 0, -1), "wbrg"),
        ((0, -1, 1, 0), "gwbr"),
    ],
)
def test_rotation_metadata_is_applied(
    write_video: WriteVideo, matrix: tuple[int, int, int, int], corners: str
) -> None:
    path = write_video([quadrants()] * 4, rate=4)
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert corner_names(read_clip(path, frames=1)[0]) == corners


def test_rotation_written_by_a_recorder_is_applied(write_video: WriteVideo) -> None:
    path = write_video([quadrants()] * 4, rate=4, rotation=90)
    assert corner_names(read_clip(path, frames=1)[0]) == "gwbr"


def test_rotation_by_an_odd_angle_is_refused(write_video: WriteVideo) -> None:
    path = write_video([quadrants()] * 4, rate=4, rotation=30)
    with pytest.raises(VideoError, match="steps of 90"):
        read_clip(path)


def test_missing_path_directory_empty_and_text_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    cases = {
        "none.mp4": "does not exist",
        ".": "a directory",
        "empty.mp4": "empty, 0 bytes",
        "text.mp4": "not a video",
    }
    for name, reason in cases.items():
        with pytest.raises(VideoError, match=reason) as caught:
            read_clip(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_file_without_video_stream_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        read_clip(path)


def test_frame_smaller_than_the_crop_names_both_sizes(write_video: WriteVideo) -> None:
    path = write_video([grey(9, 480, 640)] * 4, rate=4)
    with pytest.raises(VideoError, match=r"640x480 pixels, 320x240 .* at least 512x512"):
        read_clip(path)


def test_one_frame_is_too_few_for_a_prompt(write_video: WriteVideo) -> None:
    path = write_video([grey(9)], rate=4)
    with pytest.raises(VideoError, match=r"1 frames at 4 fps .* 2 frames or more"):
        read_clip(path, frames=2)


def test_too_few_frames_from_start_on(write_video: WriteVideo) -> None:
    path = write_video(ramp(8), rate=4)
    with pytest.raises(VideoError, match=r"1 frames at 4 fps from 1\.75 s on"):
        read_clip(path, start_s=1.75, frames=2)


def test_start_beyond_the_end_names_the_end(write_video: WriteVideo) -> None:
    path = write_video(ramp(8), rate=4)
    with pytest.raises(VideoError, match=r"start_s: got 9; allowed: before the end at 1.75 s"):
        read_clip(path, start_s=9.0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"start_s": -1.0}, "start_s"),
        ({"start_s": float("nan")}, "start_s"),
        ({"frames": 0}, "frames"),
        ({"fps": 0}, "fps"),
    ],
)
def test_impossible_arguments_are_refused(
    write_video: WriteVideo, options: dict[str, float], field: str
) -> None:
    path = write_video(ramp(4), rate=4)
    with pytest.raises(VideoError) as caught:
        read_clip(path, **options)  # type: ignore[arg-type]
    assert caught.value.field == field


def noisy(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (512, 512, 3), dtype=np.uint8) for _ in range(count)]


def test_truncated_file_gives_its_whole_frames_and_then_an_error(write_video: WriteVideo) -> None:
    faststart = {"movflags": "faststart"}  # the index at the front, as a broken download has it
    path = write_video(noisy(24), rate=4, options=faststart, key_frames_every=4)
    whole = path.read_bytes()
    first = read_clip(path, frames=4)
    path.write_bytes(whole[: len(whole) // 2])
    assert np.array_equal(read_clip(path, frames=4), first)
    with pytest.raises(VideoError, match="damaged"):
        read_clip(path, frames=20)
    with pytest.raises(VideoError, match="damaged"):
        list(iter_frames(path, 4))


def test_truncated_file_without_its_index_is_refused(write_video: WriteVideo) -> None:
    path = write_video(noisy(8), rate=4)  # the index at the end
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(VideoError, match="not a video, or cut short"):
        read_clip(path)


def test_real_motorway_clip(real_data: Path) -> None:
    path = real_data / "highway_white_right.mp4"
    clip = read_clip(path, start_s=2.0, frames=4)
    assert clip.shape == (4, 256, 256, 3)
    # 25 fps: the first sample is source frame 50, cropped here from the decoder's own pixels.
    with av.open(str(path)) as container:
        frame = next(islice(container.decode(video=0), 50, None)).to_ndarray(format="rgb24")
    crop = frame[14:526, 224:736].astype(float)
    mean = crop.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(clip[0] - mean).max() <= 0.5  # rounding to uint8
    assert np.abs(np.diff(clip.astype(int), axis=0)).mean() > 1.0  # the car moves
    assert sum(1 for _ in iter_frames(path, 4)) == 36  # 8.84 s


def test_written_mp4_comes_back_with_its_frames_and_rate(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with Mp4Writer(path, fps=4, size=(512, 512)) as writer:
        for image in ramp(6):
            writer.write(image)
        assert not path.exists()
    assert numbers(read_clip(path, frames=6)) == list(range(6))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.frames) == (4, 6)
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("name", ["2024-01-01T12:00:00.mp4", "50%03d.mp4", "http:x.mp4"])
def test_names_are_written_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Mp4Writer(name, size=(64, 64)) as writer:
        writer.write(grey(1, 64, 64))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_failed_writing_leaves_an_older_file_alone_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), Mp4Writer(path) as writer:
        writer.write(grey(1, 256, 256))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


def test_writer_refuses_wrong_frames_no_frames_and_impossible_paths(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such directory"):
        Mp4Writer(tmp_path / "none" / "out.mp4")
    with pytest.raises(InvalidInput, match="even height and width"):
        Mp4Writer(tmp_path / "out.mp4", size=(255, 256))
    with (
        pytest.raises(InvalidInput, match=r"uint8 \(256, 256, 3\)"),
        Mp4Writer(tmp_path / "out.mp4") as writer,
    ):
        writer.write(grey(1, 128, 256))
    with pytest.raises(InvalidInput, match="1 or more"), Mp4Writer(tmp_path / "out.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_png_is_lossless(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    write_png(tmp_path / "sheet.png", image)
    with av.open(str(tmp_path / "sheet.png")) as container:
        back = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(back, image)


def test_prompt_mark_is_a_border_around_the_untouched_middle() -> None:
    image = grey(50, 32, 32)
    marked = mark_prompt(image, border=6, color=(255, 176, 0))
    assert np.array_equal(marked[6:-6, 6:-6], image[6:-6, 6:-6])
    assert (marked[:6] == (255, 176, 0)).all() and (marked[:, -6:] == (255, 176, 0)).all()
    assert (image == 50).all()


@pytest.mark.parametrize("fps", [0.2, 1.0, 4.0, 7.0, 30.0])
@pytest.mark.parametrize("times_ms", [None, [0, 40, 70, 900, 1000, 1015, 2300]])
def test_inspection_knows_how_many_samples_a_video_gives(
    write_video: WriteVideo, times_ms: list[int] | None, fps: float
) -> None:
    path = write_video(ramp(7), rate=12, times_ms=times_ms, rotation=90)
    facts = inspect_video(path)
    assert (facts.frames, facts.rotation % 180) == (7, 90)
    assert facts.samples(fps) == len(list(iter_frames(path, fps)))
    if times_ms:
        assert facts.longest_gap_s == pytest.approx(1.285)


def test_inspection_refuses_what_cannot_be_decoded_to_its_end(write_video: WriteVideo) -> None:
    path = write_video(ramp(30), rate=10)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match=r"damaged|cut short"):
        inspect_video(path)
