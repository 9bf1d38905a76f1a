"""A web server on this machine that serves one file, with the faults that a download must survive."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        wanted = self.headers.get("Range")
        site.requests.append((self.path, wanted))
        if self.path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != "/file":
            self.send_error(404)
            return
        if site.answers:
            self.send_error(site.answers.pop(0))
            return
        content, begin = site.content, 0
        if wanted and site.ranges:
            begin = int(wanted[len("bytes=") : -1])
            if begin >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin + site.shift}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[begin:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if site.cuts:
            body = body[: site.cuts.pop(0)]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):  # the client was killed
            self.wfile.write(body)
        if site.silence is not None:
            self.wfile.flush()
            site.silence.wait(10)

    def log_message(self, *_):
        pass


class Site:
    """content: what /file holds; ranges: honour Range; answers: error codes to give first, one per request;
    cuts: close the connection after so many bytes, one per request; redirects: {path: address};
    shift: how far 206 answers lie about their range; silence: event to wait for before the connection ends.
    requests: the (path, Range) of every request so far."""

    def __init__(self, content=b"", ranges=True, answers=(), cuts=(), redirects=None, shift=0, silence=None):
        self.content, self.ranges, self.shift, self.silence = content, ranges, shift, silence
        self.answers, self.cuts, self.redirects = list(answers), list(cuts), dict(redirects or {})
        self.requests = []
        self.root = self.url = None


@contextlib.contextmanager
def serve(*args, **kwargs):
    site = Site(*args, **kwargs)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.site = site
    site.root = f"http://127.0.0.1:{server.server_address[1]}"
    site.url = f"{site.root}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        if site.silence is not None:
            site.silence.set()
        server.shutdown()
        thread.join()
        server.server_close()
