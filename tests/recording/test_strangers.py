"""Recordings that somebody else made: nothing is fetched, nothing outside the folder is read, and
what they cost is bounded. Each is refused by name, or read as far as it makes sense."""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.recording import bounds
from sim_stream.recording.archive import RecordedSessions
from sim_stream.recording.load import load
from sim_stream.recording.pixels import decode_png, read_pixels, write_prompt
from sim_stream.recording.replay import describe
from sim_stream.video_writer import encode_png
from sim_stream.wire.observe import NotResumable
from tests.wire.conftest import ROOT
from tests.wire.toy import prompt_frames

MIB = 2**20


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def spec_of(lines):
    return lines[0]["info"]["spec"]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def everything(path):
    """All that a replay reads of a recording. Raises InvalidInput."""
    recording = load(path)
    for run in recording.runs:
        run.start_values()
        list(run.steps())
    return recording.intact_pixels()


@pytest.mark.parametrize("field", ["prompt", "video", "parent"])
def test_names_that_are_addresses_or_lead_out_of_the_folder_open_nothing(record, tmp_path, field):
    path, _ = record()
    lines = lines_of(path)
    secret = tmp_path.parent / f"{tmp_path.name}-secret.mkv"
    load(path).video.rename(secret)
    (path.parent / "link.mkv").symlink_to(secret)
    (path.parent / "loop.mkv").symlink_to("loop.mkv")
    os.mkfifo(path.parent / "pipe.mkv")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        names = [f"http:127.0.0.1:{port}?x.mkv", f"tcp:127.0.0.1:{port}", "pipe:0", "concat:a|b"]
        names += ["../x.mkv", str(secret), "..", ".", "", "a\0b", "x" * 300 + ".mkv"]
        names += ["link.mkv", "loop.mkv", "pipe.mkv", "pipe.jsonl", "fd:0.mkv", f"file:{secret}"]
        for name in names:
            changed = json.loads(json.dumps(lines))
            if field == "prompt":
                changed[1]["prompt"]["file"] = name
            elif field == "video":
                changed[0]["video"] = name
            else:
                changed[1] = {
                    "kind": "forked",
                    "parent": name,
                    "parent_lines": 2,
                    "committed_step": 0,
                }
            write_lines(path, changed)
            if field == "video":
                try:
                    assert everything(path) in (None, 0), name
                except InvalidInput:
                    continue
            else:
                with pytest.raises(InvalidInput):
                    everything(path)
        with pytest.raises(TimeoutError):
            server.accept()


def test_link_out_of_a_servers_folder_is_not_resumed_from(record, tmp_path):
    path, _ = record()
    sid = load(path).header.sid
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / path.name).symlink_to(path)
    with pytest.raises(NotResumable, match="a link to"):
        RecordedSessions(folder).find(sid, model_id="toy", weights_sha256="0" * 64)


def test_recording_under_another_sessions_name_is_not_resumed_from(record):
    path, _ = record()
    sid = load(path).header.sid
    other = path.with_name(path.name.replace(sid, "0" * 16))
    write_lines(other, lines_of(path)[:-2])  # not closed
    path.unlink()
    with pytest.raises(NotResumable, match=f"session {sid}"):
        RecordedSessions(path.parent).find("0" * 16, model_id="toy", weights_sha256="0" * 64)


def test_recordings_that_go_on_from_each_other_are_refused(record):
    path, _ = record()
    header, *_ = lines_of(path)
    names = ["a.jsonl", "b.jsonl", "c.jsonl"]
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        fork = {"kind": "forked", "parent": parent, "parent_lines": 2, "committed_step": 0}
        write_lines(path.with_name(name), [header, fork])
    with pytest.raises(InvalidInput, match="a fork of itself"):
        load(path.with_name("b.jsonl"))


def test_recordings_with_two_parents_each_are_refused_at_once(record):
    path, _ = record()
    header, *_ = lines_of(path)
    for level in range(28):
        fork = {
            "kind": "forked",
            "parent": f"{level + 1}.jsonl",
            "parent_lines": 9,
            "committed_step": 0,
        }
        write_lines(path.with_name(f"{level}.jsonl"), [header, fork, fork])
    write_lines(path.with_name("28.jsonl"), lines_of(path))
    with pytest.raises(InvalidInput, match="a fork on line 2, 3"):
        load(path.with_name("0.jsonl"))


CHANGES = {
    "null options": lambda lines: lines[0].update(options=None),
    "no info": lambda lines: lines[0].pop("info"),
    "frames without pixels": lambda lines: spec_of(lines).update(frame_shape=[0, 32, 3]),
    "frames too large": lambda lines: spec_of(lines).update(frame_shape=[2**40, 2**40, 3]),
    "frames in grey": lambda lines: spec_of(lines).update(frame_shape=[32, 32, 1]),
    "lookahead": lambda lines: lines[1]["request"].update(lookahead=7),
    "lookahead of the spec": lambda lines: (
        lines[1]["request"].pop("lookahead"),
        spec_of(lines).update(lookaheads=[2**62]),
    ),
    "no prompt": lambda lines: lines[1].pop("prompt"),
    "null prompt": lambda lines: lines[1].update(prompt=None),
    "empty prompt": lambda lines: lines[1]["prompt"].update(sha256=[]),
    "endless prompt": lambda lines: lines[1]["prompt"].update(sha256=["0" * 64] * 10**4 * 3),
    "prompt far on": lambda lines: lines[1]["prompt"].update(first=2**63 - 1),
    "prompt before the first": lambda lines: lines[1]["prompt"].update(first=-1),
    "prompt of millions": lambda lines: lines[1]["prompt"].update(first=10**6),
    "seed": lambda lines: lines[1]["request"].update(seed=10**30),
    "huge seed": lambda lines: lines[1]["request"].update(seed=10**4000),
    "a model on two lines": lambda lines: spec_of(lines).update(model_id="toy\nerror"),
    "escapes": lambda lines: lines[0].update(sid="\x1b[31m"),
    "a prompt on two lines": lambda lines: lines[1]["prompt"].update(file="a\nb"),
    "steps in disorder": lambda lines: lines[3]["request"].update(step=1),
    "a second close": lambda lines: lines.insert(3, lines[-2]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_values_that_no_recorder_writes_are_refused(record, what):
    path, _ = record()
    lines = lines_of(path)
    CHANGES[what](lines)
    write_lines(path, lines)
    with pytest.raises(InvalidInput) as caught:
        everything(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("how", ["9" * 256, "jacobi:0", "x", "\u0663" * 3, 1e300])
@pytest.mark.parametrize("default", [False, True])
def test_decoding_that_no_server_has_is_no_traceback(record, how, default):
    path, _ = record()
    lines = lines_of(path)[:-2]  # not closed
    if default:
        spec_of(lines)["options"][0]["default"] = str(how)
    else:
        lines[1]["request"]["options"] = {"strategy": how}
    write_lines(path, lines)
    with pytest.raises(NotResumable, match=r"options\.strategy"):
        RecordedSessions(path.parent).find(lines[0]["sid"], model_id="toy", weights_sha256="0" * 64)


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"end","reason":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        b'{"kind":"shown","index":' + b"9" * 10**5 + b"}",
        b'{"kind":"refused","message":"' + b"x" * (bounds.LINE_BYTES + 1) + b'"}',
        b'"\xff\xfe"',
        b'{"kind":"end","reason":"\\ud800","complete":true}',
        b"null",
        b"NaN",
        b"",
        bytes(1000),
    ],
)
def test_line_that_makes_no_sense_ends_what_is_read(record, line):
    path, _ = record()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], line + b"\n", *lines[4:]]))
    recording = load(path)
    assert len(recording.shown) == 3 and recording.cut


def test_file_without_an_end_of_line_is_not_read_whole(record):
    path, _ = record()
    with path.open("ab") as file:
        file.truncate(2**33)  # sparse: 8 GiB of nothing
    assert len(load(path).shown) == 7


def test_more_lines_than_a_session_may_have_are_refused(record, monkeypatch):
    path, _ = record()
    for name, most in (("LINES", 5), ("KEPT_BYTES", 500)):
        monkeypatch.setattr(bounds, name, most)
        with pytest.raises(InvalidInput, match="recording: got"):
            load(path)
        monkeypatch.undo()


@pytest.mark.parametrize("size", [(1024, 1024), (16, 16)])
def test_prompt_of_other_frames_than_the_header_names_is_not_decoded(record, size):
    path, _ = record()
    frames = np.zeros((2, *size, 3), np.uint8)
    prompt = path.with_name(lines_of(path)[1]["prompt"]["file"])
    hashes = write_prompt(prompt, frames, rate=load(path).header.info.spec.fps_num)
    lines = lines_of(path)
    lines[1]["prompt"]["sha256"] = hashes
    write_lines(path, lines)
    with pytest.raises(InvalidInput, match="not the frames"):
        everything(path)


MEASURED = """
import resource, sys
from sim_stream.recording.load import load
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    recording = load(sys.argv[1])
    print([run.prompt().shape for run in recording.runs], recording.intact_pixels())
except ValueError as error:
    print(type(error).__name__, error)
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def peak_mib(path):
    """Of a process that reads that recording; importing alone takes some 100 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


def test_video_of_many_frames_costs_no_more_than_those_asked_for(record, monkeypatch):
    path, _ = record()
    video = load(path).video
    prompt = path.with_name(lines_of(path)[1]["prompt"]["file"])
    many = np.broadcast_to(np.zeros((1, 32, 32, 3), np.uint8), (20_000, 32, 32, 3))
    write_prompt(video, many, rate=4)
    prompt.write_bytes(video.read_bytes())
    taken = []

    def counted(*asked):
        for image in read_pixels(*asked):
            taken.append(1)
            yield image

    monkeypatch.setattr("sim_stream.recording.formats.read_pixels", counted)
    assert load(path).intact_pixels() == 0
    with pytest.raises(InvalidInput, match="not the frames"):
        load(path).runs[0].prompt()
    assert sum(taken) <= 7 + 3


# MCAP.


def record_bytes(opcode, content):
    return struct.pack("<BQ", opcode, len(content)) + content


def chunk_bytes(content, packed, compression, size=None):
    name = compression.encode()
    size = len(content) if size is None else size
    head = struct.pack("<QQQI", 0, 0, size, zlib.crc32(content)) + struct.pack("<I", len(name))
    return record_bytes(6, head + name + struct.pack("<Q", len(packed)) + packed)


def packed(content, compression):
    if compression == "zstd":
        import zstandard

        return zstandard.compress(content)
    import lz4.frame

    return lz4.frame.compress(content)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("says", ["what it holds", "little"])
def test_chunks_that_unpack_to_gigabytes_are_not_unpacked(tmp_path, compression, says):
    pytest.importorskip("mcap")
    content = bytes(192 * MIB)
    small = packed(content, compression)
    chunk = chunk_bytes(content, small, compression, size=1000 if says == "little" else None)
    path = tmp_path / "bomb.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + chunk * 8)
    del content
    assert path.stat().st_size < 32 * MIB
    assert peak_mib(path) < 500


def test_many_small_chunks_do_not_add_up(tmp_path):
    pytest.importorskip("mcap")
    content = record_bytes(0x81, bytes(60 * MIB))
    chunk = chunk_bytes(content, packed(content, "zstd"), "zstd")
    path = tmp_path / "bomb.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + chunk * 200)
    assert peak_mib(path) < 500


def test_index_and_metadata_of_any_size_are_passed_over(record):
    path, _ = record(form="mcap")
    whole = path.read_bytes()
    magic = len(b"\x89MCAP0\r\n")
    big = record_bytes(0x0C, bytes(64 * MIB)) + record_bytes(7, bytes(64 * MIB))
    path.write_bytes(whole[:magic] + big + whole[magic:])
    assert everything(path) == 7
    assert peak_mib(path) < 400


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_picture_that_unpacks_to_gigabytes_is_not_unpacked():
    image = prompt_frames()[0]
    png = encode_png(image)
    ihdr = 8 + 25
    text = png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(256 * MIB), 9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(decode_png(png[:ihdr] + text + png[ihdr:]), image)
    huge = png[:16] + struct.pack(">II", 60_000, 60_000) + png[24:]
    for bad in (huge, png[:40], b"", b"\x89PNG", png[:16] + bytes(8) + png[24:]):
        with pytest.raises((InvalidInput, OSError, ValueError)):
            decode_png(bad)
    with pytest.raises(InvalidInput, match="32x32"):
        decode_png(png, (64, 64, 3))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_image_message_that_is_no_picture_ends_what_is_read(record):
    path, _ = record(form="mcap")
    rewritten(path, path, lambda topic, data: b"[" * 10**5 if topic == "/frames" else data)
    assert load(path).intact_pixels() == 0


# Renamed and rewritten.


def rewritten(path, new, change=lambda topic, data: data, without=(), **options):
    """As `mcap recover` and `mcap filter` write it: other chunks, another compression."""
    from mcap.reader import make_reader
    from mcap.writer import CompressionType, Writer

    with path.open("rb") as file:
        found = list(make_reader(file).iter_messages())
    with new.open("wb") as out:
        writer = Writer(out, compression=CompressionType[options.get("compression", "ZSTD")])
        writer.start()
        ids = {}
        for schema, channel, message in found:
            if channel.topic in without:
                continue
            if channel.topic not in ids:
                named = writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.topic] = writer.register_channel(
                    channel.topic, channel.message_encoding, named
                )
            writer.add_message(
                ids[channel.topic],
                message.log_time,
                change(channel.topic, message.data),
                message.publish_time,
                message.sequence,
            )
        writer.finish()


def inverted(topic, data):
    if topic != "/frames":
        return data
    image = json.loads(data)
    pixels = 255 - decode_png(base64.b64decode(image["data"]))
    return json.dumps(image | {"data": base64.b64encode(encode_png(pixels)).decode()}).encode()


def test_mcap_file_is_replayed_under_any_name_and_from_any_place(record, replayed, tmp_path):
    path, _ = record(form="mcap")
    (tmp_path / "12:00").mkdir()
    copy = path.rename(tmp_path / "12:00" / "rainy drive.mcap")
    report = replayed(copy)
    assert report.same and (report.frames, report.intact_pixels) == (7, 7)
    assert (report.recording, report.video) == (str(copy), copy.name)


@pytest.mark.parametrize("compression", ["ZSTD", "LZ4", "NONE"])
def test_mcap_file_that_a_tool_has_rewritten_is_read_as_before(
    record, replayed, tmp_path, compression
):
    path, _ = record(form="mcap")
    copy = tmp_path / "recovered.mcap"
    rewritten(path, copy, compression=compression)
    path.unlink()
    report = replayed(copy)
    assert report.same and report.complete and (report.frames, report.intact_pixels) == (7, 7)


def test_copy_with_other_pictures_beside_the_original_is_not_certified(record, replayed, tmp_path):
    path, _ = record(form="mcap")
    rewritten(path, tmp_path / "inverted.mcap", inverted)
    assert replayed(tmp_path / "inverted.mcap").intact_pixels == 0
    assert replayed(path).intact_pixels == 7


def test_of_a_copy_without_pictures_nothing_is_claimed(record, replayed, tmp_path):
    path, _ = record(form="mcap")
    rewritten(path, tmp_path / "filtered.mcap", without=("/frames",))
    report = replayed(tmp_path / "filtered.mcap")
    assert report.same and report.intact_pixels is None
    assert "filtered.mcap has no pictures" in describe(report)[-1]
    rewritten(path, tmp_path / "blind.mcap", without=("/prompt",))
    with pytest.raises(InvalidInput, match=r"blind\.mcap \(missing"):
        replayed(tmp_path / "blind.mcap")


def test_renamed_sidecar_takes_the_files_that_were_renamed_along(record, replayed, tmp_path):
    path, _ = record()
    for file in tmp_path.glob(f"{path.stem}*"):
        file.rename(file.with_name(file.name.replace(path.stem, "rainy drive")))
    renamed = tmp_path / "rainy drive.jsonl"
    report = replayed(renamed)
    assert report.same and (report.intact_pixels, report.video) == (7, "rainy drive.mkv")
    # Another recording under the old name lies beside it: it is neither read nor certified.
    other = tmp_path / load(renamed).header.video
    write_prompt(other, np.zeros((7, 32, 32, 3), np.uint8), rate=4)
    assert replayed(renamed).intact_pixels == 7
    other.replace(tmp_path / "rainy drive.mkv")
    assert replayed(renamed).intact_pixels == 0


def test_sidecar_that_was_renamed_alone_takes_the_video_that_it_names_and_says_so(
    record, replayed, tmp_path
):
    path, _ = record()
    video = load(path).video.name
    report = replayed(path.rename(tmp_path / "alone.jsonl"))
    assert (report.intact_pixels, report.video) == (7, video)


def test_video_that_is_asked_for_is_the_one_that_is_compared(record, tmp_path):
    path, _ = record()
    (tmp_path / "copy.jsonl").write_bytes(path.read_bytes())
    write_prompt(tmp_path / "copy.mkv", np.zeros((7, 32, 32, 3), np.uint8), rate=4)
    for asked in ("copy.mkv", "copy.jsonl"):
        recording = load(tmp_path / asked)
        assert (recording.video.name, recording.intact_pixels()) == ("copy.mkv", 0)
    (tmp_path / "copy.mkv").unlink()
    assert load(tmp_path / "copy.jsonl").intact_pixels() == 7
    load(path).video.unlink()
    assert load(path).intact_pixels() is None


# Mutations.


def mutated(rng, data):
    """A few bytes changed, cut out, doubled, or put elsewhere."""
    data = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        start, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
        match int(rng.integers(5)):
            case 0:
                data[start] ^= 1 << int(rng.integers(8))
            case 1:
                data[start : start + length] = rng.bytes(length)
            case 2:
                del data[start : start + length]
            case 3:
                data[start:start] = data[start : start + length]
            case _:
                numbers = (b"-1", b"null", b"9" * 30, b"1e400", b"[" * 99, b'""', b"\0" * 8)
                data[start : start + 1] = numbers[int(rng.integers(len(numbers)))]
        data = data or bytearray(1)
    return bytes(data)


@pytest.mark.parametrize("which", ["lines", "video", "prompt", "mcap"])
def test_mutations_are_read_or_refused(record, which):
    if which == "mcap":
        pytest.importorskip("mcap")
    path, _ = record(form="mcap" if which == "mcap" else "ffv1", steps=2)
    target = {"lines": path, "mcap": path, "video": load(path).video}.get(which)
    target = target or path.with_name(lines_of(path)[1]["prompt"]["file"])
    whole, rng = target.read_bytes(), np.random.default_rng(20)
    read = 0
    for _ in range(300):
        target.write_bytes(mutated(rng, whole))
        try:
            intact = everything(path)
        except InvalidInput as error:
            assert str(error)
        else:
            read += 1
            assert intact is None or intact <= 4
    assert read or which == "prompt"


@pytest.mark.parametrize("name", ["", ".", "/", "..", "x" * 300, "nowhere/a.mp4", "http://host/a"])
def test_what_names_no_recording_is_refused(name):
    with pytest.raises(InvalidInput, match=r"(recording|lines): got"):
        load(name)
