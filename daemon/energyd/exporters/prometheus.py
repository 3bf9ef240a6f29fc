"""What does Prometheus read? `GET /metrics` in its text format 0.0.4, served by one thread.

One request at a time and two seconds for each: who stalls delays other scrapers, and nobody else.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

from energyd.exporters.feed import Feed
from energyd.exporters.figures import Family, Labels

log = logging.getLogger("energyd")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_S: Final = 2.0
_LOCAL: Final = ("127.", "::1", "localhost")


def exposition(families: list[Family]) -> str:
    """Families as Prometheus reads them."""
    lines: list[str] = []
    for family in families:
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{_labels(labels)} {value!r}" for labels, value in family.values]
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Page:
    """The HTTP server. Bound when made, serves once started."""

    def __init__(self, address: tuple[str, int], feed: Feed) -> None:
        """Bind to (host, port). Raises OSError."""
        host, _ = address
        handler = type("Handler", (_Handler,), {"feed": feed})
        server = type("Server", (_Server,), {"address_family": _family(host)})
        self._server: HTTPServer = server(address, handler)
        if not host.startswith(_LOCAL):
            log.warning("metrics on %s: readable by who reaches this address, without a password", host)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The port bound, also where 0 was asked for."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        log.info("metrics on http://%s:%d/metrics", self._server.server_address[0], self.port)

    def close(self) -> None:
        """Let go of the address."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _Server(HTTPServer):
    """HTTPServer less its look-up of the host's full name, which may ask a DNS server."""

    def server_bind(self) -> None:
        """Bind."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Who hangs up or stalls is nobody's trouble but his own."""
        log.debug("metrics: a request failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    feed: Feed
    timeout = REQUEST_S  # for each read; `handle` bounds them all

    def handle(self) -> None:
        """One request, cut off after its time: a byte now and then must not hold the page."""
        cut = threading.Timer(REQUEST_S, self._cut)
        cut.daemon = True
        cut.start()
        try:
            super().handle()
        finally:
            cut.cancel()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """The page, and a pointer to it."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "energyd: the page is /metrics\n")
            return
        families = self.feed.families()
        if families:
            self._answer(200, exposition(families))
        else:
            self._answer(503, "energyd: the daemon has said nothing for 10 s, or has just begun\n")

    def _answer(self, code: int, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(code)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Scrapes are not worth a line each."""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
