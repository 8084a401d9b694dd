"""A recording holds all that its session needs to come back, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim_stream.cli import build_parser
from sim_stream.config import Action
from sim_stream.errors import InvalidInput, RemoteError
from sim_stream.model_options import ModelOptions, as_recorded, from_record
from sim_stream.recording.formats import FORMATS, read_frames, read_lines
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import ReplayOptions, run
from sim_stream.stream_model import APPROXIMATED
from sim_stream.wire.client import operations
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.messages import Step
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import LOCAL, has_ended, recorded, wait_until
from tests.wire.conftest import TIMEOUT_S
from tests.wire.toy import ToyModel, drive, prompt_frames


def steps_of(recording):
    return [frame.step for line in recording.shown for frame in line.frames]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("by", ["server", "client"])
@pytest.mark.parametrize(("form", "intact"), [("ffv1", 7), ("mp4", None), ("mcap", 7)])
def test_recorded_session_replays_to_equal_frames(record, replayed, by, form, intact):
    path, frames = record(by, form=form)
    report = replayed(path)
    assert (report.frames, report.equal, len(frames)) == (7, 7, 7)
    assert report.same and report.complete and report.first_difference is None
    assert (report.intact_pixels, report.end) == (intact, "closed")


@pytest.mark.parametrize("form", FORMATS)
def test_folder_with_a_time_in_its_name_is_recorded_into(form, tmp_path, monkeypatch, replayed):
    monkeypatch.chdir(tmp_path)
    with (
        Recorder("rec-12:00", by="client", form=form) as recorder,
        StreamServer(ToyModel(), bind=LOCAL) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S, observer=recorder) as client,
        client.open(prompt_frames()) as session,
    ):
        session.step()
    report = replayed(recorded(Path("rec-12:00")))
    assert report.same and report.complete and report.frames == 3


@pytest.mark.parametrize("lookahead", [0, 1])
def test_everything_that_a_session_may_start_from_is_replayed(record, replayed, lookahead):
    path, _ = record(
        seed=2**64 - 1,
        lookahead=lookahead,
        prompt_inputs=[None, Action(speed_mps=3.0, yaw_rate_radps=0.5)],
        options={"top_k": 3, "temperature": 0.5, "strategy": "diagonal", "k": 2},
    )
    report = replayed(path)
    assert report.same and report.frames == 6 + lookahead


@pytest.mark.parametrize("form", ["ffv1", "mcap"])
def test_frames_of_a_lossless_recording_are_what_the_client_got(record, form):
    path, frames = record(form=form)
    video = list(read_frames(load(path).video))
    assert len(video) == len(frames)
    for pixels, frame in zip(video, frames, strict=True):
        np.testing.assert_array_equal(pixels, frame.image)


def test_mp4_recording_shows_the_frames(recording_client, tmp_path):
    grey = ToyModel()
    client = recording_client(form="mp4", runtime=grey)
    with client.open(prompt_frames()) as session:
        session.step()
    recording_client.finish()
    recording = load(recorded(tmp_path))
    assert recording.video.suffix == ".mp4"
    assert [image.shape for image in read_frames(recording.video)] == [(32, 32, 3)] * 3


@pytest.mark.parametrize(
    ("by", "stamps"),
    [
        ("server", {"srv_recv", "engine_start", "decode_end", "srv_send"}),
        ("client", {"srv_recv", "srv_send", "client_send", "client_recv"}),
    ],
)
def test_a_line_tells_the_action_its_step_the_stamps_and_the_hash(record, by, stamps):
    path, _ = record(by)
    header, _, step, *_, end = lines_of(path)
    assert (header["by"], header["info"]["spec"]["model_id"], header["lossless"]) == (
        by,
        "toy",
        True,
    )
    action = drive(1)[0]
    assert step["request"]["inputs"] == {
        "speed_mps": action.speed_mps,
        "yaw_rate_radps": action.yaw_rate_radps,
    }
    (frame,) = step["frames"]
    assert (step["request"]["step"], frame["marks"]) == (1, [])
    assert stamps <= frame["stamps_ns"].keys()
    assert [len(sha256) for sha256 in step["sha256"]] == [64]
    assert end == {"kind": "end", "reason": "closed", "complete": True}


@pytest.mark.parametrize("form", ["ffv1", "mcap"])
def test_pixels_that_the_caller_changes_are_recorded_as_they_came(recording_client, tmp_path, form):
    client = recording_client("client", form=form)
    frames = prompt_frames()
    with client.open(frames) as session:
        frames[:] = 0
        session.frame.image[:] = 0
        session.step().image[:] = 0
    recording_client.finish()
    recording = load(recorded(tmp_path))
    np.testing.assert_array_equal(recording.runs[0].prompt(), prompt_frames())
    assert recording.intact_pixels() == len(recording.shown) == 3
    assert all(image.any() for image in read_frames(recording.video))


@pytest.mark.parametrize("form", ["ffv1", "mcap"])
def test_session_that_was_reset_replays_all_its_runs(recording_client, tmp_path, replayed, form):
    client = recording_client(form=form)
    with client.open(prompt_frames(), seed=1, lookahead=0) as session:
        session.step(drive(1)[0])
        session.reset(prompt_frames(key=5), seed=2)
        session.step()
        session.step()
    recording_client.finish()
    report = replayed(recorded(tmp_path))
    assert report.same and report.frames == 5 and report.seeds == [1, 2]


@pytest.mark.parametrize("form", ["ffv1", "mcap"])
def test_fork_replays_from_its_parents_recording_and_not_without_it(
    recording_client, tmp_path, replayed, form
):
    client = recording_client(form=form)
    with client.open(prompt_frames()) as parent:
        parent.step(drive(1)[0])
        with parent.fork() as child:
            child.step(drive(2)[1])
        parent.step()
    recording_client.finish()
    of_parent, of_child = (recorded(tmp_path, session.sid) for session in (parent, child))
    report = replayed(of_child)
    # Open and one step are the parent's; then its own step and the frame of its close.
    assert report.same and report.frames == 4 and load(of_child).inherited == 2
    assert report.intact_pixels == 2
    assert replayed(of_parent).same
    cut_to_two_lines(of_parent)
    with pytest.raises(InvalidInput, match="cut off before the fork"):
        load(of_child)
    of_parent.unlink()
    with pytest.raises(InvalidInput, match="No such file"):
        load(of_child)


def cut_to_two_lines(path):
    whole, end = path.read_bytes(), path.stat().st_size
    while len(read_lines(path).lines) > 2:
        end -= 100  # more than the end of what it cuts: a line and its pixels are longer
        path.write_bytes(whole[:end])


def test_repeated_step_is_recorded_once(recording_client, tmp_path):
    client = recording_client()
    with client.open(prompt_frames()) as session:
        session.send_step()
        session.receive()
        again = session._stream._send(Step(sid=session.sid, step=1), {})
        session._stream.in_flight.append(operations.run(again, client._connection))
        assert session.receive().step == 1
    recording_client.finish()
    assert steps_of(load(recorded(tmp_path))) == [0, 1, 1]  # 1: the close


def test_refused_step_is_told_and_not_replayed(recording_client, tmp_path, replayed):
    client = recording_client()
    with client.open(prompt_frames()) as session:
        with pytest.raises(RemoteError):
            session.step(Action(speed_mps=999.0, yaw_rate_radps=0.0))
        session.step()
    recording_client.finish()
    path = recorded(tmp_path)
    (refused,) = load(path).refused
    assert (refused.code, "less than 999" in refused.message) == ("BAD_MESSAGE", True)
    assert replayed(path).same


def test_recording_of_a_session_whose_client_went_away_ends_with_its_lease(tmp_path, replayed):
    with (
        Recorder(tmp_path, by="server") as recorder,
        StreamServer(ToyModel(), bind=LOCAL, lease_s=0.1, observer=recorder) as server,
        StreamClient(server.endpoint, timeout_s=TIMEOUT_S) as client,
    ):
        session = client.open(prompt_frames())
        session.step()
        session.abandon()
        wait_until(lambda: has_ended(tmp_path))
    report = replayed(recorded(tmp_path))
    assert report.same and report.complete and report.frames == 3


def test_session_still_open_when_the_recorder_ends_is_marked_incomplete(
    recording_client, tmp_path, replayed
):
    session = recording_client("client").open(prompt_frames())
    session.step()
    recording_client.finish()
    report = replayed(recorded(tmp_path))
    assert report.same and not report.complete and report.frames == 2
    assert report.end == "the recorder was closed before the session"


def test_first_frame_that_differs_is_named(record, replayed):
    path, _ = record()
    lines = lines_of(path)
    lines[3]["request"]["inputs"]["speed_mps"] += 1.0  # of step 2, which frame 1 already shows
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = replayed(path)
    assert not report.same and (report.frames, report.equal) == (7, 2)
    assert report.first_difference is not None
    assert (report.first_difference.step, report.first_difference.frame_id) == (2, 1)
    assert report.first_difference.recorded_sha256 == lines[3]["sha256"][0]


def test_frame_cut_short_by_a_deadline_is_pointed_out(record, replayed):
    path, _ = record()
    lines = lines_of(path)
    lines[4]["request"]["deadline_ms"] = 200
    lines[4]["frames"][0]["marks"] = [APPROXIMATED]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert replayed(path).after_deadline == 3


@pytest.mark.parametrize("other", [{"model_id": "other"}, {"weights_sha256": "1" * 64}])
def test_recording_of_another_model_is_refused_naming_both_sides(record, replayed, other):
    path, _ = record()
    lines = lines_of(path)
    lines[0]["info"]["spec"] |= other
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InvalidInput) as caught:
        replayed(path)
    for side in ("model toy", "0" * 64, *other.values()):
        assert side in str(caught.value)


def test_prompt_file_with_other_frames_is_refused(record, replayed):
    path, _ = record()
    (prompt,) = path.parent.glob("*.prompt-0.mkv")
    prompt.write_bytes(load(path).video.read_bytes())
    with pytest.raises(InvalidInput, match="not the frames that were recorded"):
        replayed(path)


def test_files_outside_the_folder_are_refused(record):
    path, _ = record()
    lines = lines_of(path)
    lines[1]["prompt"]["file"] = "../elsewhere.mkv"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InvalidInput, match="without a folder"):
        load(path).runs[0].prompt()


def test_video_names_its_recording_as_well_as_the_sidecar(record):
    path, _ = record()
    assert load(load(path).video).path == path


@pytest.mark.parametrize("name", ["nothing.jsonl", "empty.jsonl", "other.jsonl"])
def test_what_is_no_recording_is_refused(tmp_path, name):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InvalidInput, match="recording"):
        load(tmp_path / name)


def test_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(InvalidInput, match="record"):
            Recorder(tmp_path / folder, by="server")


def test_command_line_offers_every_format():
    for subcommand in ("serve", "demo"):
        args = build_parser().parse_args([subcommand, "--record-format", FORMATS[-1]])
        assert args.record_format == FORMATS[-1]


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="ffv1, mp4, mcap"):
        Recorder(tmp_path, by="server", form="gif")


def test_endpoint_and_model_options_exclude_each_other(tmp_path):
    with pytest.raises(InvalidInput, match="one of the two"):
        run(ReplayOptions(recording=tmp_path, endpoint="tcp://x:1", model={"threads": 2}))


def test_how_a_server_was_started_comes_back_from_the_record(tmp_path):
    options = ModelOptions(
        weights=tmp_path, world_model=tmp_path / "x", decoding="jacobi:8", threads=2, lookahead=0
    )
    assert from_record(json.loads(json.dumps(as_recorded(options)))) == options
    with pytest.raises(InvalidInput, match="speed"):
        from_record({"speed": 3})


@pytest.mark.parametrize(
    "odd",
    [
        *({"decoding": None}, {"threads": None}, {"threads": "2"}, {"device": 7}, {"weights": 1}),
        *({"preset": None}, {"precision": "a\0b"}, {"engines": "a\nb"}, {"lookahead": "1"}),
    ],
)
def test_options_that_no_recorder_writes_are_refused_by_name(odd):
    with pytest.raises(InvalidInput, match=next(iter(odd))) as caught:
        from_record(odd)
    assert "\n" not in str(caught.value)
