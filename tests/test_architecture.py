"""The import rule and the habits that a reader would otherwise have to keep in mind, held by reading the sources."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from model.registry import CIFAR, IMAGENET, MODELS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("model", "engine", "backend", "ops", "support", "reproduce")
NOBODY = {"scripts", "tests", "benchmarks", "tools"}
# What each part may import of the repository. The programs at the top hand backend and model to engine/.
ALLOWED = {
    "support": {"support"},
    "ops": {"ops", "support"},
    "model": {"model", "ops", "support"},
    "engine": {"engine", "support"},
    "backend": {"backend", "engine", "model", "ops", "support"},
    "reproduce": {"reproduce", "evaluate", "backend", "engine", "model", "support"},
    "script": {"backend", "engine", "model", "ops", "support"},
}
OURS = set(PACKAGES) | NOBODY | {path.stem for path in ROOT.glob("*.py")}
UNPICKLING = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")) + sorted(ROOT.glob("*.py"))


def part_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else "script"


def imports(source, package=""):
    """Every module that a source imports, in full, functions' own imports too; package resolves relative ones."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package.split(".")[:len(package.split(".")) - node.level + 1]
                found.add(".".join(base + ([node.module] if node.module else [])))
            else:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dangers(source):
    """What could run code that came with a file or a command line, as sentences."""
    found = [f"imports {name}" for name in imports(source) if name.split(".")[0] in UNPICKLING]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("eval", "exec", "compile") and isinstance(node.func, ast.Name):
            found.append(f"calls {called}()")
        if called in ("extractall", "load_states"):  # of tarfile and zipfile; of Trainer, which unpickles
            found.append(f"calls .{called}()")
        if called in ("system", "popen") and getattr(getattr(node.func, "value", None), "id", "") == "os":
            found.append(f"calls os.{called}()")
        for keyword in node.keywords:
            if keyword.arg in ("shell", "allow_pickle") and getattr(keyword.value, "value", True) is not False:
                found.append(f"passes {keyword.arg}={ast.dump(keyword.value)}")
    return found


def named(path):
    return str(path.relative_to(ROOT))


def test_there_is_something_to_read():
    assert {part_of(path) for path in SOURCES} >= {"model", "engine", "ops", "support"}
    assert {"model/activation.py", "support/params_file.py", "engine/run.py"} <= {named(path) for path in SOURCES}


@pytest.mark.parametrize("source, found", [
    ("import engine.run", {"engine.run"}),
    ("from engine import run", {"engine", "engine.run"}),
    ("from . import run", {"engine"}),
    ("from .run import train", {"engine.run"}),
    ("def f():\n    from model.zoo import get_model", {"model.zoo", "model.zoo.get_model"}),
])
def test_imports_are_found_wherever_they_stand(source, found):
    assert imports(source, "engine") == found


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "def f():\n    import marshal", "eval('1')", "exec(x)",
    "import subprocess\nsubprocess.run('ls', shell=True)", "import subprocess\nsubprocess.run('ls', shell=flag)",
    "archive.extractall()", "trainer.load_states(path)", "import os\nos.system('ls')", "np.load(x, allow_pickle=True)"])
def test_dangers_are_found(source):
    assert dangers(source)


def test_what_only_looks_dangerous_is_left_alone():
    assert not dangers("net.eval()\nre.compile('x')\nsubprocess.run(['ls'], shell=False)\nimport pickletools")


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_import_rule(path):
    part = part_of(path)
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    local = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"), package)} & OURS
    assert not local & NOBODY, f"{named(path)} imports {local & NOBODY}, which nobody does"
    assert local <= ALLOWED[part], f"{named(path)} imports {local - ALLOWED[part]}; {part} may import {ALLOWED[part]}"


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) == "engine"], ids=named)
def test_the_engine_knows_no_framework(path):
    assert not {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))} & {"mxnet", "torch"}


def test_every_module_of_the_engine_is_imported_without_a_framework():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES if part_of(path) == "engine"]
    code = (f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
            "assert not {'mxnet', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_fits_the_eye(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 500


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) == "model"], ids=named)
def test_model_parses_no_arguments_sets_up_no_log_and_only_weights_reads_files(path):
    source = path.read_text(encoding="utf-8")
    assert not {name.split(".")[0] for name in imports(source)} & {"argparse", "logging", "optparse"}
    if path.name not in ("weights.py", "fused.py"):  # a fused net hands these calls on to its net
        called = {node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                  for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
        assert not called & {"open", "read_text", "read_bytes", "write_text", "write_bytes", "save_parameters",
                             "load_parameters"}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_nothing_runs_code_out_of_data(path):
    assert not dangers(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_registry_is_read_without_mxnet():
    code = ("import sys, model\nfrom model import registry\nassert 'get_model' in dir(model)\n"
            "registry.complete_arguments('ge_resnet50_v1b', {})\n"
            "print([name for name in ('mxnet', 'numpy', 'model.zoo') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("path", [path for path in SOURCES if named(path) != "reproduce/grid.py"], ids=named)
def test_the_registry_alone_lists_names_of_units_and_nets(path):
    """grid.py says which of them the paper's exhibits show."""
    names = {*CIFAR.parts, *IMAGENET.parts, *MODELS}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        listed = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        found = [item.value for item in listed if isinstance(item, ast.Constant) and item.value in names]
        assert len(found) < 3, f"{named(path)}:{node.lineno} lists {found}: read model/registry.py"


def test_the_page_on_the_architecture_names_what_there_is():
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = page.split("```")[1]
    folder, named_there = "", set()
    for line in tree.splitlines():
        words = line.split("   ")[0].split() if not line.startswith(" ") else line.strip().split("  ")[0].split()
        if words and words[0].endswith("/") and not line.startswith(" "):
            folder = words[0]
            named_there |= {word for word in words if word.endswith("/")}
        elif words:
            named_there |= {f"{folder if line.startswith(' ') else ''}{word}" for word in words}
    for name in {*named_there, *re.findall(r"`((?:model|engine|backend|tests|ops|docs)/[\w/.]+)`", page)}:
        assert (ROOT / name).exists() or list(ROOT.glob(name)), name
    missing = {path.parts[1] for path in (path.relative_to(ROOT) for path in SOURCES)
               if len(path.parts) == 2 and path.parts[0] in ("model", "engine", "backend")} - set(tree.split())
    assert missing <= {"__init__.py", "checked.py", "graph.py"}, missing
