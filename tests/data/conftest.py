"""A server on this machine that stands for the addresses of public data sets."""

from __future__ import annotations

import http.server
import os
import threading

import pytest

CONTENT = os.urandom(300_000)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; knows ranges.

    ``/cut/NAME`` breaks off after 100,000 bytes, ``/stop/NAME`` does so once and then refuses to go on, ``/away/NAME`` redirects
    to another place, ``/norange/NAME`` sends everything from the start.
    """

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        mode, _, name = self.path.strip("/").rpartition("/")
        if mode == "away":
            self.send_response(302)
            self.send_header("Location", f"http://example.org/{name}")
            self.end_headers()
            return
        if name not in self.server.files or (mode == "stop" and self.headers.get("Range")):
            self.send_error(404 if name not in self.server.files else 503)
            return
        data, start = self.server.files[name], 0
        if self.headers.get("Range") and mode != "norange":
            start = int(self.headers["Range"][6:-1])
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : start + 100_000] if mode in ("cut", "stop") else data[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """Serves ``server.files``, ``a.bin`` at first; ``server.requests`` are (path, range); ``server.url`` is its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.requests = {"a.bin": CONTENT}, []
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()
