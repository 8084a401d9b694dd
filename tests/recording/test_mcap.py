"""An MCAP recording reads back whole, cut off, damaged, and as MCAP tools and Foxglove read it."""

from __future__ import annotations

import base64
import json
import sys
import time
import zlib
from io import BytesIO

import av
import numpy as np
import pytest
from mcap.reader import SeekingReader
from mcap.records import ChunkIndex, Footer, Message
from mcap.stream_reader import StreamReader

from sim_stream.errors import InvalidInput, Unavailable
from sim_stream.recording.append_file import AppendFile
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import LOCAL, recorded
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy import drive, prompt_frames
from tests.wire.toy_worlds import map_world, semantic

# What Foxglove's parseJsonSchema takes as the type of a field.
FIELD_TYPES = {"boolean", "integer", "number", "string", "object", "array"}
# Objects with names that a model chooses.
BY_NAME = ("timings_ns", "stamps_ns", "stats", "options", "inputs", "prompt_inputs[]")


def indexed(path):
    """The messages by topic, as a reader finds them that goes by the file's index."""
    found = {}
    with path.open("rb") as file:
        for schema, channel, message in SeekingReader(file, validate_crcs=True).iter_messages():
            assert (channel.message_encoding, schema.encoding) == ("json", "jsonschema")
            found.setdefault(channel.topic, []).append((schema, message))
    return found


def texts(found, topic):
    return [json.loads(message.data) for _, message in found[topic]]


@pytest.mark.parametrize(("by", "stamp"), [("server", "srv_send"), ("client", "client_recv")])
def test_foxglove_gets_images_by_their_well_known_schema_and_lines_as_json(record, by, stamp):
    path, frames = record(by, form="mcap")
    found = indexed(path)
    counts = {topic: len(messages) for topic, messages in found.items()}
    one_each = {"/session/header": 1, "/session/end": 1}
    assert counts == one_each | {"/prompt": 2, "/frames": 7, "/session/shown": 7}
    for topic, images in (
        ("/frames", [frame.image for frame in frames]),
        ("/prompt", prompt_frames()),
    ):
        for image, (schema, message) in zip(images, found[topic], strict=True):
            np.testing.assert_array_equal(decoded(schema, message), image)
    assert abs(found["/session/header"][0][1].log_time - time.time_ns()) < 60 * 10**9
    (header,) = texts(found, "/session/header")
    offset_ns = found["/session/header"][0][1].log_time - header["created_ns"]
    lines = texts(found, "/session/shown")
    for line, (_, message), (_, image) in zip(
        lines, found["/session/shown"], found["/frames"], strict=True
    ):
        assert message.log_time == image.log_time
        assert message.log_time == offset_ns + line["frames"][-1]["stamps_ns"][stamp]
    assert [line["request"]["t"] for line in lines] == ["open"] + ["step"] * 5 + ["close"]


def decoded(schema, message):
    assert schema.name == "foxglove.CompressedImage"
    image = json.loads(message.data)
    assert image.keys() == {"timestamp", "frame_id", "data", "format"} == properties(schema).keys()
    assert image["timestamp"]["sec"] * 10**9 + image["timestamp"]["nsec"] == message.log_time
    assert image["format"] == "png"
    with av.open(BytesIO(base64.b64decode(image["data"]))) as png:
        return next(png.decode(video=0)).to_ndarray(format="rgb24")


def properties(schema):
    return json.loads(schema.data)["properties"]


def test_schemas_are_such_as_foxglove_takes_and_name_every_field(recording_client, tmp_path):
    client = recording_client(form="mcap")
    with client.open(prompt_frames(), prompt_inputs=[None, drive(1)[0]]) as session:
        session.step(drive(1)[0], sim_time_us=-1)
        with pytest.raises(Exception, match="less than 999"):
            session.step(type(drive(1)[0])(speed_mps=999.0, yaw_rate_radps=0.0))
        child = session.fork()
        child.close()
    recording_client.finish()
    for one in (session, child):
        for topic, messages in indexed(recorded(tmp_path, one.sid)).items():
            for schema, message in messages:
                as_foxglove_reads(topic, json.loads(schema.data), json.loads(message.data))


def as_foxglove_reads(path, schema, value):
    """Foxglove's rules: one known type a field, fields of every object named, items of arrays."""
    assert schema["type"] in FIELD_TYPES and not schema.keys() & {"anyOf", "oneOf", "$ref"}, path
    if value is None:
        return
    kinds = kinds_of(schema["type"])
    if path.endswith("[].default"):  # of a spec's field: a number or a word
        kinds = (str, int, float)
    assert isinstance(value, kinds), path
    if schema["type"] == "array":
        assert schema["items"]["type"] in FIELD_TYPES - {"array"}, path
        for item in value:
            as_foxglove_reads(f"{path}[]", schema["items"], item)
    if schema["type"] == "object":
        named = schema["properties"]
        assert named or path.endswith(BY_NAME), path
        for name in named or {}:
            if name in value:
                as_foxglove_reads(f"{path}.{name}", named[name], value[name])
        assert not named or value.keys() <= named.keys(), path


def kinds_of(json_type):
    kinds = {"integer": int, "number": (int, float), "string": str, "boolean": bool}
    return kinds.get(json_type, dict if json_type == "object" else list)


def test_arrays_of_requests_have_a_topic_and_their_lines_time(tmp_path):
    with (
        Recorder(tmp_path, by="server", form="mcap") as recorder,
        StreamServer(map_world(), bind=LOCAL, observer=recorder) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
        client.open(np.zeros((1, 24, 32, 3), np.uint8)) as session,
    ):
        for key in range(3):
            session.step({"semantic": semantic(key)})
    found = indexed(recorded(tmp_path))
    lines = found["/session/shown"][1:]
    for key, ((schema, message), (_, line)) in enumerate(zip(found["/arrays"], lines, strict=True)):
        as_foxglove_reads("/arrays", json.loads(schema.data), array := json.loads(message.data))
        assert message.log_time == line.log_time and array["name"] == "inputs.semantic"
        raw = zlib.decompress(base64.b64decode(array["data"]))
        stored = np.frombuffer(raw, array["dtype"]).reshape(array["shape"])
        np.testing.assert_array_equal(stored, semantic(key))
    for topic in ("/session/header", "/session/shown"):
        for schema, message in found[topic]:
            as_foxglove_reads(topic, json.loads(schema.data), json.loads(message.data))


def test_metadata_tells_at_a_glance_what_was_recorded(recording_client, tmp_path):
    client = recording_client(form="mcap", options={"threads": 2, "weights": "/x"})
    with client.open(prompt_frames()) as session:
        session.step()
    recording_client.finish()
    path = recorded(tmp_path)
    with path.open("rb") as file:
        (about,) = SeekingReader(file).iter_metadata()
    assert about.name == "sim_stream"
    assert about.metadata["sid"] == session.sid and about.metadata["weights_sha256"] == "0" * 64
    assert (about.metadata["threads"], about.metadata["weights"]) == ("2", "/x")


def test_file_cut_off_at_any_byte_replays_up_to_the_cut(record, replayed):
    path, _ = record(form="mcap")
    whole = path.read_bytes()
    ends = frame_ends(whole)
    seen = set()
    around = [end + near for end in ends for near in (-1, 0, 1)]
    for cut in sorted({*range(0, len(whole), 211), *around, len(whole) - 1}):
        path.write_bytes(whole[:cut])
        shown = sum(end <= cut for end in ends)
        if not shown:
            with pytest.raises(InvalidInput, match="recording"):
                load(path)
            continue
        recording = load(path)
        assert len(recording.shown) == recording.intact_pixels() == shown
        if shown not in seen:
            seen.add(shown)
            assert replayed(path).same
    assert seen == {*range(1, 8)}


def frame_ends(whole):
    """Where each chunk with a frame's line ends."""
    ends = []
    file = BytesIO(whole)
    for record in StreamReader(file).records:
        if isinstance(record, Message) and b'"kind":"shown"' in record.data[:20]:
            ends.append(file.tell())
    return ends


def starts_of_chunks(whole):
    with_chunks = StreamReader(BytesIO(whole), emit_chunks=True)
    indices = [record for record in with_chunks.records if isinstance(record, ChunkIndex)]
    return [index.chunk_start_offset for index in indices]


def test_damage_anywhere_costs_what_follows_and_never_gives_other_frames(record):
    path, _ = record(form="mcap", steps=2)
    whole = path.read_bytes()
    before = load(path)
    pixels = [line.sha256 for line in before.shown]
    rng = np.random.default_rng(0)
    opcodes = starts_of_chunks(whole)  # a record with an unknown one is skipped
    for place in [*opcodes, *rng.integers(0, len(whole), 300)]:
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = load(path)
        except InvalidInput:
            continue
        shown = [line.sha256 for line in found.shown]
        assert shown == pixels[: len(shown)]
        assert found.intact_pixels() == len(shown)


def test_full_disk_leaves_a_file_without_index_that_ends_as_it_should(
    recording_client, tmp_path, monkeypatch, replayed
):
    append, pieces = AppendFile.append, []

    def full_after_five(file, piece):
        pieces.append(piece)
        if len(pieces) == 6:
            append(file, piece[: len(piece) // 2])
            file.bytes -= len(piece) // 2  # half of it is there, as on a disk that is full
            file.torn = True
            raise OSError(28, "No space left on device")
        append(file, piece)

    monkeypatch.setattr(AppendFile, "append", full_after_five)
    client = recording_client(form="mcap")
    with client.open(prompt_frames()) as session:
        for action in drive(8):
            session.step(action)
    recording_client.finish()
    path = recorded(tmp_path)
    report = replayed(path)
    assert (report.frames, report.same, report.intact_pixels) == (4, True, 4)
    assert report.end == "No space left on device"
    with path.open("rb") as file:
        *_, last = StreamReader(file, validate_crcs=True).records
    assert isinstance(last, Footer) and last.summary_start == 0


def test_without_the_extra_recording_and_reading_name_it(record, tmp_path, monkeypatch):
    path, _ = record(form="mcap")
    for name in [name for name in sys.modules if name.startswith("sim_stream.recording.mcap_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcap", None)
    monkeypatch.setitem(sys.modules, "mcap.exceptions", None)
    monkeypatch.setitem(sys.modules, "mcap.well_known", None)
    for attempt in (
        lambda: Recorder(tmp_path, by="server", form="mcap"),
        lambda: load(path),
    ):
        with pytest.raises(Unavailable, match=r"mcap.* is not installed.*sim-stream\[mcap\]"):
            attempt()
