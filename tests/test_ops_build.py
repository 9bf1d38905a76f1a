"""Compiling the fused operators: what the library's name stands for, and every way in which it can fail."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import fused_nets
import pytest

from ops import build
from support.errors import InputError

# A build in a process of its own, into a folder of its own.
BUILD = """
import sys
from pathlib import Path
from ops import build
build.BUILT = Path(sys.argv[1])
build.build(again=True)
"""


@pytest.fixture
def built(tmp_path, monkeypatch):
    """An empty folder in the place of ops/built."""
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    return build.BUILT


@pytest.fixture
def compiler(tmp_path, monkeypatch, fused_operators):
    """CXX: a script in the compiler's place that takes no time, as it hands out the library that is there."""
    script, library = tmp_path / "c++", build.HERE / "built" / build.library().name
    script.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho >> "{tmp_path}/calls"\n'
                      f'exec cp "{library}" "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return tmp_path / "calls"


def refused(said):
    with pytest.raises(InputError) as caught:
        build.build()
    assert said in str(caught.value) and "\n" not in str(caught.value)


# The name.

def test_the_name_is_that_of_this_machine_and_these_sources(monkeypatch, tmp_path):
    expected = build.library()
    assert build.library() == expected != build.library(sanitized=True)
    monkeypatch.setattr(build, "instruction_sets", lambda: "avx2 fma")
    other = build.library()
    assert other != expected
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    assert build.library() not in (expected, other)


def test_the_name_changes_with_any_source_and_with_mxnet(monkeypatch, tmp_path):
    sources, mxnet = tmp_path / "src", tmp_path / "mxnet"
    for folder in (sources, mxnet / "include/mxnet", mxnet / "src"):
        folder.mkdir(parents=True)
    files = [sources / "operators.cc", sources / "unit.h", mxnet / "include/mxnet/lib_api.h", mxnet / "src/lib_api.cc"]
    for file in files:
        file.write_text("int x;")
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setattr(build, "mxnet_folder", lambda: mxnet)
    names = {build.library()}
    for file in files:
        file.write_text("int y;")
        names.add(build.library())
    (sources / "more.h").write_text("")
    names.add(build.library())
    assert len(names) == len(files) + 2


def test_instruction_sets_are_words_in_an_order_of_their_own():
    found = build.instruction_sets().split()
    assert found == sorted(found)


# Failures.

def test_without_a_compiler(built, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    refused("there is no C++ compiler (no-such-compiler not found): install one")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("there is no C++ compiler (g++ not found): install one")
    assert not built.exists()


@pytest.mark.parametrize("name", ["  ", "'g++", "g++\\"])
def test_a_compiler_that_is_no_command(built, monkeypatch, name):
    monkeypatch.setenv("CXX", name)
    refused("install one")


def test_a_compiler_that_fails(built, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    refused("false could not compile the operators: it ended with status 1 and no message")
    assert list(built.iterdir()) == []


def test_a_compiler_with_arguments(built, compiler, monkeypatch):
    monkeypatch.setenv("CXX", f"env {os.environ['CXX']} -fno-such-flag")
    assert build.build()[1]


@pytest.mark.skipif(build.compiler() is None, reason="there is no C++ compiler")
def test_the_sentence_is_the_compilers_first_error(built, monkeypatch, tmp_path):
    (tmp_path / "operators.cc").write_text('#include "mxnet/no_such_file.h"\n')
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    refused("no_such_file.h: No such file or directory")
    assert list(built.iterdir()) == []


@pytest.mark.parametrize("content, said", [("not a library", "the compiled operators do not work here"),
                                           ("", "the compiled operators do not work here")])
def test_a_library_that_does_not_work_is_not_kept(built, monkeypatch, tmp_path, content, said):
    script = tmp_path / "c++"
    script.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\nprintf "{content}" > "$2"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    refused(said)
    assert list(built.iterdir()) == []


def test_a_compiler_that_crashes_or_writes_nothing(built, monkeypatch, tmp_path):
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    refused("could not compile")
    script.write_text("#!/bin/sh\nexit 0\n")
    refused("the compiled operators do not work here")


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "built"):
        monkeypatch.setattr(build, "BUILT", folder)
        monkeypatch.setenv("CXX", "true")
        refused(f"the operators cannot be built in {folder}: ")


def test_without_mxnet(monkeypatch):
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    refused("MXNet is not installed for")


def test_the_command_says_what_is_wrong_in_one_line():
    done = subprocess.run([sys.executable, "-m", "ops.build", "--again"], cwd=fused_nets.ROOT,
                          env={**os.environ, "CXX": "no-such-compiler"}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("python -m ops.build: there is no C++ compiler") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("word", ["--nonsense", "a\nb"])
def test_a_wrong_flag_is_one_line_and_status_2(capsys, word):
    with pytest.raises(SystemExit) as caught:
        build.main([word])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and error.startswith("python -m ops.build: unrecognized")


# What is left when it ends well.

def test_it_compiles_once_and_again_when_asked(built, compiler):
    path, now = build.build()
    assert now and path == build.library() and list(built.iterdir()) == [path]
    assert build.build() == (path, False)
    assert build.build(again=True) == (path, True)
    assert len(compiler.read_text()) == 2


def test_older_libraries_go_and_others_stay(built, compiler):
    built.mkdir()
    machine = build.library().name.rpartition("-")[0]
    kept = {"fused-other-0000.so", "sanitized-0000.so", "notes.txt"}  # another machine's, another kind's, someone's
    for name in kept | {f"{machine}-0000.so"}:
        (built / name).touch()
    path, _ = build.build()
    assert {file.name for file in built.iterdir()} == {path.name} | kept


def test_builds_at_the_same_time(built, compiler):
    built.mkdir()
    for number in range(20):  # for all of them to take away
        (built / f"{build.library().name.rpartition('-')[0]}-{number}.so").touch()
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: fused_nets.run(BUILD, built), range(3)))
    assert [one.returncode for one in done] == [0] * 3, [one.stderr for one in done]
    assert [file.name for file in built.iterdir()] == [build.library().name]


def test_another_build_ends_while_this_one_is_trying_its_library(built, compiler, monkeypatch):
    run, others = subprocess.run, []

    def while_another_ends(command, **settings):
        if command[0] == sys.executable and not others:  # the trial, with the library under a name of its own
            others.append(fused_nets.run(BUILD, built))
            assert others[0].returncode == 0, others[0].stderr
        return run(command, **settings)

    monkeypatch.setattr(build, "subprocess", Replaced(while_another_ends))
    path, now = build.build()
    assert now and others and list(built.iterdir()) == [path]


class Replaced:
    """The module subprocess with another run()."""

    DEVNULL = subprocess.DEVNULL

    def __init__(self, run):
        self.run = run
