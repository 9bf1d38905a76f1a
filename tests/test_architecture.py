"""The import rule and the habits that a reader would otherwise have to keep in mind, held by reading the sources."""
import ast
import re
import subprocess
import sys
from pathlib import Path

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


def named(path):
    return str(path.relative_to(ROOT))


def test_there_is_something_to_read_and_imports_are_found_wherever_they_stand():
    assert {"model/activation.py", "support/params_file.py", "engine/run.py"} <= {named(path) for path in SOURCES}
    assert imports("import engine.run\nfrom . import flags\nfrom .run import train\nfrom ops import nag\n"
                   "def f():\n    import model.zoo", "engine.cli") == {
        "engine.run", "engine.cli", "engine.cli.run", "ops", "ops.nag", "model.zoo"}


def test_import_rule():
    for path in SOURCES:
        part, package = part_of(path), ".".join(path.relative_to(ROOT).parts[:-1])
        local = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"), package)} & OURS
        assert local <= ALLOWED[part], f"{named(path)} imports {local - ALLOWED[part]}, but may {ALLOWED[part]}"


def test_the_engine_knows_no_framework():
    paths = [path for path in SOURCES if part_of(path) == "engine"]
    for path in paths:
        assert not {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))} & {"mxnet", "torch"}, path
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    code = (f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
            "assert not {'mxnet', 'torch'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_file_fits_the_eye_and_says_what_it_is_for():
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 500 and ast.get_docstring(ast.parse(source)), path


def test_model_parses_no_arguments_sets_up_no_log_and_leaves_files_to_two_modules():
    for path in SOURCES:
        if part_of(path) != "model":
            continue
        source = path.read_text(encoding="utf-8")
        assert not {name.split(".")[0] for name in imports(source)} & {"argparse", "logging", "optparse"}, path
        if path.name not in ("weights.py", "graph_file.py"):
            called = {node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                      for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
            assert not called & {"open", "read_text", "read_bytes", "write_text", "write_bytes", "save_parameters",
                                 "load_parameters"}, path


def test_the_registry_is_read_without_mxnet():
    code = ("import sys, model\nfrom model import registry\nassert 'get_model' in dir(model)\n"
            "registry.complete_arguments('ge_resnet50_v1b', {})\n"
            "print([name for name in ('mxnet', 'numpy', 'model.zoo') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_registry_alone_lists_names_of_units_and_nets():
    """grid.py says which of them the paper's exhibits show."""
    names = {*CIFAR.parts, *IMAGENET.parts, *MODELS}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            listed = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
            found = [item.value for item in listed if isinstance(item, ast.Constant) and item.value in names]
            assert len(found) < 3 or named(path) == "reproduce/grid.py", \
                f"{named(path)}:{node.lineno} lists {found}: read model/registry.py"


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
    assert missing <= {"__init__.py", "checked.py"}, missing
