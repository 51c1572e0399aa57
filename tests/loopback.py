"""A server on this machine, as good or as bad as asked, for downloads."""

import contextlib
import http.server
import re
import threading
import time

BLOCK = 1 << 16


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` {path: bytes}; `server.script` holds one behaviour per request."""

    def do_GET(self):
        server, self.close_connection = self.server, True
        behaviour = server.script.pop(0) if server.script else {}
        asked = self.headers.get("Range")
        server.requests.append(asked)
        body = behaviour.get("body", server.files.get(self.path))
        status = behaviour.get("status", 200 if body is not None else 404)
        if status >= 400:
            self.send_error(status)
            return
        if status == 302:
            self.send_response(status)
            self.send_header("Location", behaviour["to"])
            self.end_headers()
            self.go_on(behaviour)
            return
        if behaviour.get("no_head"):
            self.send_response_only(status)
            self.flush_headers()
            self.go_on(behaviour)
            return
        start, tag = 0, behaviour.get("etag", '"one"')
        fits = self.headers.get("If-Range") in (None, tag)
        if asked and fits and not behaviour.get("no_range"):
            start = int(re.match(r"bytes=(\d+)-$", asked).group(1))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            status = 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", behaviour.get("type", "application/binary"))
        if behaviour.get("packed"):
            self.send_header("Content-Encoding", "gzip")
        if not behaviour.get("no_length"):
            length = behaviour.get("length", len(body) - start)
            self.send_header("Content-Length", str(length))
        self.end_headers()
        sent = body[start : start + behaviour.get("break_after", len(body))]
        with contextlib.suppress(OSError):  # the other side has had enough, or was killed
            for first in range(0, len(sent), BLOCK):
                self.wfile.write(sent[first : first + BLOCK])
                time.sleep(server.pause)
        self.go_on(behaviour)

    def go_on(self, behaviour):
        with contextlib.suppress(OSError):
            while behaviour.get("then"):
                self.wfile.write(behaviour["then"])
                self.wfile.flush()
                time.sleep(behaviour.get("pause", 0))

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(files, pause=0):
    """Serve {path: bytes} at the yielded server's `address`; `pause`: seconds after each block."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.files, served.script, served.requests, served.pause = files, [], [], pause
    served.address = f"http://127.0.0.1:{served.server_address[1]}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.shutdown()
        thread.join()
        served.server_close()
