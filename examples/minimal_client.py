"""Drives a sim-stream server with nothing but zmq, msgpack and numpy.

    python examples/minimal_client.py [tcp://127.0.0.1:5555 [prompt.rgb]]

A message is [msgpack header][array]*; every request has a `rid` that its reply repeats.
write_prompt.py makes a prompt.rgb; without it: grey, which no model can go on from.
"""

import sys

import msgpack
import numpy as np
import zmq


class Client:
    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.rid = endpoint, 0
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def ask(self, kind: str, arrays: dict[str, np.ndarray] | None = None, **fields):
        """Sends one request; gives the reply's header and its images, [N, H, W, 3]."""
        arrays, self.rid = arrays or {}, self.rid + 1
        specs = [
            {"name": name, "dtype": a.dtype.str, "shape": list(a.shape), "nbytes": a.nbytes}
            for name, a in arrays.items()
        ]
        header = {"v": 2, "t": kind, "rid": self.rid, "arrays": specs} | fields
        self.socket.send_multipart([msgpack.packb(header), *(a.tobytes() for a in arrays.values())])
        if not self.socket.poll(2_000 if kind == "hello" else 600_000):  # a step may compile
            raise SystemExit(f"no answer; start it: sim-stream serve --bind {self.endpoint}")
        header, *parts = self.socket.recv_multipart()
        reply = msgpack.unpackb(header)
        if reply["t"] == "error":
            raise SystemExit(f"{reply['code']}: {reply['message']}")
        shaped = zip(parts, reply["arrays"], strict=True)
        return reply, [np.frombuffer(part, np.uint8).reshape(a["shape"]) for part, a in shaped]


def show(reply: dict, arrays: list[np.ndarray]) -> None:
    for frame, image in zip(reply["frames"], arrays[0] if arrays else (), strict=True):
        print(f"frame {frame['frame_id']} step {frame['step']} brightness {image.mean():.1f}")


if __name__ == "__main__":
    client = Client(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")
    spec = client.ask("hello")[0]["spec"]
    least, most = spec["prompt_frames"]
    frames = np.full((min(max(2, least), most), *spec["frame_shape"]), 128, np.uint8)
    if len(sys.argv) > 2:  # images of the road go here
        frames = np.fromfile(sys.argv[2], np.uint8).reshape(-1, *spec["frame_shape"])
    opened, arrays = client.ask("open", {"frames": frames} if len(frames) else {}, seed=7)
    reached, foreign = opened["prompt_psnr_db"], spec["prompt_psnr_min_db"]
    if reached is not None and foreign is not None and reached < foreign:
        print(f"the model cannot show this prompt: {reached:.1f} dB, it takes {foreign:g} or more")
    show(opened, arrays)
    names = {field["name"] for field in spec["step_inputs"]}
    for step in range(1, 6):
        steering = {"speed_mps": 8.0, "yaw_rate_radps": 0.1 * step}
        inputs = {name: steering[name] for name in names & set(steering)}
        show(*client.ask("step", sid=opened["sid"], step=step, inputs=inputs))
    show(*client.ask("close", sid=opened["sid"]))
