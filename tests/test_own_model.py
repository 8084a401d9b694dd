"""docs/own_model.md: its model is whole, and does what the page says of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from sim_stream.errors import InvalidInput
from sim_stream.named_model import load_model
from sim_stream.recording.load import load
from sim_stream.recording.recorder import Recorder
from sim_stream.recording.replay import replay
from sim_stream.wire.client.blocking_client import StreamClient
from sim_stream.wire.server.server import StreamServer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_model.md"
FRAMES = np.full((1, 64, 96, 3), 90, np.uint8)
SEMANTIC = np.arange(64 * 96, dtype=np.uint8).reshape(64, 96) % 16


def test_the_pages_model_is_served_recorded_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "painter_of_the_page.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    model = load_model("painter_of_the_page:make")
    with (
        Recorder(tmp_path / "recordings", by="server") as recorder,
        StreamServer(model, bind="tcp://127.0.0.1:0", observer=recorder) as server,
        StreamClient(server.endpoint) as client,
    ):
        with client.open(FRAMES, seed=3, options={"memory": 0.0}) as session:
            image = session.step({"semantic": SEMANTIC}).image
            for one in range(16):  # every class has one colour
                assert len(np.unique(image[one == SEMANTIC], axis=0)) == 1
            with pytest.raises(InvalidInput) as refused:
                session.step({"semantic": SEMANTIC[:32]})
            assert re.sub(r", values up to \d+", "", str(refused.value)) in text
            with session.fork() as twin:
                ours, theirs = (one.step({"semantic": SEMANTIC}) for one in (session, twin))
                np.testing.assert_array_equal(ours.image, theirs.image)
        recorder.close()
        paths = sorted((tmp_path / "recordings").glob("*.jsonl"))
        assert len(paths) == 2
        assert all(replay(load(path), server.endpoint).same for path in paths)
    del sys.modules["painter_of_the_page"]
