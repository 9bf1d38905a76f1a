"""The scripts' common beginning: the repository is found from everywhere, by every shell."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (ROOT / "scripts").glob("*.sh") if path.name != "preamble.sh")
PREAMBLE = 'script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit'


def code(path):
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_begins_with_the_preamble_and_none_finds_the_repository_itself(path):
    first, *rest = code(path)
    assert first == PREAMBLE
    assert not [line for line in rest if "BASH_SOURCE" in line or "$(dirname" in line]


@pytest.fixture
def probe(tmp_path):
    """A repository with a script that says what the preamble found; beside it links and a CDPATH that mislead."""
    scripts = tmp_path / "a repository" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "preamble.sh", scripts)
    # A process substitution is bash's own, and not in its POSIX mode before 5.1.
    (scripts / "probe.sh").write_text(f'#!/usr/bin/env bash\n{PREAMBLE}\ncd "$repository"\n'
                                      'cat <(printf "%s|" "$PWD" "$repository" "$@")\nfalse\necho not reached\n')
    (scripts / "probe.sh").chmod(0o755)
    for decoy in ("scripts", "bin", "a repository"):
        (tmp_path / "decoys" / decoy).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "first").symlink_to("../linked/scripts/probe.sh")
    (tmp_path / "bin" / "second").symlink_to("first")
    (tmp_path / "linked").symlink_to(scripts.parent)
    return scripts.parent


@pytest.mark.parametrize("shell", ["", "bash", "bash --posix", "sh"])
@pytest.mark.parametrize("folder, name", [
    (".", "a repository/scripts/probe.sh"), ("a repository", "scripts/probe.sh"),
    ("a repository/scripts", "./probe.sh"), ("a repository/scripts", "probe.sh"),
    ("bin", "../bin/second"), ("linked", "scripts/probe.sh"), ("/", "")])
def test_the_repository_is_found(probe, shell, folder, name):
    command = name or str(probe / "scripts" / "probe.sh")
    if not shell and "/" not in command:
        command = "./" + command
    done = subprocess.run([*shell.split(), command, "an argument", ""], cwd=probe.parent / folder, text=True,
                          capture_output=True, env={**os.environ, "CDPATH": f"{probe.parent}/decoys:."})
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{probe}|{probe}|an argument||", "")


@pytest.mark.parametrize("script, flag", [("table3.sh", "--only"), ("download_params.sh", "--mirror"),
                                          ("prepare_imagenet.sh", "--val-labels"),
                                          ("setup.sh", "--dry-run")])
def test_the_scripts_themselves_work_by_a_link_in_sh_and_with_a_cdpath(tmp_path, script, flag):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "link").symlink_to(ROOT / "scripts" / script)
    done = subprocess.run(["sh", "link", "--help"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "CDPATH": str(tmp_path)})
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: ") and flag in done.stdout
