"""SimStream-v0 is an environment as Gymnasium, its wrappers and its vectors expect one."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import bridge.gym_env
from sim_stream.config import Action
from sim_stream.errors import ConnectionLost, InvalidInput, RemoteError
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer
from tests.wire.conftest import ROOT, TIMEOUT_S, ServerProcess
from tests.wire.toy import FOREIGN_DB, OWN_DB, PRESET, SIZE, ToyModel, prompt_frames, toy_spec

ID = "SimStream-v0"


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer(ToyModel(), bind="tcp://127.0.0.1:0") as server:
        yield server


@pytest.fixture
def env(server: StreamServer) -> Iterator[gymnasium.Env]:
    env = gymnasium.make(ID, endpoint=server.endpoint, render_mode="rgb_array")
    yield env
    env.close()


def episode(env: gymnasium.Env, *, seed: int | None, steps: int = 4) -> list[np.ndarray]:
    frames = [env.reset(seed=seed)[0]]
    for n in range(steps):
        frames.append(env.step(np.array([0.1 * n, 0.2 * n], np.float32))[0])
    return frames


def test_gymnasiums_own_checker_is_content(env):
    check_env(env.unwrapped)


def test_checker_is_content_with_a_model_that_takes_no_actions():
    blind = replace(PRESET, actions_per_frame=0, prompt="drive")
    with StreamServer(ToyModel(toy_spec(blind)), bind="tcp://127.0.0.1:0") as server:
        env = gymnasium.make(ID, endpoint=server.endpoint)
        check_env(env.unwrapped)
        env.close()


def test_same_seed_and_actions_give_the_same_frames(env):
    first, again, other = (episode(env, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_episodes_without_a_seed_differ_and_follow_from_the_last_one(env):
    runs = []
    for _ in range(2):
        env.reset(seed=8)
        runs.append([episode(env, seed=None), episode(env, seed=None)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0][0], runs[0][1])


def test_seed_and_actions_are_those_of_a_session(env, server):
    frames = episode(env, seed=3)
    prompt = env.unwrapped._prompt
    with (
        StreamClient(server.endpoint) as client,
        client.open(
            prompt.frames_THWC, seed=3, prompt_inputs=prompt.actions, lookahead=0
        ) as session,
    ):
        np.testing.assert_array_equal(frames[0], session.frame.image)
        for n, frame in enumerate(frames[1:]):
            speed, yaw_rate = np.array([0.1 * n, 0.2 * n], np.float32).astype(np.float64)
            most = PRESET.action_bins
            action = Action(
                speed_mps=speed * most.speed_max_mps, yaw_rate_radps=yaw_rate * most.yaw_max_radps
            )
            np.testing.assert_array_equal(frame, session.step(action).image)


def test_spaces_are_the_servers_with_actions_normalised(env):
    assert env.observation_space.shape == (SIZE, SIZE, 3)
    np.testing.assert_array_equal(env.action_space.low, [0.0, -1.0])
    np.testing.assert_array_equal(env.action_space.high, [1.0, 1.0])
    bins = PRESET.action_bins
    assert list(env.unwrapped.action_scale) == [bins.speed_max_mps, bins.yaw_max_radps]


def test_info_tells_which_frame_it_is(server):
    env = gymnasium.make(ID, endpoint=server.endpoint, lookahead=1)
    prompt = {"prompt_psnr_db": OWN_DB}
    first = env.reset(seed=0)[1]
    assert first == {"step": 0, "frame_id": 0, "lag_frames": 0, "approximated": False} | prompt
    info = env.step(env.action_space.sample())[4]
    assert info == {"step": 1, "frame_id": 0, "lag_frames": 1, "approximated": False} | prompt
    grey = np.full_like(prompt_frames(), 128)
    assert env.reset(options={"frames": grey})[1]["prompt_psnr_db"] == FOREIGN_DB
    env.close()


def test_episode_may_start_from_other_frames(env):
    plain = env.reset(seed=1)[0]
    frames = prompt_frames(key=7)
    other = env.reset(seed=1, options={"frames": frames})[0]
    assert not np.array_equal(plain, other)
    np.testing.assert_array_equal(env.reset(seed=1, options={"frames": frames})[0], other)
    with pytest.raises(InvalidInput, match="options: got weather"):
        env.reset(options={"weather": "rain"})


def test_server_that_leaves_truncates_and_the_next_server_opens_the_next_episode(server, env):
    episode(env, seed=3)
    server.stop()
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "SHUTTING_DOWN" in info["error"]
    np.testing.assert_array_equal(frame, env.render())
    with pytest.raises(InvalidInput, match="after reset"):
        env.step(env.action_space.sample())
    with StreamServer(ToyModel(), bind=server.endpoint):
        assert len(episode(env, seed=3)) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        [1.0],
        [1.0, 2.0, 3.0],
        [float("nan"), 0.0],
        ["fast", 0.0],
        [1.0, [2.0]],
        [10**400, 0.0],
        None,
    ],
    ids=str,
)
def test_impossible_action_is_refused_and_the_episode_goes_on(env, wrong):
    env.reset(seed=0)
    with pytest.raises(InvalidInput, match="action"):
        env.unwrapped.step(wrong)
    assert env.step(env.action_space.sample())[4]["step"] == 1


def test_drawing_into_an_observation_or_a_rendered_frame_changes_no_other(env):
    observation = env.reset(seed=1)[0]
    first = env.render()
    np.testing.assert_array_equal(first, observation)
    observation[:] = 0
    np.testing.assert_array_equal(env.render(), first)
    env.render()[:] = 0
    np.testing.assert_array_equal(env.render(), first)
    stepped = env.step(env.action_space.sample())[0]
    drawn = env.render()
    stepped[:] = 0
    np.testing.assert_array_equal(env.render(), drawn)


def test_no_server_no_prompt_and_unknown_render_mode_are_said(server, tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        bridge.gym_env.SimStreamEnv(server.endpoint, prompt=tmp_path / "no.mp4")
    with pytest.raises(InvalidInput, match="render_mode"):
        bridge.gym_env.SimStreamEnv(server.endpoint, render_mode="human")
    server.stop()
    with pytest.raises(ConnectionLost):
        bridge.gym_env.SimStreamEnv(server.endpoint, timeout_s=0.1)


def test_vector_of_environments_shares_a_server(server):
    envs = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="sync", endpoint=server.endpoint, max_episode_steps=5
    )
    first, _ = envs.reset(seed=[1, 1, 2])
    frames, *_ = envs.step(np.tile(np.array([[0.2, 0.1]], np.float32), (3, 1)))
    assert first.shape == frames.shape == (3, SIZE, SIZE, 3)
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    envs.close()


def test_vector_of_processes_gives_what_one_environment_gives():
    server = ServerProcess()
    try:
        alone = gymnasium.make(ID, endpoint=server.endpoint)
        expected = [alone.reset(seed=6)[0], alone.step(np.array([0.2, 0.1], np.float32))[0]]
        alone.close()
        envs = gymnasium.make_vec(
            ID,
            num_envs=2,
            vectorization_mode="async",
            vector_kwargs={"context": "spawn"},
            endpoint=server.endpoint,
        )
        frames, _ = envs.reset(seed=[6, 7])
        np.testing.assert_array_equal(frames[0], expected[0])
        frames, *_ = envs.step(np.array([[0.2, 0.1]] * 2, np.float32))
        np.testing.assert_array_equal(frames[0], expected[1])
        envs.close()
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.mark.parametrize("end", ["close", "drop"])
def test_an_environment_that_ends_leaves_no_session(server, end):
    with StreamClient(server.endpoint) as watch:
        for seed in range(6):  # the server has room for four
            env = gymnasium.make(ID, endpoint=server.endpoint)
            episode(env, seed=seed)
            if end == "close":
                env.close()
                env.close()
            del env
            deadline_s = time.monotonic() + TIMEOUT_S
            while watch.status().sessions and time.monotonic() < deadline_s:
                time.sleep(0.02)
            assert watch.status().sessions == 0


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused_with_a_word_about_fork_and_the_episode_goes_on(env, how):
    env.reset(seed=0)
    with pytest.raises(InvalidInput, match=r"SimStreamEnv.*fork\(\)"):
        how(env.unwrapped)
    assert env.step(env.action_space.sample())[4]["step"] == 1


FORKING = """
import os, sys
import gymnasium
import bridge.gym_env
from sim_stream.errors import WrongOwner
env = gymnasium.make({env_id!r}, endpoint={endpoint!r})
env.reset(seed=0)
child = os.fork()
if child == 0:
    try:
        env.unwrapped.step(env.action_space.sample())
    except WrongOwner as error:
        env.close()
        sys.exit(3 if "forked process" in str(error) else 4)
    sys.exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(env.step(env.action_space.sample())[4]["step"])
env.close()
"""


def test_in_a_forked_process_the_environment_says_so_and_closes_without_harm(server):
    program = FORKING.format(env_id=ID, endpoint=server.endpoint)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["3", "1"], done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")  # how Gymnasium tells of it
def test_vectors_of_processes_raise_what_happened_and_close():
    server = ServerProcess("--max-sessions", "1")
    made = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}}
    try:
        envs = gymnasium.make_vec(ID, num_envs=2, endpoint=server.endpoint, **made)
        with pytest.raises(RemoteError, match="LIMIT: 1 sessions are open"):
            envs.reset(seed=1)
        envs.close()
        envs = gymnasium.make_vec(ID, num_envs=1, endpoint=server.endpoint, **made)
        envs.reset(seed=1)
        with pytest.raises(InvalidInput, match=r"action\.speed_mps: got nan"):
            envs.step(np.array([[np.nan, 0.0]], np.float32))
        envs.close()
    finally:
        server.process.kill()
        server.process.communicate()


def test_videos_of_episodes_are_recorded(server, tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy, which pins an old pillow")
    folder = tmp_path / "videos"
    env = gymnasium.make(ID, endpoint=server.endpoint, render_mode="rgb_array", max_episode_steps=6)
    env = gymnasium.wrappers.RecordVideo(env, str(folder), episode_trigger=lambda n: True)
    env.reset(seed=1)
    while not env.step(env.action_space.sample())[3]:
        pass
    env.close()
    assert [path.name for path in folder.iterdir()] == ["rl-video-episode-0.mp4"]
