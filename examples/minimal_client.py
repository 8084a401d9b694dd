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
        """Sends one request; gives the reply's header and its arrays."""
        arrays, self.rid = arrays or {}, self.rid + 1
        specs = [
            {"name": name, "dtype": a.dtype.str, "shape": list(a.shape), "nbytes": a.nbytes}
            for name, a in arrays.items()
        ]
        header = {"v": 1, "t": kind, "rid": self.rid, "arrays": specs} | fields
        self.socket.send_multipart([msgpack.packb(header), *(a.tobytes() for a in arrays.values())])
        if not self.socket.poll(2_000 if kind == "hello" else 600_000):  # a step may compile
            raise SystemExit(f"no answer; start it: sim-stream serve --bind {self.endpoint}")
        header, *parts = self.socket.recv_multipart()
        reply = msgpack.unpackb(header)
        if reply["t"] == "error":
            raise SystemExit(f"{reply['code']}: {reply['message']}")
        views = (np.frombuffer(part, np.uint8) for part in parts)
        specs = zip(reply["arrays"], views, strict=True)
        return reply, {spec["name"]: view.reshape(spec["shape"]) for spec, view in specs}


def show(reply: dict, arrays: dict[str, np.ndarray]) -> None:
    frame = reply["frame"]
    if frame:
        brightness = arrays["image"].mean()
        print(f"frame {frame['frame_id']} step {frame['step']} brightness {brightness:.1f}")


if __name__ == "__main__":
    client = Client(sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5555")
    info, _ = client.ask("hello")
    frames = np.full((2, *info["frame_shape"]), 128, np.uint8)  # two images of the road go here
    if len(sys.argv) > 2:
        frames = np.fromfile(sys.argv[2], np.uint8).reshape(-1, *info["frame_shape"])
    opened, arrays = client.ask("open", {"frames": frames}, seed=7)
    reached, least = opened["prompt_psnr_db"], info["prompt_psnr_min_db"]
    if least is not None and reached < least:
        print(f"the model cannot show this prompt: {reached:.1f} dB, it takes {least:g} or more")
    show(opened, arrays)
    for step in range(1, 6):
        action = {"speed_mps": 8.0, "yaw_rate_radps": 0.1 * step} if info["action_spec"] else None
        show(*client.ask("step", sid=opened["sid"], step=step, action=action))
    show(*client.ask("close", sid=opened["sid"]))
