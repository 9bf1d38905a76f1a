"""Every format that is read: sound files, ways to craft wrong ones, the reader, and what can be told of damage."""
import contextlib
import dataclasses
import hashlib
import io
import json
import lzma
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import cifar_files
import mxnet as mx
import numpy as np
import tiny
from authors_names import to_authors
from PIL import Image

import evaluate
import model
import train_cifar
from backend.gluon.program import Program
from engine import checkpoint, runlog
from engine.data import cifar, image_batches, image_sources, images
from engine.figures import curves
from model.weights import pretrained_file
from reproduce import blocks, figures, grid, ledger, publish, report, weights
from support import params_file
from support.errors import InputError

from . import ROOT, mutate

RECORD = next(iter(sorted((ledger.RESULTS / "runs").glob("*/" + ledger.RECORD)))).parent


class Began(Exception):
    """A training has passed all its checks and would make its first step now."""


class Format:
    """A kind of file.

    sound(folder) writes sound files; target: which of them is damaged; read(folder) gives what matters of them, in
    values that compare, or raises InputError; craft(rng, content) gives (bytes, words): a wrong file with sound
    checksums. may_differ(sound value, value, folder): whether a file that is read as something else than the sound one
    is one that nothing could have told apart.
    """

    name = promised = not_promised = target = ""

    def sound(self, folder):
        raise NotImplementedError

    def read(self, folder):
        raise NotImplementedError

    craft = None

    def may_differ(self, expected, value, folder):
        return False


# ---- CIFAR


def loaded(folder, name="cifar10", mode=None):
    """What matters of a data set as it is loaded."""
    data = cifar.load(name, folder, mode)
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8 and split.images.shape == (len(split), 3, 32, 32)
        assert split.labels.dtype == np.int32
        assert ((split.labels >= 0) & (split.labels < len(data.class_names))).all()
    return {"train": (len(data.train), hashlib.md5(data.train.images).hexdigest(), data.train.labels.tolist()),
            "test": (len(data.test), hashlib.md5(data.test.images).hexdigest(), data.test.labels.tolist()),
            "sha256": data.provenance["sha256"], "official": data.provenance["official"]}


class CifarBinary(Format):
    """Binary batches of CIFAR-10: label byte and 3,072 pixels an image, no header and no checksum of their own."""

    name = "CIFAR binary batch"
    promised = ("a partial record, a label outside the classes and a missing split are refused with file and byte; the "
                "log and every result name files that are not the official ones, with their SHA-256")
    not_promised = ("flipped pixels in files that are not the official ones, and a cut between two records: the format "
                    "has neither a count nor a checksum")
    target = "data_batch_1.bin"

    def sound(self, folder):
        tiny.cifar10(folder, 12, 8)

    def read(self, folder):
        return loaded(folder)

    def may_differ(self, expected, value, folder):
        content = np.frombuffer((folder / self.target).read_bytes(), np.uint8).reshape(-1, 3073)
        pixels = np.ascontiguousarray(content[:, 1:])
        own = (len(content), hashlib.md5(pixels).hexdigest(), content[:, 0].tolist())
        return value["train"] == own and not value["official"] and value["sha256"] != expected["sha256"]


class CifarFine(CifarBinary):
    name = "CIFAR-100 binary batch"
    target = "train.bin"

    def sound(self, folder):
        tiny.cifar100(folder, 12, 8)

    def read(self, folder):
        return loaded(folder, "cifar100", "fine")

    def may_differ(self, expected, value, folder):
        content = np.frombuffer((folder / self.target).read_bytes(), np.uint8).reshape(-1, 3074)
        pixels = np.ascontiguousarray(content[:, 2:])
        own = (len(content), hashlib.md5(pixels).hexdigest(), content[:, 1].tolist())
        return value["train"] == own and not value["official"] and value["sha256"] != expected["sha256"]


class CifarXz(Format):
    name = "CIFAR batch as .bin.xz"
    promised = "xz has a checksum, so wrong content is refused; memory and size are bounded"
    target = "data_batch_1.bin.xz"

    def sound(self, folder):
        cifar_files.cifar10_folder(folder, train=(12,), test=8, compressed=True)

    def read(self, folder):
        return loaded(folder)

    def craft(self, rng, content):
        kind = rng.choice(("bomb", "no check", "two streams", "alone"))
        if kind == "bomb":
            return lzma.compress(bytes(40 << 20), preset=0), "40 MB of zeros"
        if kind == "no check":
            return lzma.compress(bytes(3072), check=lzma.CHECK_NONE), "a cut record, without a checksum"
        if kind == "two streams":
            return content + content, "two streams"
        return lzma.compress(lzma.decompress(content), format=lzma.FORMAT_ALONE), "the older .lzma format"


class CifarArchive(Format):
    name = "CIFAR archive (tar.gz)"
    promised = ("gzip's checksum covers the whole archive, so wrong content is refused; nothing is unpacked to disk, "
                "neither links, devices, other paths nor bombs")
    target = "cifar-10-binary.tar.gz"

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        members = {}
        for seed, (name, count) in enumerate((("data_batch_1.bin", 12), ("test_batch.bin", 8))):
            images = cifar_files.random_images(count, seed)
            members[f"cifar-10-batches-bin/{name}"] = cifar_files.binary(images, np.arange(count) % 10)
        cifar_files.archive(folder / self.target, members)

    def read(self, folder):
        return loaded(folder)


class CifarPython(Format):
    name = "CIFAR python batch (pickle)"
    promised = ("the file is never unpickled, so nothing in it runs; a wrong structure, type, shape, count or label is "
                "refused with file and byte")
    not_promised = "flipped pixels in files that are not the official ones: the format has no checksum"
    target = "data_batch_1"

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        for seed, (name, count) in enumerate((("data_batch_1", 12), ("test_batch", 8))):
            images, labels = cifar_files.random_images(count, seed), [n % 10 for n in range(count)]
            (folder / name).write_bytes(cifar_files.python2(images, labels=labels) if seed == 0 else
                                        cifar_files.python3(images, 2, labels=labels))

    def read(self, folder):
        return loaded(folder)

    def craft(self, rng, content):
        images = cifar_files.random_images(12).reshape(12, -1)
        batch = {"data": images, "labels": [n % 10 for n in range(12)]}
        changes = {
            "float pixels": {"data": images.astype(np.float32)}, "signed pixels": {"data": images.astype(np.int8)},
            "3,071 pixels": {"data": images[:, 1:]}, "four axes": {"data": images.reshape(12, 3, 32, 32)},
            "one image fewer": {"data": images[:-1]}, "no images": {"data": images[:0], "labels": []},
            "column order": {"data": np.asfortranarray(images)}, "objects": {"data": images.astype(object)},
            "label 10": {"labels": [10] * 12}, "label -1": {"labels": [-1] * 12},
            "label 2**70": {"labels": [2**70] * 12},
            "labels of text": {"labels": ["1"] * 12}, "labels true": {"labels": [True] * 12},
            "labels in an array": {"labels": np.arange(12) % 10}, "labels of float": {"labels": np.arange(12) / 2},
            "labels in themselves": {"labels": None}, "a name to import": {"extra": print},
        }
        what = rng.choice(sorted(changes))
        batch.update(changes[what])
        if what == "labels in themselves":
            batch["labels"] = batch
        elif what == "labels in an array":
            batch["labels"] = batch["labels"].astype(rng.choice((np.int8, np.uint8, np.int64, ">i4")))
        protocol = rng.choice((0, 1, 2, 3, 4, 5))
        return pickle.dumps(rng.choice((batch, batch, batch, [batch], {**batch, 3: 4})), protocol), \
            f"{what}, protocol {protocol}"

    def may_differ(self, expected, value, folder):
        return value["test"] == expected["test"] and not value["official"] and value["sha256"] != expected["sha256"]


# ---- Parameter files


def atac():
    """The smallest net of the paper, away from the constants of a fresh one."""
    net = tiny.ready(model.get_model("atac_resnet20_v2", blocks=1), 3, mode="imperative")
    for parameter in net.collect_params().values():
        if parameter.name.endswith(("running_mean", "bias")):
            parameter.set_data(mx.nd.array(np.linspace(-.2, .2, parameter.shape[0])))
    return net


def packed(shape, code, data, magic=0xF993FAC9, storage=0, axes=None):
    """An array in MXNet's layout."""
    return struct.pack(f"<Iii{len(shape)}qiii", magic, storage, len(shape) if axes is None else axes, *shape,
                       1, 0, code) + data


def listed(arrays, names, count=None, named=None):
    """A file in MXNet's layout."""
    return struct.pack("<QQQ", 0x112, 0, len(arrays) if count is None else count) + b"".join(arrays) \
        + struct.pack("<Q", len(names) if named is None else named) \
        + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def crafted_params(rng, arrays):
    """A file with the arrays of another, one or more of them wrong; and what is wrong."""
    parts, names = {}, list(arrays)
    for name, value in arrays.items():
        code = {kind: code for code, kind in params_file.DTYPES.items()}[value.dtype.type]
        parts[name] = packed(value.shape, code, value.tobytes())
    victim = rng.choice(names)
    value = arrays[victim]
    kind = rng.choice(("dtype", "shape", "axes", "huge", "sparse", "nan", "infinite", "name", "twice", "gone", "more",
                       "count", "named", "long name", "scalar", "zero", "transposed", "all zero", "no arrays"))
    counts = {}
    raw_names = [name.encode() for name in names]
    place = names.index(victim)
    if kind == "dtype":
        code = rng.choice((1, 3, 4, 5, 6, 7, 8, 12, -1, 2**31 - 1))
        data = value.astype(params_file.DTYPES.get(code, np.float32)).tobytes()
        parts[victim] = packed(value.shape, code, data)
        kind += f" code {code}"
    elif kind == "shape":
        other = (*value.shape, 1) if rng.random() < .5 else (value.size,)
        parts[victim] = packed(other, 0, value.astype(np.float32).tobytes())
    elif kind == "axes":
        parts[victim] = packed(value.shape, 0, value.astype(np.float32).tobytes(), axes=rng.choice((-1, 0, 7, 33,
                                                                                                    2**30)))
    elif kind == "huge":
        parts[victim] = packed([rng.choice((2**31, 2**40, 2**62, 2**63 - 1, -1)) for _ in range(rng.choice((1, 2, 4)))],
                               0, bytes(64))
    elif kind == "sparse":
        parts[victim] = packed(value.shape, 0, value.tobytes(), storage=rng.choice((1, 2, -1)))
    elif kind in ("nan", "infinite"):
        wrong = value.astype(np.float32).copy()
        wrong.flat[rng.randrange(wrong.size)] = np.nan if kind == "nan" else np.inf
        parts[victim] = packed(value.shape, 0, wrong.tobytes())
    elif kind == "name":
        raw_names[place] = rng.choice((b"", b"\xff\xfe", b"a" * 70_000, b"arg:" + raw_names[place], b"../x", b"\0",
                                       raw_names[place].upper()))
    elif kind == "twice":
        raw_names[place] = raw_names[place - 1]
    elif kind == "gone":
        del parts[victim], raw_names[place]
    elif kind == "more":
        parts["more"] = packed((2,), 0, bytes(8))
        raw_names.append(b"more.weight")
    elif kind == "count":
        counts = {"count": rng.choice((0, len(parts) - 1, len(parts) + 1, 2**40, 2**64 - 1))}
    elif kind == "named":
        counts = {"named": rng.choice((0, len(parts) - 1, len(parts) + 1, 2**40, 2**64 - 1))}
    elif kind == "long name":
        content = listed(list(parts.values()), raw_names)
        return content[:-8 - len(raw_names[-1])] + struct.pack("<Q", 2**62) + raw_names[-1], "a name of 2**62 bytes"
    elif kind == "scalar":
        parts[victim] = packed((), 0, bytes(4), magic=rng.choice((0xF993FAC9, 0xF993FACA)))
    elif kind == "zero":
        parts[victim] = packed((0, 2**62), 0, b"")
    elif kind == "transposed":
        parts[victim] = packed(value.shape[::-1], 0, value.astype(np.float32).tobytes())
    elif kind == "all zero":
        parts[victim] = packed(value.shape, 0, bytes(4 * value.size))
    elif kind == "no arrays":
        return listed([], []), "no arrays at all"
    return listed(list(parts.values()), raw_names, **counts), f"{kind} of {victim}"


class Params(Format):
    """MXNet's own file, loaded into its net."""

    name = ".params as MXNet writes it"
    promised = ("structure, names, shapes, types and finite numbers are checked first; if one is wrong, the file is "
                "refused and the net does not change; no allocation is larger than the file")
    not_promised = ("flipped bits that leave finite numbers: the format has no checksum (our format and the manifest "
                    "have one)")
    target = "net.params"

    def __init__(self):
        self.net = self.make()
        self.arrays = None

    def make(self):
        return atac()

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        self.net.save_parameters(str(folder / self.target))
        if self.arrays is None:
            self.arrays = params_file.read(folder / self.target)[0]

    def craft(self, rng, content):
        return crafted_params(rng, self.arrays)

    def read(self, folder):
        before = tiny.numbers_of(self.net)
        try:
            model.load_params(self.net, str(folder / self.target), say=None)
        except InputError:
            after = tiny.numbers_of(self.net)
            assert all((before[name] == after[name]).all() for name in before), "a refused file changed the net"
            raise
        read = tiny.numbers_of(self.net)
        assert all(np.isfinite(value).all() for value in read.values())
        for name, parameter in self.net._collect_params_with_prefix().items():  # for the next round
            parameter.set_data(mx.nd.array(before[name], dtype=parameter.dtype))
        return {name: value.tobytes() for name, value in read.items()}

    def may_differ(self, expected, value, folder):
        return {name: len(data) for name, data in value.items()} == {name: len(data) for name, data in expected.items()}


class AuthorsParams(Params):
    name = ".params as the authors' code writes it (float16)"
    not_promised = "flipped bits that leave finite numbers: the format has no checksum"

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        mx.nd.save(str(folder / self.target), {
            to_authors(name): parameter.data().astype("float16")
            for name, parameter in self.net._collect_params_with_prefix().items()})
        if self.arrays is None:
            self.arrays = params_file.read(folder / self.target)[0]


def archived(weights_part, members, digest=True):
    """Weights with an archive behind them as params_file.write leaves it; members: (name, content, compression)."""
    stream = io.BytesIO()
    stream.write(weights_part)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        if digest:
            archive.writestr(zipfile.ZipInfo(params_file.DIGEST), hashlib.sha256(weights_part).hexdigest())
        for name, content, compression in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def taken_apart(content):
    """(weights part, [(member, content)]) of a file of ours."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start = min(member.header_offset for member in archive.infolist())
        return content[:start], [(name, archive.read(name)) for name in archive.namelist()
                                 if name != params_file.DIGEST]


class OwnParams(Format):
    """A file of ours: weights, their digest, and an archive whose members have checksums."""

    name = ".params of ours"
    promised = ("weights have a SHA-256 and attachments a CRC, so a single flipped bit, a cut, or junk at the end is "
                "refused")
    not_promised = "a stranger who recomputes the checksums (a manifest's SHA-256 shows this)"
    target = "net.params"

    def __init__(self):
        self.net = atac()

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        tiny.save(folder / self.target, self.net, tiny.saved(model="atac_resnet20_v2"))

    def craft(self, rng, content):
        part, members = taken_apart(content)
        kind = rng.choice(("no digest", "other digest", "compressed", "twice", "bomb", "prefix", "only archive"))
        if kind == "no digest":
            return archived(part, [(*member, zipfile.ZIP_STORED) for member in members], digest=False), kind
        if kind == "other digest":
            return archived(part, [(params_file.DIGEST, b"0" * 64, 0)], digest=False), kind
        if kind == "compressed":
            return archived(part, [(*member, zipfile.ZIP_DEFLATED) for member in members]), kind
        if kind == "twice":
            return archived(part, [(*members[0], 0), (members[0][0], b"{}", 0)]), "a member twice"
        if kind == "bomb":
            return archived(part, [("settings.json", bytes(50 << 20), zipfile.ZIP_DEFLATED)]), "50 MB of zeros"
        if kind == "prefix":
            return b"x" + content, "a byte in front"
        return archived(b"", [(*member, 0) for member in members]), "an archive without weights"

    def read(self, folder):
        arrays, attachments = params_file.read(folder / self.target)
        return ({name: (str(value.dtype), value.shape, value.tobytes()) for name, value in arrays.items()},
                {name: bytes(content) for name, content in attachments.items()})


class Checkpoint(Format):
    """A checkpoint's arrays, as a run that goes on takes them."""

    name = "checkpoint, restored"
    promised = ("as for .params of ours; optimizer state of another type, shape or net, and pickled objects, are "
                "refused; net and trainer do not change before everything is checked")
    not_promised = "a stranger who recomputes the checksums over other numbers"
    target = "last.params"

    def __init__(self):
        self.program, self.content = tiny.program(tiny.ready(tiny.net())), None
        batches = [(.1, np.random.RandomState(0).normal(0, 1, (8, 3, 32, 32)).astype("float32"), np.arange(8))]
        tiny.train(self.program, batches)

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        if self.content is None:  # once: what is accepted by mistake changes the net
            state = {"epoch": 1, "step": 0, "meter": {"images": 0, "loss_sum": 0.0, "correct": 0}, "best": None,
                     "resumed": 0, "loss_scale": None}
            tiny.save(folder / self.target, self.program, dataclasses.replace(tiny.saved(), state=state))
            self.content = (folder / self.target).read_bytes()
        (folder / self.target).write_bytes(self.content)

    def craft(self, rng, content):
        part, members = taken_apart(content)
        arrays = [name for name, _ in members if name.endswith(".npy")]
        victim = rng.choice(arrays)
        state = np.lib.format.read_array(io.BytesIO(dict(members)[victim]))
        stream = io.BytesIO()
        kind = rng.choice(("dtype", "shape", "objects", "huge", "cut", "empty", "gone", "renamed", "header", "nan",
                           "big"))
        if kind == "dtype":
            np.save(stream, state.astype(rng.choice((np.float64, np.float16, np.int32, np.complex64, ">f4", bool))))
        elif kind == "shape":
            np.save(stream, state.reshape(-1, 1, 1) if rng.random() < .5 else state.ravel()[:-1])
        elif kind == "objects":
            np.save(stream, np.array([print, {"a": 1}], dtype=object), allow_pickle=True)
        elif kind == "nan":
            np.save(stream, np.full_like(state, np.nan))
        elif kind in ("huge", "header"):
            shape = rng.choice(("(1099511627776,)", "(-1,)", "(3000000000,)", "'x'", "(" * 60 + ")" * 60, "(1," * 5000))
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) % 65536) + header.encode())
            kind += f" {shape[:30]}"
        elif kind == "cut":
            stream.write(dict(members)[victim][:rng.randrange(len(dict(members)[victim]))])
        elif kind == "big":
            stream.write(dict(members)[victim] + bytes(100))
        new = [(name, stream.getvalue() if name == victim else old, 0) for name, old in members]
        if kind == "gone":
            new = [member for member in new if member[0] != victim]
        elif kind == "renamed":
            new = [(name if name != victim else rng.choice(("running/0/x.npy", "running/1/x.npy", "../x", "running/")),
                    old, 0) for name, old, _ in new]
        return archived(part, new), f"{kind} in {victim}"

    def read(self, folder):
        before = self.everything()
        try:
            tiny.restore(folder / self.target, self.program)
        except InputError:
            assert self.everything() == before, "a refused checkpoint changed the run"
            raise
        return self.everything()

    def everything(self):
        return {name: self.program.read(place).tobytes() for name, places
                in {**self.program.weights(), **self.program.momenta()}.items() for place in places}


class CraftedSettings(Format):
    """Settings in a file of ours, changed and signed anew, as a stranger could."""

    target = "last.params"
    not_promised = "settings that are possible but not those of the run"

    def craft(self, rng, content):
        part, members = taken_apart(content)
        settings = json.loads(dict(members)[checkpoint.SETTINGS])
        settings, said = mutate.odd(settings, rng)
        text = json.dumps(settings).encode()
        if rng.random() < .1:
            text, said = rng.choice(((b"", "nothing"), (b"[" * 100_000, "100,000 brackets"), (b"\xff\xfe", "no text"),
                                     (b"1" * 10_000, "a number of 10,000 digits"), (text[:-3], "cut"))), ""
            text, said = text
        return archived(part, [(name, text if name == checkpoint.SETTINGS else old, 0) for name, old in members]), \
            f"settings: {said}"

    def may_differ(self, expected, value, folder):
        return True  # every setting that passes all checks is a possible one


def answered(result):
    """What a script's main() answered; an InputError for a sentence."""
    lines = result.err.strip().splitlines()
    if result.status in (1, 2):
        assert lines and not any("Traceback" in line for line in lines), result.err[-300:]
        raise InputError(lines[-1])
    assert result.status == 0, (result.status, result.err[-300:])
    return "read"


class ResumedRun(CraftedSettings):
    name = "checkpoint's settings, --resume"
    promised = "train_cifar.py --resume refuses them or starts its first step"

    def __init__(self):
        self.made = None

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        tiny.cifar10(folder / "data", 32, 20)
        if self.made is None:
            result = tiny.call(train_cifar.main, "--gpus", "", "--model", "resnet20_v2", "--blocks", "1",
                               "--num-epochs",
                               "2", "--lr-decay-epoch", "1", "--batch-size", "16", "--save-period", "1", "--data-dir",
                               "data", "--save-dir", "run", "-j", "0", folder=folder)
            assert result.status == 0, result.err
            self.made = (folder / "run" / "epoch-0001.params").read_bytes(), \
                (folder / "run" / "metrics.jsonl").read_bytes()
            shutil.rmtree(folder / "run")
        (folder / "last.params").write_bytes(self.made[0])
        (folder / "metrics.jsonl").write_bytes(self.made[1])

    def read(self, folder):
        def began(*_, **__):
            raise Began

        kept, Program.steps = Program.steps, began
        try:
            return answered(tiny.call(train_cifar.main, "--gpus", "", "--data-dir", "data", "--resume", "last.params",
                                      "-j", "0", folder=folder))
        except Began:
            return "read"
        finally:
            Program.steps = kept


class EvaluatedFile(CraftedSettings):
    name = "file's settings, evaluate.py"
    promised = "evaluate.py refuses them or scores the file"

    def __init__(self):
        net = tiny.ready(model.get_model("resnet20_v2", blocks=1), 3, mode="imperative")
        self.net = net

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        tiny.cifar10(folder / "data", 12, 6)
        tiny.save(folder / self.target, self.net, tiny.saved())

    def read(self, folder):
        return answered(tiny.call(evaluate.main, "--gpus", "", "--mode", "imperative", "--fused", "off", "--data-dir",
                                  "data", "--params", self.target, folder=folder))


# ---- JSON


class Json(Format):
    """A JSON file: bytes are damaged, and values are exchanged for odd ones."""

    def craft(self, rng, content):
        value, said = mutate.odd(json.loads(content), rng)
        return json.dumps(value, indent=1).encode(), said


class Manifest(Json):
    """A manifest with the weights that ship, and the same again as weights that have to be fetched."""

    name = "params/manifest.json"
    promised = ("anything else than a manifest is refused; a file's SHA-256 is compared before its weights are used; "
                "its names never lead out of params/")
    not_promised = "its scores and descriptions, which are text"
    target = "params/manifest.json"

    def __init__(self):
        entries = json.loads((ROOT / "params" / "manifest.json").read_text(encoding="utf-8"))["models"]
        self.entry, = (entry for entry in entries if entry["name"] == "atac_resnet20_v2_b1_cifar10")
        self.content = (ROOT / "params" / self.entry["file"]).read_bytes()

    def sound(self, folder):
        for place, name in (("params", self.entry["file"]), ("source", "fetched.params")):
            (folder / place).mkdir(parents=True, exist_ok=True)
            (folder / place / name).write_bytes(self.content)
        fetched = {**self.entry, "name": "fetched", "file": "fetched.params",
                   "urls": ["https://nowhere.invalid/x.params"],
                   "model": "nin_resnet20_v2"}
        (folder / self.target).write_text(json.dumps({"models": [self.entry, fetched]}))

    def read(self, folder):
        params, kept = folder / "params", publish.MANIFEST
        publish.MANIFEST = params / "manifest.json"
        refusals = []
        try:
            for call in (
                    lambda: quietly(weights.table), lambda: pretrained_file(self.entry["name"], params),
                    lambda: model.get_model(self.entry["model"], pretrained=True, blocks=1, root=params),
                    lambda: quietly(weights.download, "all", (folder / "source").as_uri()),
                    lambda: quietly(weights.verify, str(folder / "nowhere"))):
                try:
                    used = call()
                    if isinstance(used, Path):
                        assert used.resolve().parent == params.resolve(), f"{used} is outside"
                        assert used.read_bytes() == self.content, f"{used} is another file"
                except InputError as error:
                    refusals.append(error)
        finally:
            publish.MANIFEST = kept
        written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        outside = {name for name in written if not name.startswith(("params/", "source/"))}
        assert not outside, f"{outside} was written"
        if refusals:
            raise refusals[0]
        return "read"


def quietly(function, *arguments):
    """Call a function that prints, without the prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def render(records):
    """All of the report that depends on records."""
    report.conclusions_text(records)
    report.runs_table(records)
    for exhibit in grid.EXHIBITS.values():
        for block in blocks.blocks_of(exhibit, records):
            blocks.caption(block)
            blocks.effort(block)
            if exhibit is not grid.FIG6:  # its numbers need the sizes of its nets: half a minute
                figures.numbers_of(block)


class LedgerRecord(Json):
    name = "results/ ledger record"
    promised = ("a record with a missing, misspelt or wrong-typed field, under another name, or with other scores or "
                "times than the metrics in its folder, is refused before any table is rendered")
    not_promised = "facts that no other file of the folder has, such as the processor or the revision"
    target = f"runs/{RECORD.name}/record.json"

    def sound(self, folder):
        place = folder / "runs" / RECORD.name
        place.mkdir(parents=True, exist_ok=True)
        for name in (ledger.RECORD, *ledger.EVIDENCE):
            shutil.copy(RECORD / name, place)

    def read(self, folder):
        records = ledger.read(folder)
        render(records)
        return [record.as_json() for record in records]

    def may_differ(self, expected, value, folder):
        return len(value) == len(expected)


class FinishedRun(Json):
    """The folder of a finished run, on its way into the ledger."""

    name = "finished run (args, result, metrics, log)"
    promised = "a run whose files are damaged or do not agree is refused, and the ledger does not change"
    not_promised = "another number of the right kind in args.json or result.json that metrics.jsonl does not have"
    target = ""

    def __init__(self):
        self.files = None

    def sound(self, folder):
        if self.files is None:
            made = folder.parent / "finished"
            shutil.rmtree(made, ignore_errors=True)  # of a process that died
            made.mkdir(parents=True)
            tiny.cifar10(made / "data", 32, 20)
            result = tiny.call(train_cifar.main, "--gpus", "", "--model", "resnet20_v2", "--blocks", "1",
                               "--num-epochs",
                               "2", "--batch-size", "16", "--data-dir", "data", "--save-dir", "run", "--recipe",
                               "scaled", folder=made)
            assert result.status == 0, result.err
            self.files = {path.name: path.read_bytes() for path in (made / "run").iterdir()}
        (folder / "run").mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / "run" / name).write_bytes(content)

    targets = ("run/args.json", "run/result.json", "run/metrics.jsonl", "run/train.log")

    def craft(self, rng, content):
        if content.startswith(b"{\n"):
            return super().craft(rng, content)
        lines = content.splitlines(keepends=True)
        lines = rng.choice((lines[::-1], lines * 2, lines[:-1], [*lines, b"{}\n"], [b"\n", *lines], [b"[]\n"] + lines,
                            [mutated_line(rng, lines[0]), *lines[1:]], [*lines[:-1], mutated_line(rng, lines[-1])]))
        return b"".join(lines), "lines changed"

    def read(self, folder):
        try:
            record = ledger.add(folder / "run", folder / "results")
        except InputError:
            assert not list((folder / "results").glob("runs/*/record.json")), "a refused run is in the ledger"
            raise
        found = ledger.read(folder / "results")
        render(found)
        return json.dumps(found == [record] or [each.as_json() for each in found], sort_keys=True)

    def may_differ(self, expected, value, folder):
        return True  # what is in the ledger was rendered


def mutated_line(rng, line):
    try:
        return json.dumps(mutate.odd(json.loads(line), rng)[0]).encode() + b"\n"
    except ValueError:
        return line[:len(line) // 2]


class Metrics(FinishedRun):
    name = "metrics.jsonl, --resume and history"
    promised = ("a last line that was cut is left out; any other line that is not the record of its epoch is refused "
                "with its number")
    not_promised = "another number of the right kind"
    target = "metrics.jsonl"
    targets = ()

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        fields = ("lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_top5", "seconds",
                  "train_images_per_second")
        lines = [{"epoch": epoch, "train_images": 32, "val_images": 20, "scored_on": "test",
                  **{name: .1 * epoch + .01 * place for place, name in enumerate(fields)}} for epoch in range(4)]
        (folder / self.target).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def read(self, folder):
        records = runlog.Metrics(folder / self.target, keep_epochs=4).records
        assert [record["epoch"] for record in records] == sorted({record["epoch"] for record in records})
        self.turn = getattr(self, "turn", -1) + 1
        if records and self.turn % 10 == 0:  # for the third of a second that drawing takes
            curves.draw({"test images": records}, folder / "history.png", "x")
            for record in records:
                assert record["seconds"] + record["train_images_per_second"] + record["val_loss"] < float("inf")
        return records

    def may_differ(self, expected, value, folder):
        return True  # each has passed the checks, and was drawn


# ---- Pictures


class Pictures(Format):
    name = "pictures, evaluate.py --images"
    promised = ("an unreadable picture is refused; so are formats that --help does not list, whatever the file's name, "
                f"more than {images.MAX_PIXELS:,} pixels (WebP: half, JPEG 2000: a quarter), more than "
                f"{images.MAX_BYTES:,} bytes, and numbers of an unknown range; memory is a few times the pixels' size")
    not_promised = "changed pixels in a picture that can still be decoded"
    target = "picture"
    KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "JPEG2000")

    def __init__(self):
        self.net = tiny.ready(model.get_model("resnet20_v2", blocks=1), 3, mode="imperative")
        self.turn = 0

    def sound(self, folder):
        folder.mkdir(exist_ok=True)
        tiny.save(folder / "net.params", self.net, tiny.saved())
        kind = self.KINDS[self.turn % len(self.KINDS)]
        self.turn += 1
        noise = cifar_files.random_images(1)[0].transpose(1, 2, 0)
        Image.fromarray(np.kron(noise, np.ones((2, 2, 1), np.uint8))).save(folder / self.target, kind)

    def read(self, folder):
        return answered(tiny.call(evaluate.main, "--gpus", "", "--mode", "imperative", "--fused", "off", "--params",
                                  "net.params", "--images", self.target, folder=folder))


class ImageRecords(Format):
    """ImageNet as a record file with its index."""

    name = "ImageNet .rec, .idx and its images"
    promised = ("an impossible index or record, a label that is no class, a cut file and an image that cannot be "
                "decoded are refused with file and place; --damaged skip leaves them out and counts them")
    not_promised = ("flipped pixels that still decode: the format has no checksum, and the data set's checksum only "
                    "covers names and labels")
    targets = ("train.rec", "train.idx", "train.lst", "synset.txt")
    records = True

    def sound(self, folder):
        from mxnet import recordio

        folder.mkdir(exist_ok=True)
        writer = recordio.MXIndexedRecordIO(str(folder / "train.idx"), str(folder / "train.rec"), "w")
        for number in range(6):
            writer.write_idx(number, recordio.pack(recordio.IRHeader(0, float(number % 3), number, 0), jpeg(number)))
        writer.close()
        (folder / "train.lst").write_text("".join(f"{number}\t{number % 3:f}\t{number}.JPEG\n" for number in range(6)))
        (folder / "synset.txt").write_text("tiger shark\nété\n猫\n", encoding="utf-8")

    def source(self, folder):
        return image_sources.Records(folder / "train.rec", folder / "train.idx")

    def read(self, folder):
        found = []
        for damaged in ("refuse", "skip"):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    source = self.source(folder)
                    source.check()
                    batches = image_batches.EvalBatches(source, 4, input_size=32, damaged=damaged)
                    seen = [(images[:count].copy(), labels[:count].copy()) for images, labels, count in batches]
                    steps = image_batches.TrainBatches(source, 2, 0, input_size=32, damaged=damaged)
                    for images, labels in steps.epoch(0):
                        assert np.isfinite(images).all() and images.shape == (2, 3, 32, 32) and len(labels) == 2
            except InputError as error:
                found.append(error)
                continue
            images, labels = (np.concatenate(part) for part in zip(*seen))
            assert np.isfinite(images).all() and len(images) == len(labels) <= len(source)
            found.append((images.tobytes(), labels.tolist(), source.sha256))
        if isinstance(found[0], InputError):
            raise found[0]
        return found

    def may_differ(self, expected, value, folder):
        # Another picture that can be decoded, or another list of images and labels, which has another checksum. (So has
        # the same list where the .rec is longer: the checksum covers its length, and every byte of the .idx.)
        return all(labels == expected[0][1] or sha256 != expected[0][2]
                   for labels, sha256 in (part[1:] for part in value if not isinstance(part, InputError)))


class ImageFolders(ImageRecords):
    name = "ImageNet folders of images"
    targets = ("n01440764/1.JPEG", "n01440764/4.JPEG", "n01443537/0.JPEG")

    def sound(self, folder):
        for number in range(6):
            place = folder / ("n01443537", "n01440764", "n01484850")[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.JPEG").write_bytes(jpeg(number))

    def source(self, folder):
        return image_sources.Folders(folder)

    def may_differ(self, expected, value, folder):
        return True  # another picture that can be decoded; the checksum of folders is of names and sizes


def jpeg(number):
    """A small picture as JPEG."""
    stream = io.BytesIO()
    noise = cifar_files.random_images(1, number)[0].transpose(1, 2, 0)
    Image.fromarray(np.kron(noise, np.ones((2, 2, 1), np.uint8))).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def all_formats():
    """{name: class} of every format, in the order of the report."""
    from .npz import Npz

    found = [CifarBinary, CifarFine, CifarXz, CifarArchive, CifarPython, OwnParams, Params, AuthorsParams, Npz,
             Checkpoint, ResumedRun, EvaluatedFile, Manifest, LedgerRecord, FinishedRun, Metrics, Pictures,
             ImageRecords, ImageFolders]
    return {kind.name: kind for kind in found}


