"""Answers `/api/health` on port 3000 as Grafana does, and 404 to everything else. Ends on SIGTERM."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType


class Health(BaseHTTPRequestHandler):
    """One path."""

    def do_GET(self) -> None:
        """Answer."""
        known = self.path == "/api/health"
        body = b'{"database": "ok", "version": "stand-in"}\n' if known else b"a stand-in for Grafana: health only\n"
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self.do_GET()


def stop(_signal: int, _frame: FrameType | None) -> None:
    """PID 1 has no default handler for SIGTERM."""
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
ThreadingHTTPServer(("0.0.0.0", 3000), Health).serve_forever()
