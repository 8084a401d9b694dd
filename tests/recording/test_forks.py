"""A fork with a seed of its own is made again when it is replayed or resumed, where it was made."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from sim_stream.recording.load import load
from sim_stream.recording.replay import replay
from sim_stream.wire.server.server import StreamServer
from tests.recording.conftest import LOCAL, recorded
from tests.recording.test_worlds import (
    FORMS,
    all_drives,
    connected,
    recording_client,
    replayed,
    served,
)


@all_drives
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["server", "client"])
def test_a_fork_with_a_seed_is_forked_again_where_it_was(drive, form, by, tmp_path):
    with ExitStack() as stack:
        client = stack.enter_context(recording_client(drive, tmp_path, by, form))
        parent = client.open(**drive.start)
        drive.images(parent, 0, 2)
        child = parent.fork(seed=11)
        drive.images(child, 2, 4)
        plain = child.fork()
        drive.images(plain, 4, 5)
        again = plain.fork(seed=12)  # at its very end
        last = again.fork(seed=13)
        ours, theirs = drive.images(parent, 2, 3), drive.images(last, 5, 6)
        assert (ours[0] != theirs[0]).any()
        for session in (parent, child, plain, again, last):
            session.close()
    for session, steps, forks in (
        (parent, 3, {}),
        (child, 4, {2: 11}),
        (plain, 5, {2: 11}),
        (again, 5, {2: 11, 5: 12}),
        (last, 6, {2: 11, 5: 13}),
    ):
        path = recorded(tmp_path, session.sid)
        (run,) = load(path).runs
        assert run.forks == forks
        report = replayed(drive, path)
        assert report.same and report.frames == drive.frames - (6 - steps) * len(ours)
        run.forks.clear()
        with StreamServer(drive.world(), bind=LOCAL) as server:
            unforked = replace(load(path), runs=[run])
            assert replay(unforked, server.endpoint).same == (session is parent)


@all_drives
@pytest.mark.parametrize("form", FORMS)
def test_a_fork_with_a_seed_survives_restarts(drive, form, tmp_path):
    with (
        StreamServer(drive.world(), bind=LOCAL) as server,
        connected(server) as client,
        client.open(**drive.start) as parent,
    ):
        drive.images(parent, 0, 2)
        with parent.fork(seed=5) as child:
            expected = drive.images(child, 2, 6)
    with ExitStack() as stack:
        with served(drive, tmp_path, form) as server:
            endpoint = server.endpoint
            client = stack.enter_context(connected(server))
            parent = client.open(**drive.start)
            drive.images(parent, 0, 2)
            child = parent.fork(seed=5)
        found = []
        for first in (2, 4):  # resumed where it was forked, and beyond
            with served(drive, tmp_path, form, bind=endpoint):
                found += drive.images(child, first, first + 2)
                assert child.seed == 5
                if first == 4:
                    child.close()
    np.testing.assert_array_equal(found, expected)
