"""The disk fills up while every session is recorded."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path

from sim_stream.errors import Unavailable
from sim_stream.recording.load import Recording, load
from tests.faults.clients import Bystander, DriverProcess, toy_reference
from tests.faults.namespaces import unshared
from tests.faults.processes import Server, require, toy_server, wait_until
from tests.faults.registry import Fault, Figures, Stage
from tests.wire.toy import toy_spec

SIZE = 64
REFERENCE = partial(toy_reference, spec=toy_spec(frame_shape=(SIZE, SIZE, 3)))
# Room for some forty of these frames, which are noise and do not compress.
DISK = "640k"
GROWTH_MIB = 64.0  # a video encoder for every session that is recorded
TOLD = "ends here, the session goes on: No space left on device"


def run(stage: Stage) -> Figures:
    folder = stage.folder / "recordings"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={DISK} none {folder} && exec "$@"'
    prefix = [*unshared("mount"), "sh", "-c", mount, "sh"]
    require_tmpfs(folder)
    server = stage.start(toy_server(f"--size={SIZE}", "--record", folder, prefix=prefix))
    disk = Path(f"/proc/{server.pid}/root") / folder.relative_to("/")
    bystander = stage.start(Bystander(server.endpoint))
    bystander.wait_for(5)
    memory = server.memory(bound_mib=GROWTH_MIB)
    wait_until("the disk is full", lambda: server.has_said(TOLD), timeout_s=20)
    full_at = bystander.step
    late = stage.start(DriverProcess(server.endpoint, key=2, steps=20))
    late.wait_for(20)
    late.finish()
    bystander.wait_for(full_at + 50)
    figures = bystander.check_undisturbed(REFERENCE)
    late.check(REFERENCE)
    cut = wait_for_end(disk, bystander.sid)
    intact = cut.intact_pixels()
    after = room_again(stage, server, disk)
    return {
        "full after": f"{len(cut.shown)} of {bystander.step + 1} frames",
        "the sidecar says": cut.end.reason if cut.end else "",
        "intact in its video": f"{intact} of {len(cut.shown)}",
        "the log says": f"{sum(TOLD in line for line in server.said)} times",
        "with room again": f"{len(after.shown)} frames, complete",
        **memory.check(),
        **figures,
    }


def require_tmpfs(folder: Path) -> None:
    """Raises Unavailable where no small disk can be made."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    done = subprocess.run([*unshared("mount"), *mount], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"no tmpfs in a mount namespace: {done.stderr.strip()}")


def wait_for_end(disk: Path, sid: str) -> Recording:
    """The recording of that session, which the full disk ended and which says so."""
    (sidecar,) = disk.glob(f"*{sid}.jsonl")
    wait_until("the recording has an end", lambda: load(sidecar).end is not None, timeout_s=5)
    recording = load(sidecar)
    assert recording.end is not None
    require(not recording.end.complete, "a recording that was cut calls itself complete")
    require(len(recording.shown) > 3, f"only {len(recording.shown)} frames were recorded")
    lost = len(recording.shown) - (recording.intact_pixels() or 0)
    require(lost <= 1, f"{lost} recorded frames are not in the video")
    return recording


def room_again(stage: Stage, server: Server, disk: Path) -> Recording:
    """A session after the disk was emptied is recorded whole."""
    for path in disk.iterdir():
        path.unlink()
    require(shutil.disk_usage(disk).used == 0, "the server keeps deleted recordings open")
    driver = stage.start(DriverProcess(server.endpoint, key=3, steps=10))
    driver.wait_for(10)
    driver.finish()
    (sidecar,) = disk.glob("*.jsonl")
    wait_until("the recording is complete", lambda: load(sidecar).end is not None, timeout_s=5)
    recording = load(sidecar)
    assert recording.end is not None
    require(recording.end.complete, f"with room again: {recording.end.reason}")
    require(recording.intact_pixels() == 12, f"{recording.intact_pixels()} of 12 frames are whole")
    return recording


FAULTS = (
    Fault(
        name="disk full while recording",
        holds="sessions go on; log and sidecar say what is lost; what was recorded is readable",
        run=run,
    ),
)
