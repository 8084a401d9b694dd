"""A network that loses what a test tells it to: stands between one client and a real server."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import zmq


class LossyProxy:
    """``lose_requests``, ``lose_replies``: how many of the next messages are read and dropped."""

    def __init__(self, server: str) -> None:
        self.lose_requests = self.lose_replies = 0
        self.requests = 0  # that came, lost ones too
        self._context = zmq.Context()
        self._clients = self._context.socket(zmq.ROUTER)
        port = self._clients.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._server = self._context.socket(zmq.DEALER)
        self._server.connect(server)
        for socket in (self._clients, self._server):
            socket.linger = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._clients, zmq.POLLIN)
        poller.register(self._server, zmq.POLLIN)
        route = b""
        while not self._stop.is_set():
            ready = dict(poller.poll(20))
            if self._clients in ready:
                route, *parts = self._clients.recv_multipart()
                self.requests += 1
                if self.lose_requests:
                    self.lose_requests -= 1
                else:
                    self._server.send_multipart(parts)
            if self._server in ready:
                parts = self._server.recv_multipart()
                if self.lose_replies:
                    self.lose_replies -= 1
                else:
                    self._clients.send_multipart([route, *parts])
