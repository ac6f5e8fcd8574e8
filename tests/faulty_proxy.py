"""A proxy before an S3 server that does what networks and busy stores do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>'
)


class FaultyProxy:
    """Forwards requests; `slow_down` of each three it puts off, and it cuts GET bodies short.

    `cut_after` is the number of body bytes that a GET may carry before its connection is closed.
    `on_request` is told of a request ("PUT /bucket/key") and its client's port before it is sent on.
    """

    def __init__(
        self,
        target: str,
        *,
        slow_down: int = 0,
        cut_after: int | None = None,
        on_request: Callable[[str, int], None] | None = None,
    ) -> None:
        self.target = urlsplit(target)
        self.on_request = on_request
        self.slow_down, self.cut_after = slow_down, cut_after
        self.requests: list[str] = []
        self.num_put_off = self.num_cut = 0
        self.lock = threading.Lock()

    def puts_off(self, line: str) -> bool:
        with self.lock:
            self.requests.append(line)
            put_off = len(self.requests) % 3 < self.slow_down
            self.num_put_off += put_off
            return put_off


@contextmanager
def proxied(proxy: FaultyProxy) -> Iterator[str]:
    """Run it; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def answer(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                raise NotImplementedError("the tests' client sends no chunked bodies over HTTP")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            line = f"{self.command} {self.path}"
            if proxy.on_request:
                proxy.on_request(line, self.client_address[1])
            if proxy.puts_off(line):
                self.send(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
                return
            host, port = proxy.target.hostname, proxy.target.port
            connection = http.client.HTTPConnection(str(host), port, timeout=30)
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            self.send(answer.status, dict(answer.getheaders()), data)

        def send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            cut = proxy.cut_after
            if self.command == "GET" and status < 300 and cut is not None and len(data) > cut:
                proxy.num_cut += 1
                self.wfile.write(data[:cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
            else:
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
