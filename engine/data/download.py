"""Fetch one file from the network: resume it, check it, and put it in its place only when it is whole."""
import contextlib
import http.client
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Optional
from urllib.parse import urlsplit

from support import files
from support.errors import InputError
from support.lock import locked

from .stages import watched

CHUNK = 1 << 18  # bytes; small enough for a progress bar that moves on a slow line
USER_AGENT = "atac-reproduction"  # some servers refuse urllib's own name
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
MAX_ADDRESS = 2000  # letters

# Another try would end alike: an unknown host; an address, here or of a redirect, that is none; a wrong certificate,
# whose error is a ValueError too.
HOPELESS = (socket.gaierror, http.client.InvalidURL, ValueError, OverflowError)


def fetch(url: str, path, md5: Optional[str] = None, sha256: Optional[str] = None, size: Optional[int] = None,
          git_blob: Optional[str] = None, progress: bool = True, allow_http: bool = False, timeout: float = 30.0,
          attempts: int = 4, pause: float = 1.0) -> Path:
    """Bring `url` to `path` and return the path; a right file that is there already stays.

    The bytes arrive in `path`.part, which a later call continues after an interruption. They are compared with size
    (bytes), md5, sha256 and git_blob (hexadecimal; git's name of a file's content), if given, and then replace `path`
    in one step. If none of the four is given, any existing file counts as right. No more than size is received.

    url: https://, file://, or http:// (only this machine, unless allow_http, which also allows redirects to http://).
    timeout: seconds of silence allowed. attempts: number of tries after lost connections and server faults.
    pause: seconds before the second try, doubled before each further one.
    Raises InputError if the file cannot be fetched: wrong address or bytes, no connection, no room to write.
    """
    path = files.expanded(path)
    _check_address(url, allow_http, schemes=("https", "http", "file"))
    wanted = {"md5": md5, "sha256": sha256, "git_blob": git_blob}

    def is_right():
        return path.is_file() and _mismatch(path, size, wanted) is None

    if is_right():
        return path
    part = path.with_name(path.name + ".part")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(path.name + ".lock"),
                    waiting=f"process {{owner}} is fetching {path.name} already; waiting for it"):
            if not is_right():  # another process may have fetched it
                _Source(url, part, size, progress, allow_http, timeout).bring(wanted, attempts, pause)
                os.replace(part, path)
    except OSError as error:
        raise InputError(f"cannot write {part}: {error.strerror or error}; make room or choose another folder"
                         ) from None
    finally:
        with contextlib.suppress(OSError):  # a folder that holds something stays
            for folder in made:
                folder.rmdir()
    return path


class _Retry(Exception):
    """A fault that may be gone at the next try."""


class _Source:
    """One address, received into one partial file."""

    def __init__(self, url, part, size, progress, allow_http, timeout):
        self.url, self.part, self.size = url, part, size
        self.progress, self.timeout = progress, timeout
        self.opener = urllib.request.build_opener(_CheckedRedirects(allow_http))

    def bring(self, wanted, attempts, pause):
        """Bring the right bytes into the partial file. Raises InputError if the source has others."""
        for resumed in (_size(self.part) > 0, False):
            self.receive_patiently(attempts, pause)
            problem = _mismatch(self.part, self.size, wanted)
            if problem is None:
                return
            self.part.unlink()
            if not resumed:  # else the older part may come from another file: again, from nothing
                raise InputError(f"{self.url} holds other bytes than expected ({problem}); they were removed, try a "
                                 "mirror")

    def receive_patiently(self, attempts, pause):
        for attempt in range(1, attempts + 1):
            try:
                return self.receive()
            except _Retry as fault:
                if attempt == attempts:
                    kept = f"; run again to continue {self.part}" if _size(self.part) else ""
                    raise InputError(f"{self.url}: {fault} (attempt {attempt} of {attempts}){kept}") from None
                time.sleep(pause * 2 ** (attempt - 1))

    def receive(self):
        """Add what is missing to the partial file. OSError means that the file cannot be written."""
        have = _size(self.part)
        if self.size is not None and have == self.size:
            return
        if self.has_too_many(have):
            self.part.unlink()
            have = 0
        response = self.open(have)
        if response is None:  # the partial file was whole already
            return
        with response:
            if have and getattr(response, "status", None) == 206:
                if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                    self.part.unlink()
                    raise _Retry("the server sent another part than the one asked for")
            else:
                have = 0  # the server sends the whole file
            length = response.headers.get("Content-Length", "")
            # A server may announce anything: accept only ASCII digits, and no more than a disk could hold.
            total = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else self.size
            with open(self.part, "ab" if have else "wb") as out:
                have = self.copy(response, out, have, total)
        if total is not None and have < total and not self.has_too_many(have):  # `_mismatch` reports too many
            raise _Retry(f"the connection ended after {have:,} of {total:,} bytes")

    def has_too_many(self, have):
        return self.size is not None and have > self.size

    def copy(self, response, out, have, total):
        """Append a response to a file of `have` bytes; returns the bytes that it has then."""
        def received():
            try:
                return response.read(CHUNK)
            except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a chunk below 0
                raise _Retry(f"the connection was lost after {have:,} bytes ({_words(error)})") from None

        for chunk in watched(iter(received, b""), total, self.part.name[:-len(".part")], have, self.progress, len,
                             sys.stderr, unit="B", unit_scale=True, unit_divisor=1024):
            out.write(chunk)
            have += len(chunk)
            if self.has_too_many(have):
                break
        return have

    def open(self, have):
        """The response to a request for everything from byte `have` on, None if there is nothing more."""
        headers = {"User-Agent": USER_AGENT}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            return self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                answer = " ".join(f"{error.code} {error.reason}".split())[:200]  # the server's words on one line
                if error.code == 416 and have:
                    if error.headers.get("Content-Range", "") == f"bytes */{have}":
                        return None
                    self.part.unlink()  # it is longer than the file, so it comes from another one
                    return self.open(0)
                if error.code >= 500 or error.code in (408, 429):
                    raise _Retry(f"the server answers {answer}") from None
                raise InputError(f"{self.url}: the server answers {answer}; check the address or use a mirror"
                                 ) from None
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if self.url.startswith("file:") or isinstance(reason, HOPELESS):
                raise InputError(f"{self.url!r}: {_words(reason)}; check the address and the network, or use a mirror"
                                 ) from None
            raise _Retry(_words(reason)) from None


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, allow_http):
        self.allow_http = allow_http

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _check_address(newurl, self.allow_http, schemes=("https", "http"))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url, allow_http, schemes):
    if len(url) > MAX_ADDRESS:
        raise InputError(f"{url[:60]!r}... is no usable address: it has more than {MAX_ADDRESS:,} letters")
    try:
        address = urlsplit(url)
        scheme, host, _ = address.scheme, address.hostname, address.port
    except ValueError as error:
        raise InputError(f"{url!r} is no usable address: {error}") from None
    if scheme not in schemes or (scheme != "file" and not host):
        raise InputError(f"{url!r} is no usable address: it must begin with {', '.join(s + '://' for s in schemes)}")
    if scheme == "http" and not allow_http and host not in LOCAL_HOSTS:
        raise InputError(f"{url} is not encrypted: use its https:// address")


def _mismatch(path, size, wanted) -> Optional[str]:
    """What is wrong with a file, or None. wanted: {name of a digest: its value or None}."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found:,} bytes instead of {size:,}"
    wanted = {name: value.lower() for name, value in wanted.items() if value}
    for name, digest in files.digests(path, wanted).items():
        if digest != wanted[name]:
            return f"{name.replace('_', ' ')} {digest} instead of {wanted[name]}"
    return None


def _size(path) -> int:
    return path.stat().st_size if path.exists() else 0


def _words(error) -> str:
    """An exception in a few words, without "[Errno 111]"."""
    if isinstance(error, socket.timeout):
        return "no answer in time"
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
    # It may quote the server: keep it short and on one line.
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:200]

