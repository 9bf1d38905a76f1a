"""engine/data/download.py against a server on this machine that has every fault."""

import hashlib
import os
import random
import threading

import http_files
import pytest

from engine.data import download
from support import files
from support.errors import InputError

CONTENT = random.Random(0).getrandbits(8 * 700_000).to_bytes(700_000, "little")
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_BLOB = hashlib.sha1(b"blob 700000\0" + CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


def fetch(url, path, **options):
    return download.fetch(url, path, **{"progress": False, "pause": 0.01, "timeout": 5, **options})


def refusal(url, path, **options):
    with pytest.raises(InputError) as caught:
        fetch(url, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def part_of(path):
    return path.with_name(path.name + ".part")


def leave_part(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    part_of(path).write_bytes(content)


def test_plain_download(path):
    with http_files.serve(CONTENT) as site:
        assert fetch(site.url, path, md5=MD5.upper(), sha256=SHA256, size=len(CONTENT), git_blob=GIT_BLOB) == path
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_git_blob_is_gits_name_of_a_files_content(path):
    path.parent.mkdir()
    path.write_bytes(b"hello\n")
    assert files.digests(path, ["git_blob"]) == {"git_blob": "ce013625030ba8dba906f756967f9e9ca394464a"}  # as git says
    assert files.digests(path, []) == {}


def test_right_file_is_kept(path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    with http_files.serve(b"other") as site:
        fetch(site.url, path, md5=MD5)
        fetch(site.url, path, git_blob=GIT_BLOB)
        fetch(site.url, path)  # nothing to compare with
        assert not site.requests
    assert path.read_bytes() == CONTENT


def test_wrong_file_is_replaced(path):
    path.parent.mkdir()
    path.write_bytes(b"wrong")
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, md5=MD5)
    assert path.read_bytes() == CONTENT


def test_resume(path):
    leave_part(path, CONTENT[:300_000])
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, md5=MD5)
        assert site.requests == [("/file", "bytes=300000-")]
    assert path.read_bytes() == CONTENT


def test_server_that_ignores_ranges(path):
    leave_part(path, CONTENT[:300_000])
    with http_files.serve(CONTENT, ranges=False) as site:
        fetch(site.url, path, md5=MD5)
        assert len(site.requests) == 1
    assert path.read_bytes() == CONTENT


def test_server_that_sends_another_range(path):
    leave_part(path, CONTENT[:300_000])
    with http_files.serve(CONTENT, shift=5) as site:
        fetch(site.url, path, md5=MD5)
        assert site.requests == [("/file", "bytes=300000-"), ("/file", None)]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_part_that_is_complete(path, size):
    leave_part(path, CONTENT)
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, md5=MD5, size=size)
        assert len(site.requests) == (1 if size is None else 0)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_part_that_is_too_large(path, size):
    leave_part(path, CONTENT + b"more")
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, md5=MD5, size=size, attempts=1)
    assert path.read_bytes() == CONTENT


def test_part_of_other_bytes_is_given_up(path):
    leave_part(path, b"x" * 1000)
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, md5=MD5)
        assert [wanted for _, wanted in site.requests] == ["bytes=1000-", None]
    assert path.read_bytes() == CONTENT


def test_lost_connections_are_continued(path):
    with http_files.serve(CONTENT, cuts=[100_000, 300_000]) as site:
        fetch(site.url, path, md5=MD5)
        assert [wanted for _, wanted in site.requests] == [None, "bytes=100000-", "bytes=400000-"]
    assert path.read_bytes() == CONTENT


def test_lost_connection_keeps_the_part(path):
    with http_files.serve(CONTENT, cuts=[100_000, 50_000]) as site:
        message = refusal(site.url, path, md5=MD5, attempts=2)
    assert "the connection ended after 150,000 of 700,000 bytes (attempt 2 of 2)" in message
    assert part_of(path).read_bytes() == CONTENT[:150_000] and not path.exists()


def test_server_faults_pass(path):
    with http_files.serve(CONTENT, answers=[500, 503]) as site:
        fetch(site.url, path, md5=MD5)
    assert path.read_bytes() == CONTENT
    with http_files.serve(CONTENT, answers=[500] * 9) as site:
        assert "the server answers 500" in refusal(site.url, path.with_name("other"), attempts=3)
        assert len(site.requests) == 3


def test_missing_page_is_not_tried_again(path):
    with http_files.serve(CONTENT) as site:
        message = refusal(site.root + "/nothing", path)
        assert len(site.requests) == 1
    assert "answers 404 Not Found" in message and site.root in message


def test_a_file_known_by_its_git_blob_alone_is_resumed_and_replaced(path):
    leave_part(path, CONTENT[:300_000])
    path.write_bytes(b"wrong")
    with http_files.serve(CONTENT) as site:
        fetch(site.url, path, git_blob=GIT_BLOB)
        assert site.requests == [("/file", "bytes=300000-")]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("check", [{"md5": MD5}, {"sha256": SHA256}, {"size": len(CONTENT)}, {"git_blob": GIT_BLOB}])
def test_wrong_bytes(path, check):
    path.parent.mkdir()
    path.write_bytes(b"older")
    with http_files.serve(CONTENT[:-1] + b"??") as site:
        message = refusal(site.url, path, **check)
    assert "holds other bytes than expected" in message and "instead of" in message
    assert not part_of(path).exists() and path.read_bytes() == b"older"


@pytest.mark.parametrize("left", [0, 50_000, 200_000])
def test_no_more_is_taken_than_the_file_can_have(path, left):
    leave_part(path, CONTENT[:left])
    with http_files.serve(CONTENT) as site:
        assert "bytes instead of 100,000" in refusal(site.url, path, size=100_000)
        fetch(site.url, path, size=len(CONTENT))
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


def test_no_server(path):
    with http_files.serve(CONTENT) as site:
        url = site.url
    assert "Connection refused (attempt 2 of 2)" in refusal(url, path, attempts=2)


def test_unknown_host(path):
    message = refusal("https://nowhere.invalid/file", path)  # .invalid never resolves (RFC 2606)
    assert "https://nowhere.invalid/file" in message and "check the address and the network" in message


def test_silence(path):
    silence = threading.Event()
    with http_files.serve(CONTENT[:10], silence=silence) as site:
        site.content = CONTENT[:10]
        site.cuts = [5]
        message = refusal(site.url, path, timeout=0.3, attempts=1)
    assert "the connection was lost after 0 bytes" in message or "ended after 5 of 10 bytes" in message
    assert "no answer in time" in message


def test_redirects(path):
    with http_files.serve(CONTENT, redirects={"/old": "/file"}) as site:
        fetch(site.root + "/old", path, md5=MD5)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "target, reason",
    [
        ("file:///etc/passwd", "302"),
        ("ftp://127.0.0.1/file", "must begin with https://, http://"),
        ("http://192.0.2.1/file", "is not encrypted"),
    ],
)
def test_redirects_elsewhere(path, target, reason):
    with http_files.serve(CONTENT, redirects={"/old": target}) as site:
        assert reason in refusal(site.root + "/old", path)
    assert not path.exists()


def test_redirects_in_a_circle(path):
    with http_files.serve(CONTENT, redirects={"/old": "/old"}) as site:
        assert "302" in refusal(site.root + "/old", path)


@pytest.mark.parametrize("url", [
    "ftp://x/y", "data:,x", "https://", "file.bin", "http://[x/y", "https://x:99999/y", "http://127.0.0.1:1/\u00e9",
    "http://a..localhost:1/x", f"http://{'a' * 64}.localhost:1/x", "https://x/" + "y" * 9000])
def test_unusable_addresses(path, url):
    message = refusal(url, path, allow_http=True, attempts=1)
    assert ("is no usable address" in message or "check the address" in message) and len(message) < 400


def test_a_folder_of_nobody_is_refused(path):
    assert "write the path in full" in refusal("https://127.0.0.1/x", "~nobody-of-this-name/x")


def test_http_only_when_allowed(path):
    assert "use its https:// address" in refusal("http://192.0.2.1/file", path)
    message = refusal("http://nowhere.invalid/file", path, allow_http=True)
    assert "check the address and the network" in message


def test_local_file(path, tmp_path):
    source = tmp_path / "source file.bin"
    source.write_bytes(CONTENT)
    leave_part(path, CONTENT[:100])
    fetch(source.as_uri(), path, md5=MD5)
    assert path.read_bytes() == CONTENT
    assert "No such file" in refusal((tmp_path / "nothing").as_uri(), path.with_name("other"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_full_disk(path):
    path.parent.mkdir()
    part_of(path).symlink_to("/dev/full")
    with http_files.serve(CONTENT) as site:
        message = refusal(site.url, path)
    assert "No space left on device; make room or choose another folder" in message


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in refusal("https://nowhere.invalid/x", tmp_path / "file" / "x")


def test_progress_lines(path, capsys):
    with http_files.serve(CONTENT * 8) as site:
        fetch(site.url, path, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert 5 <= len(lines) <= 10
    assert lines[-1].startswith("file.bin: 5,600,000 of 5,600,000, ")
