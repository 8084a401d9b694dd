"""Which of the waiting jobs may run."""

from __future__ import annotations

import threading

from sim_stream.wire.messages import Close, Fork, Reset, Step
from sim_stream.wire.server.inbox import Inbox
from sim_stream.wire.server.jobs import Job
from tests.wire.conftest import TIMEOUT_S


def step(sid: str, number: int) -> Job:
    return Job(sid=sid, request=Step(sid=sid, step=number), t_recv_ns=0)


def filled(*jobs: Job) -> Inbox:
    inbox = Inbox(len(jobs))
    assert all(inbox.put(job) for job in jobs)
    return inbox


def test_a_sessions_jobs_run_in_order_and_one_at_a_time():
    jobs = [step("a", 1), step("a", 2), step("b", 1)]
    inbox = filled(*jobs)
    assert inbox.take(()) == [jobs[0], jobs[2]]
    assert inbox.take({"a": 1}) == []  # a's first step is under way
    assert inbox.take({"b": 1}) == [jobs[1]]
    assert inbox.waiting == 0


def test_what_is_not_a_step_waits_for_its_sessions_frames():
    reset, after = Job(sid="a", request=Reset(sid="a"), t_recv_ns=0), step("a", 1)
    inbox = filled(reset, after, step("b", 1))
    inbox.rendering("a")
    assert [job.sid for job in inbox.take({"x": 1})] == ["b"]
    inbox.rendered("a")
    assert inbox.take({"x": 1}) == [reset]


def test_a_fork_waits_for_its_parent():
    fork = Job(sid="child", request=Fork(sid="parent"), t_recv_ns=0)
    inbox = filled(fork)
    assert inbox.take({"parent": 1}) == []
    assert inbox.take(()) == [fork]


def test_it_is_bounded_and_closes():
    close = Job(sid="b", request=Close(sid="b"), t_recv_ns=0)
    inbox = filled(step("a", 1), close)
    assert not inbox.put(step("a", 2))
    assert len(inbox.close()) == 2
    assert not inbox.put(step("a", 2))
    assert inbox.take({"a": 1}) == []  # what is under way goes on
    assert inbox.take(()) is None


def test_a_rendered_frame_wakes_who_waits():
    close = Job(sid="a", request=Close(sid="a"), t_recv_ns=0)
    inbox = filled(close)
    inbox.rendering("a")
    timer = threading.Timer(0.02, inbox.rendered, ["a"])
    timer.start()
    assert inbox.take(()) == [close]
    timer.join(TIMEOUT_S)
