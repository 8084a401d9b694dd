"""What the bridge costs: round trips of a step over ipc, tcp and CURVE, and of a bare pyzmq echo.

Both servers answer at once, in processes of their own; every client is a process, too. The echo
(ROUTER, DEALER, nothing else) sends and gets the same bytes in the same run, in turns with ours.
The difference is what the protocol itself costs: typed headers, checks, exactly-once steps, the
hand-over to the engine's threads, an image that is the caller's own. It is reported in microseconds
and as a share of the period of a frame at 4 frames a second, 250 ms.

What a shared-memory ring could save at most is the echo's round trip beyond that of an empty
message: the copies through the kernel. It is needed where a whole round trip on one host costs more
than 1 % of a period and the ring would bring it below.

Clients are `free`, sending a step when the last one's frame is there, or paced at 4 frames a second
each. Several free ones wait for each other; that row is for throughput and no cost is read from it.

python -m tests.perf.bridge [--frames 256x256,1024x512] [--clients 1,8] [--seconds S] [--out FILE]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sim_stream.config import FrameSize
from sim_stream.plain_json import to_json
from tests.perf import bridge_peers as peers
from tests.perf.bridge_peers import BARE, EMPTY, OURS, Load, Place
from tests.perf.machine import describe

PERIOD_US = 250_000.0
CLAIM = 0.01
TRANSPORTS = ("ipc", "tcp", "curve")
PACE_FPS = 4.0
SPAWN = multiprocessing.get_context("spawn")


def main() -> None:
    args = parse()
    clients = [int(count) for count in args.clients.split(",")]
    loads = [Load(clients=count) for count in clients]
    loads += [Load(clients=count, pace_fps=PACE_FPS) for count in clients if count > 1]
    rows: list[dict[str, Any]] = []
    print(HEAD)
    for size in args.frames.split(","):
        width, height = map(int, size.split("x"))
        for transport in args.transports.split(","):
            for row in compare(
                transport, FrameSize(height=height, width=width), loads, args.rounds, args.seconds
            ):
                rows.append({"transport": transport, "frame": size} | row)
                print(line(rows[-1]), flush=True)
    report = {"benchmark": "bridge", "machine": describe(), "period_us": PERIOD_US, "runs": rows}
    report |= verdict(rows)
    print(*explain(report), sep="\n")
    if args.out:
        args.out.write_text(to_json(report, indent=1) + "\n")
    print(to_json(report))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--frames", default="256x256,1024x512", help="width x height, comma-separated"
    )
    parser.add_argument("--clients", default="1,8", help="how many at once, comma-separated")
    parser.add_argument("--transports", default=",".join(TRANSPORTS))
    parser.add_argument("--rounds", type=int, default=3, help="turns that echo and ours take")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--out", type=Path, help="also write the report here")
    return parser.parse_args()


def compare(
    transport: str, frame: FrameSize, loads: list[Load], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """A row for every load, on servers and clients of their own."""
    count = max(load.clients for load in loads)
    with (
        tempfile.TemporaryDirectory() as folder,
        place_for(transport, frame, Path(folder)) as place,
        server(peers.serve_ours, place, count + 1) as place.address[OURS],
    ):
        request, reply = peers.exchange(place)
        with (
            server(peers.serve_bare, BARE, place, reply) as place.address[BARE],
            server(peers.serve_bare, EMPTY, place, [b""]) as place.address[EMPTY],
        ):
            trips_ns = run_clients(count, place, loads, rounds, seconds, request)
    return [row_of(load, trips_ns, rounds * seconds) for load in loads]


@contextmanager
def place_for(transport: str, frame: FrameSize, folder: Path) -> Iterator[Place]:
    keys = peers.make_keys(folder) if transport == "curve" else None
    address = "tcp://127.0.0.1:0" if transport != "ipc" else f"ipc://{folder}/"
    kinds = peers.KINDS
    addresses = {kind: address + (kind if transport == "ipc" else "") for kind in kinds}
    yield Place(address=addresses, frame=frame, keys=keys)


@contextmanager
def server(serve: Any, *arguments: Any) -> Iterator[str]:
    """Where that server listens; it ends with the block."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here.recv()
    finally:
        here.close()
        process.join()


def run_clients(
    count: int, place: Place, loads: list[Load], rounds: int, seconds: float, request: bytes
) -> dict[tuple[str, str], np.ndarray]:
    """Round trips of all clients together, by load and kind."""
    barrier = SPAWN.Barrier(count)
    pipes, processes = [], []
    for index in range(count):
        here, there = SPAWN.Pipe()
        what = (index, place, loads, rounds, seconds, barrier, request, there)
        processes.append(SPAWN.Process(target=peers.measure, args=what, daemon=True))
        processes[-1].start()
        there.close()
        pipes.append(here)
    together: dict[tuple[str, str], list[int]] = {}
    for pipe in pipes:
        for key, trips_ns in pipe.recv().items():
            together.setdefault(key, []).extend(trips_ns)
    for process in processes:
        process.join()
    return {key: np.array(trips_ns) for key, trips_ns in together.items()}


def row_of(
    load: Load, trips_ns: dict[tuple[str, str], np.ndarray], measured_s: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"load": load.name, "clients": load.clients, "pace_fps": load.pace_fps}
    for kind in peers.KINDS:
        trips_us = trips_ns[load.name, kind] / 1e3
        p50, p95, p99 = np.percentile(trips_us, (50, 95, 99)).tolist()
        row[f"{kind}_us"] = {
            "p50": round(p50, 1),
            "p95": round(p95, 1),
            "p99": round(p99, 1),
            "n": len(trips_us),
        }
    bare, ours = row[f"{BARE}_us"], row[f"{OURS}_us"]
    for quantile in ("p50", "p95", "p99"):
        row[f"own_us_{quantile}"] = round(ours[quantile] - bare[quantile], 1)
    row["own_share_of_period"] = round(row["own_us_p50"] / PERIOD_US, 5)
    row["total_share_of_period"] = round(ours["p50"] / PERIOD_US, 5)
    row["fps_together"] = round(ours["n"] / measured_s, 1)
    saving_us = bare["p50"] - row[f"{EMPTY}_us"]["p50"]
    row["ring_saves_at_most_us"] = round(max(saving_us, 0.0), 1)
    return row


HEAD = (
    "                 clients        bare echo, us          sim_stream, us         own cost, us\n"
    "                                p50    p95    p99      p50    p95    p99      p50    p95"
    "  of 250 ms    fps  ring saves"
)


def line(row: dict[str, Any]) -> str:
    echo, ours = (
        "".join(f"{row[f'{kind}_us'][quantile]:7.0f}" for quantile in ("p50", "p95", "p99"))
        for kind in (BARE, OURS)
    )
    return (
        f"{row['transport']:6}{row['frame']:>9}  {row['load']:<11}{echo}  {ours}  "
        f"{row['own_us_p50']:7.0f}{row['own_us_p95']:7.0f}{row['own_share_of_period']:11.2%}"
        f"{row['fps_together']:7.0f}{row['ring_saves_at_most_us']:9.0f} us"
    )


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Clients that come as fast as they can wait for each other, not for the protocol: left out."""
    real = [row for row in rows if row["clients"] == 1 or row["pace_fps"]]
    worst = max(real, key=lambda row: row["own_share_of_period"])
    # A client on the same host would take ipc, if it was measured, and has no use for encryption.
    local = [row for row in real if row["transport"] == "ipc"]
    local = local or [row for row in real if row["transport"] == "tcp"]
    costly = [
        row
        for row in local
        if row["total_share_of_period"] > CLAIM
        and row[f"{OURS}_us"]["p50"] - row["ring_saves_at_most_us"] <= CLAIM * PERIOD_US
    ]
    return {
        "own_share_of_period_worst": worst["own_share_of_period"],
        "under_one_percent": bool(worst["own_share_of_period"] < CLAIM),
        "total_share_of_period_worst_local": max(
            (row["total_share_of_period"] for row in local), default=0.0
        ),
        "ring_saves_at_most_share": round(
            max((row["ring_saves_at_most_us"] for row in local), default=0.0) / PERIOD_US, 5
        ),
        "ring_needed": bool(costly),
    }


def explain(report: dict[str, Any]) -> list[str]:
    held = "under 1 %" if report["under_one_percent"] else "NOT under 1 %"
    ring = "is needed" if report["ring_needed"] else "is not needed"
    own, total = report["own_share_of_period_worst"], report["total_share_of_period_worst_local"]
    saves = report["ring_saves_at_most_share"]
    return [
        f"the protocol's own cost (p50) is at most {own:.2%} of a 250 ms frame: {held}",
        f"on one host a whole round trip is at most {total:.2%} of it, of which a shared-memory "
        f"ring could save {saves:.2%}: it {ring}",
    ]


if __name__ == "__main__":
    sys.exit(main())
