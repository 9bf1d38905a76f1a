"""Downloads from a server on this machine that misbehaves in a new way with every request."""
import hashlib
import os
import random
import shutil
import socket
import threading
import time

from .suite import FAULT, Case, Round, Theme

from engine.data import download  # isort: skip - found by this package
from support.errors import InputError  # isort: skip

TIMEOUT = .25  # seconds of silence that a download is given here
ATTEMPTS = 3
LONGEST = 8.0  # seconds that a download may take in all: attempts, silences and pauses, on a machine that is busy

SERVED = "a server that misbehaves"
ADDRESSES = "addresses that are none"
REDIRECTS = "redirects"
LEFT = "partial files that were left"


class Misbehaved:
    """A server of one file whose every answer may be another fault; `plan`: what the next answers are."""

    def __init__(self, content):
        self.content, self.plan, self.requests, self.redirect = content, [], [], None
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while not self.closing.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            try:
                connection.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request:
                    part = connection.recv(65536)
                    if not part:
                        return
                    request += part
                self.requests.append(request)
                kind = self.plan.pop(0) if self.plan else "right"
                ANSWERS[kind](self, connection, request)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def begin(self, request):
        for line in request.split(b"\r\n"):
            if line.lower().startswith(b"range: bytes="):
                return int(line.split(b"=")[1].rstrip(b"-"))
        return 0

    def close(self):
        self.closing.set()
        self.socket.close()


def _send(connection, head, body=b"", length=None):
    length = f"Content-Length: {len(body) if length is None else length}\r\n" if length != "" else ""
    connection.sendall(f"HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n".encode("latin-1") + body)


def _right(server, connection, request, **changes):
    begin, size = server.begin(request), len(server.content)
    if begin and begin >= size:
        _send(connection, f"416 no\r\nContent-Range: bytes */{size}")
    elif begin:
        _send(connection, f"206 part\r\nContent-Range: bytes {begin}-{size - 1}/{size}", server.content[begin:],
              **changes)
    else:
        _send(connection, "200 OK", server.content, **changes)


def _cut(server, connection, request):
    body = server.content[server.begin(request):]
    begin, size = server.begin(request), len(server.content)
    head = f"206 part\r\nContent-Range: bytes {begin}-{size - 1}/{size}" if begin else "200 OK"
    _send(connection, head, body[:random.randrange(len(body) + 1)], length=len(body))


def _no_range(server, connection, request):
    _send(connection, "200 OK", server.content)


def _stall(server, connection, request):
    _send(connection, "200 OK", server.content[:100], length=len(server.content))
    server.closing.wait(4 * TIMEOUT)


def _silent(server, connection, request):
    server.closing.wait(4 * TIMEOUT)


def _wrong(server, connection, request):
    _send(connection, "200 OK", server.content[::-1])


def _shifted(server, connection, request):
    _send(connection, f"206 part\r\nContent-Range: bytes 5-{len(server.content)}/{len(server.content)}",
          server.content[5:])


def _chunked(server, connection, request):
    body, size = server.content, len(server.content)
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + f"{size:x}\r\n".encode() + body
                       + b"\r\n0\r\n\r\n")


def _status(code):
    return lambda server, connection, request: _send(connection, f"{code} so it is", b"<html>no</html>")


def _raw(content):
    return lambda server, connection, request: connection.sendall(content)


def _length(value):
    return lambda server, connection, request: _right(server, connection, request, length=value)


def _redirect(server, connection, request):
    if server.redirect is None:
        _right(server, connection, request)
    else:
        target, server.redirect = server.redirect, None
        connection.sendall(b"HTTP/1.1 302 there\r\nContent-Length: 0\r\nLocation: " + target.encode("latin-1",
                                                                                                    "replace")
                           + b"\r\n\r\n")


ANSWERS = {
    "right": _right, "cut": _cut, "no range": _no_range, "stall": _stall, "silent": _silent, "wrong": _wrong,
    "shifted": _shifted, "chunked": _chunked, "redirect": _redirect, "no length": _length(""),
    "longer than told": _length(10), "shorter than told": _length(10**9), "length ²": _length("²"),
    "length of 5,000 digits": _length("9" * 5000), "length -1": _length("-1"), "length x": _length("x"),
    "closed": lambda server, connection, request: None,
    **{str(code): _status(code) for code in (204, 206, 304, 400, 401, 403, 404, 408, 410, 429, 500, 502, 503, 599,
                                             999)},
    "100 first": _raw(b"HTTP/1.1 100 go on\r\n\r\n" * 200), "no status": _raw(b"hello\r\n\r\n"),
    "junk": _raw(bytes(range(256)) * 4),
    "status of letters": _raw(b"HTTP/1.1 abc OK\r\n\r\n"), "endless header": _raw(b"HTTP/1.1 200 OK\r\nx: "
                                                                                  b"" + b"y" * 70_000),
    "many headers": _raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n"),
    "chunk of letters": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"),
    "chunk that ends": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc"),
    "chunk below 0": _raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc"),
    "redirect in a circle": _raw(b"HTTP/1.1 302 there\r\nContent-Length: 0\r\nLocation: /file\r\n\r\n"),
}
TARGETS = (
    "file:///etc/passwd", "ftp://127.0.0.1/x", "http://192.0.2.1/x", "https://", "//", "http://[x/",
    "http://127.0.0.1:99999/x",
    "http://127.0.0.1:x/", "http://127.0.0.1:-1/", "http://a..b/", "http://" + "a" * 300 + "/", "http://\u00e9/",
    "/\u00e9",
    "/a b", "data:,x", "http://127.0.0.1:1/", "javascript:x", "?", "#", "http://user:pass@127.0.0.1:1/",
    "/" + "x" * 70_000,
)
SPELLED = (
    "", " ", "x", "https:/x", "https://", "https://[", "https://[::1", "https://[x]/", "https://x:99999/",
    "https://x:y/",
    "https://127.0.0.1:99999/x", "http://127.0.0.1:99999/x", "http://127.0.0.1:70000/\u00e9",
    "http://127.0.0.1:1/\u00e9",
    "http://127.0.0.1:1/a b", "http://127.0.0.1:1/\nx", "http://127.0.0.1:1/\x00", "https://a..b/",
    "https://" + "a" * 64 + ".invalid/",
    "http://localhost:1/" + "x" * 9000, "file://", "file:///", "file:///nowhere", "file://elsewhere/x",
    "file:///\u00e9",
    "file:///%00", "file:///dev", "https://\udcff.invalid/", "http://127.0.0.1:0/", "https://%/x", "http:\\\\x",
    "HTTP://127.0.0.1:1/",
    "http://127.0.0.1:1/x#y", "http://127.0.0.1:-1/", "http://\u0000/", "http://127.0.0.1:\u0661/",
)


def attempt(url, path, **how):
    """(outcome, detail) of one download."""
    began = time.monotonic()
    try:
        download.fetch(url, path, progress=False, timeout=TIMEOUT, attempts=ATTEMPTS, pause=.01, **how)
        outcome = "fetched", ""
    except InputError as error:
        text = str(error)
        outcome = ("refused", text) if "\n" not in text and len(text) < 3000 else (FAULT,
                                                                                   f"not one sentence: {text[:200]!r}")
    except Exception as error:  # a fault, whatever it is
        outcome = FAULT, f"{type(error).__name__}: {str(error)[:150]}"
    took = time.monotonic() - began
    return outcome if took < LONGEST else (FAULT, f"took {took:.1f} s, and then: {outcome[1]}")


def run(rounds, seed, folder):
    kept = os.environ.get("no_proxy")
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    try:
        for number in range(rounds):
            rng = random.Random(f"{seed}/downloads/{number}")
            random.seed(f"{seed}/downloads/{number}")  # for the server
            place = folder / "download"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            yield one(rng, number, place / "file.bin")
    finally:
        if kept is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = kept


def one(rng, number, path):
    """One download from a server of its own."""
    content = rng.getrandbits(8 * 20_000).to_bytes(20_000, "little")
    how = rng.choice(({"md5": hashlib.md5(content).hexdigest()}, {"sha256": hashlib.sha256(content).hexdigest()},
                      {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}))
    if number % 4 == 1:
        url = rng.choice(SPELLED)
        outcome, detail = attempt(url, path, allow_http=rng.random() < .5, **how)
        return judged(ADDRESSES, outcome, f"round {number}, {url[:60]!r}: {detail}", path, content)
    server = Misbehaved(content)
    try:
        if number % 4 == 2:
            server.redirect = rng.choice((*TARGETS, server.address + "/file"))
            server.plan = ["redirect"]
            case, said = REDIRECTS, f"to {server.redirect[:60]!r}"
        else:
            server.plan = [rng.choice(sorted(ANSWERS)) for _ in range(rng.choice((1, 2, 3)))]
            case, said = SERVED, ", ".join(server.plan)
        part = path.with_name("file.bin.part")
        if number % 4 == 3:
            case = LEFT
            part.write_bytes(rng.choice((content[:7000], content, content + b"x", bytes(7000), content[:19_999], b"x")))
            said = f"{part.stat().st_size:,} bytes were there, then {said}"
        before = rng.random() < .3
        if before:
            path.write_bytes(b"older")
        outcome, detail = attempt(server.address + "/file", path, **how)
        if outcome == "refused" and before and path.read_bytes() != b"older":
            outcome, detail = FAULT, "refused, but the file that was there is gone"
        return judged(case, outcome, f"round {number}, {said}: {detail}", path, content)
    finally:
        server.close()


def judged(case, outcome, detail, path, content):
    """What is in place afterwards must be the right bytes or what was there before."""
    if outcome == "fetched" and path.read_bytes() != content:
        return Round(case, FAULT, f"{detail}: other bytes are in place")
    if outcome == "refused" and path.exists() and path.read_bytes() != b"older":
        return Round(case, FAULT, f"{detail}: refused, but there is a file")
    return Round(case, outcome, detail)


THEME = Theme("downloads", "Downloads", 800, (
    Case(SERVED, "after cut, stalled, silent, wrong, unequal and garbled answers it tries again with growing pauses, "
                 "then refuses; only bytes with the right checksum replace the file that was there before",
         "a server that sends a byte now and then for ever: only silence is timed"),
    Case(ADDRESSES, "refused before anything is written"),
    Case(REDIRECTS, "followed to https only (to http if a flag allowed it), never to files or other protocols"),
    Case(LEFT, "a part of the right file is continued; a part of another file is fetched again from its start"),
), run)
