"""Archives from strangers, and what the source itself must not do with anything that came from outside."""
import ast
import contextlib
import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import cifar_files
import numpy as np

from engine.data import cifar, imagenet_archives
from support.errors import InputError

from . import ROOT, mutate
from .command_lines import bounded
from .suite import FAULT, Case, Round, Theme

CIFAR, TRAIN, VAL = "CIFAR archive", "ImageNet training archive", "ImageNet validation archive"
WORDNET = "n01440764"

# What may stand in the source all the same: (file, what it does): why.
ALLOWED = {
    ("support/import_hook.py", "exec_module"): "Python's own import of MXNet, from where it is installed",
    ("backend/torch/graph.py", "literal_eval"): "numbers and tuples among a graph's attributes, and no code",
    ("model/graph.py", "literal_eval"): "the same",
    ("backend/exported/pt2.py", "torch.export.load"): "a program by its nature: --help and docs/EXPORT.md say "
    "that only files that one trusts may be given",
    ("engine/data/images.py", "imdecode"): "of JPEGs alone, told by their first bytes",
}
# Files that are opened without support.files.regular, by module: (how the source calls them): why.
OWN, MADE, CHECKED = "a file of this project", "a file that this process makes", "is_file() comes before"
OPENED = {
    "backend/exported/write.py": {"part": MADE},
    "backend/exported/symbol.py": {'Path(folder, "net-symbol.json")': MADE, 'Path(folder, "net-0000.params")': MADE},
    "engine/event_file.py": {"self.path": MADE},
    "reproduce/watch.py": {'Path(f"/proc/{process}/stat")': "the system's"},
    "engine/presets.py": {'ROOT.joinpath("results", *names)': OWN},
    "benchmarks/contender.py": {'self.folder / "about.json"': MADE, 'self.folder / "graph.json"': MADE},
    "benchmarks/machine.py": {'"/proc/self/clear_refs"': "the system's", "path": "the system's"},
    "benchmarks/report.py": {"PAGE": OWN},
    "engine/data/cifar_archives.py": {"path": CHECKED},
    "engine/data/class_names.py": {'Path(__file__).parent / "imagenet_synsets.txt"': OWN},
    "engine/data/download.py": {"self.part": MADE},
    "engine/cli/program.py": {"number": "a standard stream"},
    "engine/data/pack_records.py": {"settings": MADE},
    "engine/data/imagenet.py": {'Path(__file__).parent / "imagenet_names.txt"': OWN},
    "ops/build.py": {"Path(path)": OWN, "path": OWN, "made": MADE},
    "reproduce/grid.py": {'ROOT / "results" / "paper.json"': OWN},
    "reproduce/ledger.py": {'RESULTS / "data.json"': OWN},
    "reproduce/rehearsal.py": {"RECORD": OWN, 'self.work / "score.json"': MADE},
    "reproduce/report.py": {"path": OWN, "ROOT / page": OWN},
    "support/files.py": {"temporary": MADE},
    "support/params_file.py": {"temporary": MADE},
    "support/runtime.py": {"system": "the system's"},
    "support/system.py": {"path": "the system's"},
}
PACKAGES = ("model", "engine", "backend", "ops", "support", "reproduce", "benchmarks")
UNPICKLING = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
CALLS = {  # by their last name
    "eval", "exec", "compile", "__import__", "execfile", "extractall", "load_states", "unpack_archive", "load_module",
    "exec_module", "run_path", "run_module", "literal_eval", "system", "popen", "getoutput", "getstatusoutput",
    "mktemp", "imread", "imdecode",  # these two decode whatever a file turns out to be
}
BUILTIN = {"eval", "exec", "compile", "__import__"}  # dangerous as bare names only: net.eval() is not
OF = {"system": "os", "popen": "os", "getoutput": "subprocess", "getstatusoutput": "subprocess", "mktemp": "tempfile",
      "run_path": "runpy", "run_module": "runpy"}
# Image.open tries every format, and one of them runs Ghostscript, unless it is told which to try.
ANY_PICTURE = "a picture of any format"
KEYWORDS = {"shell": False, "allow_pickle": False, "weights_only": True, "check_hostname": True}  # the only safe value


def sources():
    """Every Python file of the project that is not a test."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def dangers(source):
    """What in a source could run what came with a file, or write where an archive says: a set of words."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {f"import {name}" for name in names if name.split(".")[0] in UNPICKLING or name.startswith("yaml")
                  or name == "PIL.Image.open"}
        if isinstance(node, ast.Call):
            found |= _dangerous_call(node)
        if isinstance(node, ast.Attribute) and node.attr == "_create_unverified_context":
            found.add("unverified TLS")
    return found


def openings(source):
    """The files that a source opens or reads and of which it does not ask whether they are regular: a set of words."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        bare = isinstance(node.func, ast.Name) and node.func.id == "open"
        reads = isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "read_bytes")
        if reads or bare and not any(keyword.arg == "opener" for keyword in node.keywords):
            found.add(ast.get_source_segment(source, node.func.value if reads else node.args[0]))
    return found


def _dangerous_call(node):
    found = set()
    bare = isinstance(node.func, ast.Name)
    name = node.func.id if bare else getattr(node.func, "attr", "")
    value = getattr(node.func, "value", None)
    owner = getattr(value, "id", None)
    if name in CALLS and (bare or name not in BUILTIN) and OF.get(name, owner) == owner:
        found.add(name)
    for keyword in node.keywords:
        if keyword.arg in KEYWORDS and getattr(keyword.value, "value", None) is not KEYWORDS[keyword.arg]:
            found.add(f"{keyword.arg}=")
    if name == "open" and "Image" in (owner, getattr(value, "attr", None)) and not any(
            keyword.arg == "formats" and not isinstance(keyword.value, ast.Constant) for keyword in node.keywords):
        found.add(ANY_PICTURE)
    if name == "load" and getattr(value, "attr", None) == "export":
        found.add("torch.export.load")
    # An archive's member may be read, never put where its name says.
    if name == "extract":
        found.add("extract")
    return found


# ---- Archives


def hostile_member(rng):
    """A member that an honest archive does not have: (TarInfo, content or None)."""
    names = ("../outside", "/tmp/faults-outside", "a/../../outside", "./../outside", "..", ".", "", "x" * 300, "a\nb",
             "ünï",
             f"{WORDNET}.tar", f"{WORDNET}_1.JPEG", f"{WORDNET}.tar/x", f"../{WORDNET}.tar", "n99999999.tar",
             "data_batch_1.bin", "cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/../../data_batch_1.bin")
    info = tarfile.TarInfo(rng.choice(names))
    kind = rng.choice(("file", "file", "symlink", "hardlink", "device", "fifo", "folder", "huge", "unknown", "sparse"))
    content = None
    if kind == "file":
        content = mutate.random_bytes(rng, rng.choice((0, 1, 100, 3073)))
        info.size = len(content)
    elif kind in ("symlink", "hardlink"):
        info.type = tarfile.SYMTYPE if kind == "symlink" else tarfile.LNKTYPE
        info.linkname = rng.choice(("../../outside", "/etc/passwd", "data_batch_1.bin", ".", info.name))
    elif kind == "device":
        info.type, info.devmajor, info.devminor = rng.choice((tarfile.CHRTYPE, tarfile.BLKTYPE)), 1, 5
    elif kind == "fifo":
        info.type = tarfile.FIFOTYPE
    elif kind == "folder":
        info.type = tarfile.DIRTYPE
    elif kind == "huge":
        info.size = rng.choice((10**7, 2**33, 2**40))
    elif kind == "sparse":
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 2**40
    else:
        info.type = rng.choice((b"9", b"Z", b"\0"))
    return info, content


def plain(name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def archived(members, mode):
    """The bytes of an archive of (TarInfo, content or None); one that claims more than it has is cut there."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for info, content in members:
            if content is None:
                archive.fileobj.write(info.tobuf())
                archive.offset += len(info.tobuf())
            else:
                archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sound(case):
    """The members of a small honest archive."""
    if case == CIFAR:
        return [plain(f"cifar-10-batches-bin/{name}", cifar_files.binary(cifar_files.random_images(4), np.arange(4)))
                for name in ("data_batch_1.bin", "test_batch.bin")]
    images = [plain(f"{WORDNET}_{number}.JPEG" if case == TRAIN else f"ILSVRC2012_val_0000000{number}.JPEG",
                    b"jpeg" * 50)
              for number in (1, 2)]
    return [plain(f"{WORDNET}.tar", archived(images, "w"))] if case == TRAIN else images


def one(case, rng, folder):
    """One hostile archive: (outcome, detail)."""
    members = sound(case)
    if case == TRAIN and rng.random() < .5:  # within the archive of a class
        inner = [plain(f"{WORDNET}_1.JPEG", b"jpeg"), hostile_member(rng)]
        rng.shuffle(inner)
        members = [plain(f"{WORDNET}.tar", archived(inner, "w"))]
        said = repr(inner[0][0].name)
    else:
        said = []
        for _ in range(rng.choice((1, 1, 2))):
            hostile = hostile_member(rng)
            members.insert(rng.randrange(len(members) + 1), hostile)
            said.append(f"{hostile[0].name[:40]!r} of type {hostile[0].type!r}")
        said = ", ".join(said)
    content = archived(members, "w:gz" if case == CIFAR else "w")
    if rng.random() < .3:
        content, damage = mutate.damaged(content, rng)
        said += f"; {damage}"
    inside = folder / "inside"
    inside.mkdir(parents=True)
    path = inside / ("cifar-10-binary.tar.gz" if case == CIFAR else "archive.tar")
    path.write_bytes(content)
    before = tree(folder)
    try:
        with bounded(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            if case == CIFAR:
                cifar.load("cifar10", inside)
            elif case == TRAIN:
                imagenet_archives.unpack_train(path, inside / "train")
            else:
                imagenet_archives.unpack_val(path, [WORDNET, WORDNET], inside / "val")
        outcome, why = "read", ""
    except InputError as error:
        outcome, why = ("refused", str(error)) if "\n" not in str(error) else (FAULT, "not one sentence")
    except Exception as error:
        return FAULT, f"{said}: {type(error).__name__}: {str(error)[:150]}"
    new = tree(folder) - before
    wrong = {name for name, kind in new if kind != "file" and kind != "folder"
             or not name.startswith(("inside/train", "inside/val"))}
    if wrong or (case == CIFAR and new) or Path("/tmp/faults-outside").exists():
        return FAULT, f"{said}: {sorted(wrong or new)} was written"
    return outcome, f"{said}: {why}"


def tree(folder):
    """{(path, kind)} of everything in a folder, links not followed."""
    found = set()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file" if path.is_file() else "other"
            found.add((str(path.relative_to(folder)), kind))
    return found


def run(rounds, seed, folder):
    for number in range(rounds):
        case = (CIFAR, TRAIN, VAL)[number % 3]
        place = folder / "untrusted" / "deep"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        outcome, detail = one(case, random.Random(f"{seed}/untrusted/{number}"), place)
        yield Round(case, outcome, f"round {number}, {detail}")


THEME = Theme("untrusted", "Archives from strangers", 1200, (
    Case(CIFAR, "it is only read in memory, in one pass, so paths, links, devices and bombs reach no disk; other "
                "members are skipped; a needed member that is no plain file of a possible size is refused"),
    Case(TRAIN, "only plain files with the official names are written, below the given folder; anything else in the "
                "archive is refused"),
    Case(VAL, "the same"),
), run)
