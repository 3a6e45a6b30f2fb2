"""A proxy before an S3 server that delays requests, or fails every n-th of them."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("slow-down", "internal-error", "reset", "truncated")
"""Failures, in turn: two answers of S3, a connection without an answer, half of an answer."""
_ANSWERS = {"slow-down": (503, "SlowDown"), "internal-error": (500, "InternalError")}


class StoreProxy:
    """Forwards requests to a server.

    Args:
        target: address of the server, http://host:port.
        fail_every: fail each request whose number is a multiple; 0 for none.
        seconds: delay of each answer, as of a distant store.
        kinds: the failures, in turn.
    """

    def __init__(
        self,
        target: str,
        *,
        fail_every: int = 0,
        seconds: float = 0.0,
        kinds: tuple[str, ...] = KINDS,
    ) -> None:
        self.fail_every, self.seconds, self.kinds = fail_every, seconds, kinds
        self.failures: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        """By method."""
        self.ranges = 0
        """Requests for a range of bytes."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._target = urlsplit(target).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["StoreProxy"]:
        """Serve in a thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def failure(self, method: str, *, is_range: bool) -> str | None:
        """Count a request; the failure that it meets."""
        with self._lock:
            self.requests[method] += 1
            self.ranges += is_range
            number = next(self._numbers)
            if not self.fail_every or number % self.fail_every:
                return None
            kind = self.kinds[number // self.fail_every % len(self.kinds)]
            self.failures[kind] += 1
            return kind

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self._read_body()
                failure = proxy.failure(self.command, is_range="Range" in self.headers)
                time.sleep(proxy.seconds)
                if failure == "reset":
                    self.close_connection = True
                    return
                if failure in _ANSWERS:
                    status, code = _ANSWERS[failure]
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
                    self._answer(status, [("Content-Type", "application/xml")], text, len(text))
                    return
                connection = HTTPConnection(proxy._target, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                length = int(answer.headers.get("Content-Length", len(data)))
                if failure == "truncated" and len(data) > 1:
                    self.close_connection = True
                    data = data[: len(data) // 2]
                self._answer(answer.status, answer.getheaders(), data, length)

            def _read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    chunks = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        chunks.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    del self.headers["Transfer-Encoding"]
                    return b"".join(chunks)
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _answer(
                self, status: int, headers: list[tuple[str, str]], data: bytes, length: int
            ) -> None:
                dropped = {"content-length", "connection", "transfer-encoding", "date", "server"}
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        methods: dict[str, Callable[[Any], None]] = {}
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            methods[f"do_{method}"] = Handler.forward
        return type("Handler", (Handler,), methods)
