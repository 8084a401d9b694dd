"""Names that FFmpeg takes literally; videos that name other files or addresses open nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from av.error import FFmpegError

from sim_stream.media_path import create_video, media_name, open_video
from sim_stream.video_writer import write_png

ODD_NAMES = (
    *(
        "2024-01-01T12:00:00",
        "http:127.0.0.1",
        "a'b\"c",
        "50%",
        "frame%03d",
        "a b",
        "Gr\u00fc\u00dfe",
    ),
    *("-f", "x*?[a]{b}", "two\nlines", "not\udcffutf8", "pipe:0", "subfile,,start,0,end,0,,:x"),
)


def grey(value: int, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def write(path: Path, value: int, form: str = "matroska", size: int = 64) -> None:
    with create_video(path, form) as container:
        stream = container.add_stream("ffv1", rate=4)
        stream.width = stream.height = size
        stream.pix_fmt = "bgr0"
        image = av.VideoFrame.from_ndarray(grey(value, size), format="rgb24")
        container.mux([*stream.encode(image), *stream.encode()])


def read(path: Path, max_pixels: int | None = None) -> list[float]:
    with open_video(path, max_pixels=max_pixels) as container:
        frames = container.decode(video=0)
        return [float(frame.to_ndarray(format="rgb24").mean()) for frame in frames]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("absolute", [True, False])
def test_any_name_is_written_and_read_back(
    name: str, absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("12:00")
    folder.mkdir()
    path = (tmp_path if absolute else folder) / f"{name}.mkv"
    write(path, 70)
    assert os.listdir(path.parent).count(path.name) == 1
    assert read(path) == [70]


def test_a_pattern_in_a_name_is_one_picture_and_no_series(tmp_path: Path) -> None:
    for name, value in (("i000.png", 10), ("i001.png", 20), ("i%03d.png", 200)):
        write_png(tmp_path / name, grey(value))
    assert read(tmp_path / "i%03d.png") == [200]


def test_videos_that_name_others_open_nothing(tmp_path: Path) -> None:
    write(tmp_path / "beside.mkv", 9)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        address = f"http://127.0.0.1:{port}/x.ts"
        beside = tmp_path / "beside.mkv"
        playlists = {
            "hls.m3u8": f"#EXTM3U\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n",
            "hls_beside.m3u8": f"#EXTM3U\n#EXTINF:1,\n{beside}\n#EXT-X-ENDLIST\n",
            "concat.mkv": f"ffconcat version 1.0\nfile '{address}'\n",
            "concat_beside.mkv": "ffconcat version 1.0\nfile 'beside.mkv'\n",
            "stream.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
            f'type="static"><BaseURL>{address}</BaseURL></MPD>',
            "list.rtsp": f"RTSPtextRTSP://127.0.0.1:{port}/x",
        }
        for name, text in playlists.items():
            (tmp_path / name).write_text(text)
            with pytest.raises((FFmpegError, OSError)):
                read(tmp_path / name)
        for name in (address, f"http:127.0.0.1:{port}?x", f"tcp:127.0.0.1:{port}", "pipe:0"):
            with pytest.raises(FileNotFoundError):
                open_video(name)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    for path in (tmp_path / "pipe.mkv", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError):
            open_video(path)


def test_a_frame_beyond_the_bound_is_not_decoded(tmp_path: Path) -> None:
    write(tmp_path / "big.mkv", 5, size=512)
    assert read(tmp_path / "big.mkv", max_pixels=512 * 512) == [5]
    with pytest.raises(FFmpegError):
        read(tmp_path / "big.mkv", max_pixels=512 * 512 - 1)


def test_a_null_character_does_not_cut_a_name_short(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", 5)
    with pytest.raises(OSError, match="null character"):
        open_video(f"{tmp_path}/a.mkv\0.txt")
    with pytest.raises(OSError, match="null character"):
        media_name("a\0b")
