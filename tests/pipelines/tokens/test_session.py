"""Session: what leaves, when, and what it depends on."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim_stream.config import Action, DecodingConfig, SamplingConfig, SessionConfig
from sim_stream.decoding.onnx_pass import OnnxPasses
from sim_stream.decoding.strategy import Draw
from sim_stream.errors import InvalidInput, SessionClosed, Unavailable
from sim_stream.models.kv_cache import KVCache
from sim_stream.models.vq_model import to_pixels
from sim_stream.pipelines.tokens.runtime import Runtime
from sim_stream.pipelines.tokens.session import Prediction, Session
from tests.small import SMALL, random_runtime

PROMPT = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
ACTIONS = [Action(speed_mps=3.0 + i, yaw_rate_radps=0.1 * (i % 3 - 1)) for i in range(9)]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return random_runtime()


def started(runtime: Runtime, *, seed: int = 5, lookahead: int = 1) -> Session:
    session = runtime.open_session(lookahead=lookahead)
    session.reset(PROMPT, seed=seed)
    return session


def ids_of(session: Session, actions: list[Action]) -> list[list[int]]:
    rows = []
    for action in actions:
        session.predict(action)
        rows.append(session.latest_ids.tolist())
    return rows


def test_frames_leave_one_step_late_and_flush_gives_the_last(runtime: Runtime) -> None:
    session = runtime.open_session()
    first = session.reset(PROMPT, seed=1)
    assert (first.step, first.frame_id, first.final) == (0, 0, False)
    replies = [session.step(a) for a in ACTIONS[:4]]
    assert [r.frame_id for r in replies] == [0, 1, 2, 3]
    assert all(r.final and r.lag_frames == 1 and r.step == r.frame_id + 1 for r in replies)
    last = session.flush()
    assert last is not None
    assert (last.frame_id, last.step, last.lag_frames, last.final) == (4, 4, 0, True)
    assert last.image.shape == (32, 32, 3)
    assert last.image.dtype == np.uint8


def test_without_lookahead_frames_leave_at_once(runtime: Runtime) -> None:
    session = started(runtime, lookahead=0)
    replies = [session.step(a) for a in ACTIONS[:3]]
    assert [(r.frame_id, r.lag_frames, r.final) for r in replies] == [
        (1, 0, True),
        (2, 0, True),
        (3, 0, True),
    ]
    assert session.flush() is None


def test_each_frame_is_the_middle_slot_of_its_three_frames_window(runtime: Runtime) -> None:
    session = started(runtime)
    ids = [session._window.latest(2)[0], session.latest_ids]
    images = []
    for action in ACTIONS[:5]:
        images.append(session.step(action).image)
        ids.append(session.latest_ids)
    flushed = session.flush()
    assert flushed is not None
    for t, image in enumerate(images):
        window = torch.stack(ids[t : t + 3])[None]
        expected = to_pixels(runtime.video_decoder(window, 1)[0])
        assert np.array_equal(image, expected.numpy())
    right = to_pixels(runtime.video_decoder(torch.stack(ids[-3:])[None], 2)[0])
    assert np.array_equal(flushed.image, right.numpy())


def test_a_replay_is_bit_equal_across_re_anchoring(runtime: Runtime) -> None:
    images = []
    for _ in range(2):
        session = started(runtime)
        images.append([session.step(a).image for a in ACTIONS])
    assert all(np.array_equal(a, b) for a, b in zip(*images, strict=True))


def test_resetting_a_used_session_equals_a_new_one(runtime: Runtime) -> None:
    used = started(runtime, seed=99)
    used.step(ACTIONS[0])
    used.reset(PROMPT, seed=5)
    assert ids_of(used, ACTIONS) == ids_of(started(runtime), ACTIONS)


def test_ids_do_not_depend_on_the_lookahead(runtime: Runtime) -> None:
    assert ids_of(started(runtime), ACTIONS) == ids_of(started(runtime, lookahead=0), ACTIONS)


def test_seed_and_actions_matter(runtime: Runtime) -> None:
    base = ids_of(started(runtime), ACTIONS[:2])
    assert ids_of(started(runtime, seed=6), ACTIONS[:2]) != base
    other = [Action(speed_mps=20.0, yaw_rate_radps=0.5)] * 2
    assert ids_of(started(runtime), other) != base


def test_a_fork_with_equal_actions_stays_equal_and_leaves_the_other_alone(runtime: Runtime) -> None:
    session = started(runtime)
    ids_of(session, ACTIONS[:3])
    twin, stray = session.fork(), session.fork()
    ids_of(stray, [Action(speed_mps=30.0, yaw_rate_radps=-0.7)] * 4)
    expected = ids_of(started(runtime), ACTIONS)[3:]
    assert ids_of(twin, ACTIONS[3:]) == expected
    assert ids_of(session, ACTIONS[3:]) == expected


@pytest.mark.parametrize(
    ("anchors", "first"), [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)], ids=str
)
@torch.inference_mode()
def test_the_second_cache_equals_a_fresh_prefill_of_the_kept_frames(
    anchors: int, first: int
) -> None:
    config = SessionConfig(context_frames=4, anchor_frames=anchors, sink_frames=first)
    preset = replace(SMALL, session=config)
    runtime = random_runtime(preset)
    session = started(runtime)
    context, layout = session._context, runtime.layout
    # The first frames of the drive, as they were before anything was re-anchored.
    opening_1S = context._ids_1S[:, : layout.frame_start(first)].clone()
    for action in ACTIONS:
        if context.full:
            newest = layout.frame_start(4 - anchors + first), layout.frame_start(4) - 2
            ids_1S = torch.cat([opening_1S, context._ids_1S[:, slice(*newest)]], 1)
            fresh = KVCache(preset.world_model, layout.context_length(anchors))
            runtime.world_model(ids_1S, None, fresh)
            context.re_anchor()
            assert context.frames == anchors and context.cache.length == fresh.length
            held = context.cache.held(fresh.length)
            # Frames enter one by one here, at once there: sums in another order, of order 1.
            expected = fresh.held(fresh.length)
            torch.testing.assert_close(held, expected, atol=2e-5, rtol=2e-5)
        session.predict(action)
        session.prefill_ahead()


def test_prefilling_ahead_changes_nothing_but_the_time_it_takes(runtime: Runtime) -> None:
    lazy, eager = started(runtime), started(runtime)
    rows = []
    for action in ACTIONS:
        eager.prefill_ahead()
        eager.prefill_ahead()
        eager.predict(action)
        rows.append(eager.latest_ids.tolist())
    assert rows == ids_of(lazy, ACTIONS)


def test_sessions_side_by_side_give_the_frames_they_give_alone(runtime: Runtime) -> None:
    """Six sessions of three strategies, begun at different passes, across re-anchoring."""
    decodings = [
        DecodingConfig(),
        DecodingConfig(),
        DecodingConfig(strategy="jacobi", window=7),
        DecodingConfig(strategy="jacobi", window=64),
        DecodingConfig(strategy="diagonal", k=2),
        DecodingConfig(),
    ]

    def fresh(index: int) -> Session:
        session = runtime.open_session()
        session.reset(PROMPT, seed=index, decoding=decodings[index])
        return session

    alone = [ids_of(fresh(index), ACTIONS[index % 3 :][:5]) for index in range(6)]
    sessions, together = [fresh(index) for index in range(6)], [[] for _ in range(6)]
    under_way: dict[int, Prediction] = {}
    passes = 0
    while any(len(rows) < 5 for rows in together):
        for index, session in enumerate(sessions):
            if index not in under_way and len(together[index]) < 5 and passes >= 3 * index:
                under_way[index] = session.begin(ACTIONS[index % 3 + len(together[index])])
        runtime.advance()
        passes += 1
        for index, prediction in [*under_way.items()]:
            if prediction.done:
                prediction.result()
                together[index].append(sessions[index].latest_ids.tolist())
                del under_way[index]
    assert together == alone


def test_a_session_beyond_the_limit_is_refused_and_a_closed_one_makes_room() -> None:
    runtime = random_runtime(max_sessions=2)
    first, second = started(runtime), started(runtime)
    for refused in (runtime.open_session, first.fork):
        with pytest.raises(Unavailable, match="all 2 rows of the KV cache are taken"):
            refused()
    first.close()
    third = started(runtime)
    assert ids_of(third, ACTIONS) == ids_of(second, ACTIONS)
    with pytest.raises(InvalidInput, match=r"rows: got 0"):
        random_runtime(max_sessions=0)


def test_a_session_that_cannot_be_made_takes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = random_runtime(max_sessions=2)
    session = started(runtime)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("sim_stream.pipelines.tokens.context.KVCache", fail)
        for refused in (session.fork, runtime.open_session):
            with pytest.raises(RuntimeError, match="out of memory"):
                refused()
    assert ids_of(started(runtime), ACTIONS) == ids_of(session, ACTIONS)


def test_a_session_takes_one_step_at_a_time_and_can_be_left_in_the_middle(
    runtime: Runtime,
) -> None:
    session = started(runtime)
    session.begin(ACTIONS[0])
    runtime.advance()
    for refused in (session.begin, session.fork):
        with pytest.raises(InvalidInput, match="under way"):
            refused()
    session.reset(PROMPT, seed=5)
    assert ids_of(session, ACTIONS) == ids_of(started(runtime), ACTIONS)
    session.begin(ACTIONS[0])
    session.close()
    runtime.advance()


def test_every_frame_of_the_context_ends_with_the_forced_id(runtime: Runtime) -> None:
    session, layout = started(runtime), runtime.layout
    ids_of(session, ACTIONS[:2])
    frames = session._context._ids_1S[0].view(4, layout.frame_length)
    assert (frames[:, -1] == layout.end_of_frame).all()
    codes = frames[:, layout.actions_per_frame : -1]
    assert int(codes.max()) < layout.num_codes
    assert frames[2, :2].tolist() == list(layout.action_ids(ACTIONS[0]))


def test_a_text_prompt_leads_the_sequence_and_matters() -> None:
    preset = replace(SMALL, prompt="drive", actions_per_frame=0)
    ids = []
    for prompt_ids in ((1, 2, 3), (1, 2, 4)):
        session = random_runtime(preset, prompt_ids=prompt_ids).open_session()
        session.reset(PROMPT, seed=5)
        first = [session.predict() and session.latest_ids.tolist() for _ in range(6)]
        session.reset(PROMPT, seed=5)
        assert [session.predict() and session.latest_ids.tolist() for _ in range(6)] == first
        ids.append(first)
    assert ids[0] != ids[1]


BAD_PROMPTS = [
    (PROMPT.astype(np.float32), "float32"),
    (PROMPT[:, :16], r"\(2, 16, 32, 3\)"),
    (PROMPT[0], r"\(32, 32, 3\)"),
    (PROMPT[:0], r"\(0, 32, 32, 3\)"),
    (np.concatenate([PROMPT] * 2), r"\(4, 32, 32, 3\)"),
]


@pytest.mark.parametrize(("frames", "given"), BAD_PROMPTS)
def test_prompt_frames_of_another_form_are_refused(
    runtime: Runtime, frames: np.ndarray, given: str
) -> None:
    session = started(runtime)
    ids_of(session, ACTIONS[:1])
    with pytest.raises(InvalidInput, match=rf"frames: got {given}; allowed: "):
        session.reset(frames, seed=1)
    assert session.committed_step == 1


def test_bad_settings_are_refused_and_the_session_goes_on(runtime: Runtime) -> None:
    session = started(runtime)
    with pytest.raises(InvalidInput, match="seed"):
        session.reset(PROMPT, seed=-1)
    with pytest.raises(InvalidInput, match="top_k: got 33"):
        session.reset(PROMPT, seed=1, sampling=SamplingConfig(top_k=33))
    with pytest.raises(InvalidInput, match="actions: got 1 of them"):
        session.reset(PROMPT, seed=1, actions=[None])
    with pytest.raises(InvalidInput, match="text"):
        session.reset(PROMPT, seed=1, text="fly")
    assert ids_of(session, ACTIONS) == ids_of(started(runtime), ACTIONS)


def test_a_failing_pass_leaves_the_session_as_it_was(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, made = started(runtime), itertools.count()
    run = OnnxPasses.run

    def fail(self: OnnxPasses, draws: Sequence[Draw]) -> list[torch.Tensor]:
        if next(made) == 20:
            raise RuntimeError("device lost")
        return run(self, draws)

    with monkeypatch.context() as patch:
        patch.setattr(OnnxPasses, "run", fail)
        with pytest.raises(RuntimeError, match="device lost"):
            session.step(ACTIONS[0])
    assert ids_of(session, ACTIONS) == ids_of(started(runtime), ACTIONS)


def test_a_closed_session_says_so_and_closing_twice_is_fine(runtime: Runtime) -> None:
    session = started(runtime)
    session.close()
    session.close()
    with pytest.raises(SessionClosed, match="closed"):
        session.step()


def test_a_step_before_the_prompt_is_refused(runtime: Runtime) -> None:
    with pytest.raises(InvalidInput, match="reset before the first step"):
        runtime.open_session().step()


def test_jacobi_gives_the_frames_of_raster_across_re_anchoring(runtime: Runtime) -> None:
    images = []
    for decoding in (DecodingConfig(), DecodingConfig(strategy="jacobi", window=7)):
        session = runtime.open_session()
        session.reset(PROMPT, seed=5, decoding=decoding)
        frames = [session.step(action) for action in ACTIONS * 3]
        images.append(np.stack([frame.image for frame in frames]))
        assert not any(frame.approximated for frame in frames)
    assert np.array_equal(*images)
    assert all(len(frame.accepted) < runtime.layout.codes_per_frame for frame in frames)


def test_a_passed_deadline_ships_a_marked_frame_and_the_session_goes_on(runtime: Runtime) -> None:
    session = runtime.open_session(lookahead=0)
    session.reset(PROMPT, seed=5, decoding=DecodingConfig(strategy="jacobi", window=2))
    late = session.step(deadline_ms=1e-6)
    assert late.approximated and len(late.accepted) == 1
    later = [session.step() for _ in range(6)]
    # Marked as long as the frame is in the window that pixels are decoded from.
    assert [frame.approximated for frame in later] == [True, True, False, False, False, False]
    twin = session.fork()
    assert np.array_equal(session.step().image, twin.step().image)


def test_a_deadline_without_jacobi_and_bad_decoding_are_refused(runtime: Runtime) -> None:
    session = started(runtime)
    with pytest.raises(InvalidInput, match=r"deadline_ms.*jacobi"):
        session.step(deadline_ms=100.0)
    session.reset(PROMPT, seed=1, decoding=DecodingConfig(strategy="jacobi"))
    for deadline_ms in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match=r"deadline_ms.*above 0"):
            session.step(deadline_ms=deadline_ms)
    for refused, match in (
        (DecodingConfig(strategy="jacobi", window=65), r"decoding.window.*65.*1\.\.64"),
        (DecodingConfig(strategy="diagonal", k=9), r"decoding.k.*9.*1\.\.8"),
    ):
        with pytest.raises(InvalidInput, match=match):
            session.reset(PROMPT, seed=1, decoding=refused)
    for bad in ("greedy", "jacobi:0", "jacobi:x", "raster:3", "diagonal:-1", ""):
        with pytest.raises(InvalidInput, match="decoding"):
            DecodingConfig.parse(bad)
    assert DecodingConfig.parse("jacobi:7") == DecodingConfig(strategy="jacobi", window=7)
    assert DecodingConfig.parse("diagonal:2") == DecodingConfig(strategy="diagonal", k=2)


def test_diagonal_frames_are_marked(runtime: Runtime) -> None:
    session = runtime.open_session()
    session.reset(PROMPT, seed=5, decoding=DecodingConfig(strategy="diagonal", k=1))
    frames = [session.step(action) for action in ACTIONS * 3]
    assert all(frame.approximated and len(frame.accepted) == 8 + 7 for frame in frames)


@pytest.mark.parametrize("step_engine", ["torch", "static"])
def test_every_step_engine_gives_the_same_frames(runtime: Runtime, step_engine: str) -> None:
    """Across re-anchoring, for each strategy; the runtime at hand runs ONNX Runtime."""
    assert runtime.step_engine == "onnxruntime"
    other = random_runtime(step_engine=step_engine)
    for decoding in (
        DecodingConfig(),
        DecodingConfig(strategy="jacobi", window=7),
        DecodingConfig(strategy="diagonal", k=2),
    ):
        rows = []
        for where in (runtime, other):
            session = where.open_session()
            session.reset(PROMPT, seed=5, decoding=decoding)
            rows.append(ids_of(session, ACTIONS))
            session.close()
        assert rows[0] == rows[1]


def test_static_sessions_share_passes_and_give_the_frames_they_give_alone() -> None:
    runtime = random_runtime(step_engine="static", max_sessions=4)
    jacobi = DecodingConfig(strategy="jacobi", window=16)

    def fresh(seed: int) -> Session:
        session = runtime.open_session()
        session.reset(PROMPT, seed=seed, decoding=jacobi)
        return session

    alone = []
    for seed in range(3):
        with fresh(seed) as session:
            alone.append(ids_of(session, ACTIONS))
    sessions = [fresh(seed) for seed in range(3)]
    together: list[list[list[int]]] = [[], [], []]
    for action in ACTIONS:
        predictions = [session.begin(action) for session in sessions]
        while not all(prediction.done for prediction in predictions):
            runtime.advance()
        for rows, session, prediction in zip(together, sessions, predictions, strict=True):
            prediction.result()
            rows.append(session.latest_ids.tolist())
    assert together == alone


@pytest.mark.parametrize("first", [-1, 2])
def test_as_many_first_frames_as_a_context_keeps_are_refused(first: int) -> None:
    with pytest.raises(InvalidInput, match=rf"sink_frames: got {first}; allowed: 0..1 frames"):
        SessionConfig(context_frames=4, anchor_frames=2, sink_frames=first)
