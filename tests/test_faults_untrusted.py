"""What the source must not do, archives from strangers, and addresses that are not https."""
import io
import tarfile

import http_files
import numpy as np
import pytest
from cifar_files import binary, random_images
from faults import suite, untrusted

from engine.data import cifar
from support.errors import InputError


def test_the_walk_finds_what_it_looks_for_and_nothing_else():
    for source in ("from pickle import loads", "eval(x)", "subprocess.run(x, shell=y)", "os.system(x)",
                   "archive.extractall()", "archive.extract(member)", "np.load(x, allow_pickle=True)",
                   "ssl._create_unverified_context()", "Image.open(x)", "cv2.imdecode(x, 1)", "torch.export.load(x)"):
        assert untrusted.dangers(source), source
    assert not untrusted.dangers("net.eval()\nre.compile('x')\nsubprocess.run(x, shell=False)\nimport pickletools\n"
                                 "archive.extractfile(member)\nImage.open(x, formats=FORMATS)\npath.open()")


def test_nothing_in_the_source_runs_what_came_from_outside_but_what_the_list_explains():
    paths = untrusted.sources()
    assert len(paths) > 40
    found = {(str(path.relative_to(untrusted.ROOT)), danger) for path in paths
             for danger in untrusted.dangers(path.read_text(encoding="utf-8"))}
    assert found <= set(untrusted.ALLOWED), found - set(untrusted.ALLOWED)
    assert all(untrusted.ALLOWED.values())


def test_every_file_that_a_user_names_is_opened_as_a_regular_one():
    assert untrusted.openings("open(a, 'rb'); b.read_bytes(); open(c, opener=regular); os.open(d, 0)") == {"a", "b"}
    found = {(str(path.relative_to(untrusted.ROOT)), opened) for path in untrusted.sources()
             for opened in untrusted.openings(path.read_text(encoding="utf-8"))}
    explained = {(module, opened) for module, why in untrusted.OPENED.items() for opened in why}
    assert found <= explained, f"open(..., opener=support.files.regular) or content() in {found - explained}"


def test_archives_from_strangers(tmp_path):
    record = suite.tally(untrusted.THEME, 150, 1, tmp_path)
    assert not record["faults"] and record["rounds"] == 150
    assert all(case["outcomes"]["refused"] > 20 for case in record["cases"].values())


def test_an_archive_that_claims_more_than_any_has_is_refused_at_once(tmp_path):
    """Python's tarfile would count through the claimed bytes, a mebibyte at a time."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        content = binary(random_images(4), np.arange(4))
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
        huge = tarfile.TarInfo("readme")
        huge.size = 2**62
        archive.fileobj.write(huge.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="is no whole tar.gz archive"):
        cifar.load("cifar10", tmp_path)


def test_the_official_address_does_not_lead_to_http(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(cifar.network, "fetch", lambda url, path, **how: seen.update(how, url=url))
    cifar.download("cifar10", tmp_path)
    assert seen["url"].startswith("https://") and not seen["allow_http"] and seen["md5"]
    cifar.download("cifar10", tmp_path, "http://mirror.example")
    assert seen["url"].startswith("http://") and seen["allow_http"] and seen["md5"]


def test_a_mirror_on_http_is_held_to_the_checksum(tmp_path):
    with http_files.serve(b"other bytes") as site, pytest.raises(InputError, match="404|holds other bytes"):
        cifar.download("cifar10", tmp_path, site.root, progress=False)
    assert not list(tmp_path.glob("*.tar.gz"))
