"""The launcher: its flags, training over the parameter server, and what is left when something dies."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import team_program
import tiny
from launched import Launched

from backend.gluon import distributed
from backend.launch import __main__ as launch
from backend.launch import guard, hosts
from support import runtime
from support.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = str(ROOT / "tests" / "team_program.py")
# What tells the command line of a member; the launcher's own has the program too.
WORKER, SERVER, SCHEDULER = rf"^\S+ {re.escape(PROGRAM)}", "--serve server", "--serve scheduler"
@pytest.fixture
def start():
    """Launched, and at the end of the test nothing that it has started."""
    started = []

    def start(*arguments, **how):
        started.append(Launched(*arguments, **how))
        return started[-1]

    yield start
    for job in started:
        job.clear()


# Flags and hostfiles.

@pytest.mark.parametrize("arguments, part", [
    ([], "-n"), (["-n", "2"], "write it behind --"), (["-n", "2", "--"], "write it behind --"),
    (["-n", "0", "--", "true"], "0 is below 1"), (["-n", "zwei", "--", "true"], "'zwei' is not a whole number"),
    (["-n", "2", "-s", "-1", "--", "true"], "-1 is below 1"), (["-n", "2", "--timeout", "nan", "--", "true"], "finite"),
    (["-n", "2", "--", "no_such.py"], "no program no_such.py"),
    (["-n", "2", "true"], "unknown: true; the program and its flags stand behind --"),
    (["-n", "2", "extra", "--", "true"], "extra"), (["-n", "2", "-H", "/no/such/file", "--", "true"], "cannot be read"),
    (["-n", "2", "--log-dir", "", "--", "true"], "it is empty"), (["-n", "2", "--", "tr\0ue"], "zero byte"),
])
def test_a_wrong_flag_is_one_sentence_and_status_2(arguments, part):
    result = tiny.call(launch.main, *arguments)
    tiny.one_sentence(result, 2, part)
    assert len(result.err.splitlines()) == 1 and not result.out


@pytest.mark.parametrize("text, part", [
    ("", "names no host"), ("# nobody\n\n", "names no host"),
    ("-oProxyCommand=x\n", "'-oProxyCommand=x' is not a host"),
    ("a;b\n", "'a;b' is not a host"), ("$(x)\n", "is not a host"), ("10.0.0.1 slots=0\n", "line 1: 'slots=0'"),
    ("10.0.0.1\n10.0.0.2 slots=x\n", "line 2: 'slots=x'"), ("10.0.0.1 gpus=2\n", "'gpus=2'"),
    ("10.0.0.1 slots=1 slots=2\n", "'slots=2'"), ("a address=1.2.3\n", "'address=1.2.3'"),
    ("a address=1.2.3.4\na address=1.2.3.5\n", "two addresses"), ("no-such-host.invalid\n", "no address is known"),
    ("a address=10.0.0.1\nb address=127.0.0.1\n", "cannot reach"), ("\x00\n", "is not a host"),
])
def test_a_wrong_hostfile_is_one_sentence_and_status_2(text, part, tmp_path):
    file = tmp_path / "hosts"
    file.write_text(text)
    result = tiny.call(launch.main, "-n", 1, "-H", file, "--", "true")
    tiny.one_sentence(result, 2, part, str(file))
    assert len(result.err.splitlines()) == 1


def test_a_hostfile_that_is_no_text_is_one_sentence(tmp_path):
    (tmp_path / "hosts").write_bytes(b"\xff\xfe\x00")
    tiny.one_sentence(tiny.call(launch.main, "-n", 1, "-H", tmp_path / "hosts", "--", "true"), 2, "cannot be read")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="this system has no /dev/zero")
def test_a_hostfile_without_an_end_is_not_read():
    with pytest.raises(hosts.argparse.ArgumentTypeError, match="/dev/zero cannot be read: it is no regular file"):
        hosts.read_hosts("/dev/zero")


def test_slots_and_repeated_lines_are_room_for_workers(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("a address=10.0.0.1 slots=2 # the fast one\n\nme@b address=10.0.0.2\nme@b\n10.0.0.3\n")
    args = launch.parse(["-n", "4", "-H", str(file), "--", "true", "--", "-n"])
    first, second = hosts.Host("a", "10.0.0.1", 2), hosts.Host("me@b", "10.0.0.2", 2)
    assert args.places == [first, first, second, second] and args.used == [first, second] and args.servers == 2
    assert args.command == ["true", "--", "-n"]
    tiny.one_sentence(tiny.call(launch.main, "-n", 6, "-H", file, "--", "true"), 2, "has room for 5")


def test_a_python_program_is_found_here_or_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch.parse(["-n", "1", "--", "train_cifar.py", "-j", "2"]).command == \
        [sys.executable, str(ROOT / "train_cifar.py"), "-j", "2"]
    (tmp_path / "train_cifar.py").touch()
    here = launch.parse(["-n", "1", "--", "train_cifar.py"]).command
    assert here == [sys.executable, str(tmp_path / "train_cifar.py")]
    assert launch.parse(["-n", "1", "--", "nvidia-smi"]).command == ["nvidia-smi"]


def test_stray_variables_do_not_reach_a_member(monkeypatch):
    monkeypatch.setattr(guard.threads, "usable_cores", lambda: 8)
    order = {"environment": {"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "3"}, "peers": 3}
    made = guard.member_environment(order, {"DMLC_ROLE": "server", "DMLC_LOCAL": "1", "PORT": "80", "HOME": "/h"})
    assert made == {"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "3", "HOME": "/h", "PYTHONUNBUFFERED": "1",
                    "OMP_NUM_THREADS": "2"}
    assert guard.member_environment(order, {"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"


def test_a_server_without_mxnet_ends_with_a_sentence(monkeypatch):
    def prepare():
        raise InputError("MXNet is not installed")

    monkeypatch.setattr(runtime, "prepare", prepare)
    result = tiny.call(launch.main, "--serve", "server")
    assert tiny.one_sentence(result, 1) == "backend.launch.__main__.py: MXNet is not installed"


# Training.

def check_training(folder, size):
    """All workers' results are equal, and those of one process on the joined batches."""
    net, meter = team_program.train(distributed.Team("device"), seed=0)
    results = [np.load(folder / f"{rank}.npz") for rank in range(size)]
    for result in results:
        for name, value in tiny.numbers_of(net).items():
            assert (result[f"net.{name}"] == results[0][f"net.{name}"]).all()
            # Not to the bit: a server adds what three workers send in the order in which it comes.
            np.testing.assert_allclose(result[f"net.{name}"], value, rtol=0, atol=1e-5, err_msg=name)
        assert result["images"] == meter.images == team_program.BATCH * team_program.STEPS
        assert result["loss_sum"] == pytest.approx(meter.loss_sum, rel=1e-6)
        assert (result["total"] == [1e9 * size + size + sum(range(size)), 1e-300 * size, np.sum([-.1] * size)]).all()
        assert (result["each"] == np.array([[rank, np.pi] for rank in range(size)], np.float32)).all()
        assert result["agreed"] == "å0" and list(result["any"]) == [True, False]


def test_two_workers_and_a_server_train_as_one_process_does_whatever_the_environment_holds(start, tmp_path):
    stray = {"PORT": "80", "DMLC_ROLE": "server", "DMLC_NUM_WORKER": "7", "DMLC_PS_ROOT_URI": "10.9.8.7",
             "DMLC_LOCAL": "1", "DMLC_INTERFACE": "nonesuch", "DMLC_TASK_ID": "5"}
    job = start("-n", 2, "--", PROGRAM, "train", tmp_path, environment=stray)
    assert job.end() == 0, job.text()
    assert sorted(job.out) == ["worker 0 | 0 of 2, []\n", "worker 1 | 1 of 2, []\n"]
    check_training(tmp_path, 2)
    assert job.nothing_is_left()


def test_three_workers_with_two_servers_and_another_spelling(start, tmp_path):
    job = start("-n", 3, "-s", 2, "--", PROGRAM, "train", tmp_path, "dist_sync")
    assert job.end() == 0, job.text()
    check_training(tmp_path, 3)


def test_members_lines_stay_whole_and_a_progress_bar_leaves_its_last_state(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "lines", tmp_path)
    assert job.end() == 0, job.text()
    for rank in (0, 1):
        own = [line for line in job.out if line.startswith(f"worker {rank} | ")]
        assert own == [f"worker {rank} | {line}\n" for line in
                       [*(f"line {number} " + 500 * "x" for number in range(200)), "bar 3", "of standard error"]]
    assert len(job.out) == 2 * 202


def test_local_members_listen_on_the_loopback_alone(start, tmp_path):
    job = start("-n", 2, "--log-dir", tmp_path / "logs", "--", PROGRAM, "work", tmp_path)
    job.until(lambda: any("all 2 workers have joined" in line for line in job.err))
    assert len(job.processes(WORKER)) == 2
    inodes = {os.readlink(link) for process in job.processes() for link in Path(f"/proc/{process}/fd").iterdir()
              if link.is_symlink()}
    listening = [line.split() for table in ("tcp", "tcp6") if Path(f"/proc/net/{table}").exists()
                 for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    addresses = [fields[1].split(":")[0] for fields in listening
                 if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes]
    assert len(addresses) == 4 and set(addresses) == {"0100007F"}  # two workers, a server, the scheduler

    # And asked to stop, the workers save and leave; their output is in the files.
    logs = tmp_path / "logs"
    job.until(lambda: (logs / "worker-0.log").read_text() == (logs / "worker-1.log").read_text() == "at work\n")
    job.process.send_signal(signal.SIGTERM)
    assert job.end() == 128 + signal.SIGTERM, job.text()
    assert (tmp_path / "saved").exists() and not job.out and job.sentence() == "launch.sh: all workers have left"
    assert job.nothing_is_left() and len(list(logs.iterdir())) == 4


# Deaths.

@pytest.mark.parametrize("victim, name", [(WORKER, "worker "), (SERVER, "server 0"), (SCHEDULER, "scheduler")])
def test_a_killed_member_ends_the_job_with_a_sentence(victim, name, start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "work", tmp_path)
    job.until_at_work()
    dead = job.processes(victim)[-1]
    started = time.monotonic()
    os.kill(dead, signal.SIGKILL)
    assert job.end() == 128 + signal.SIGKILL, job.text()
    assert time.monotonic() - started < 20
    assert job.sentence().startswith(f"launch.sh: {name}")
    assert job.sentence().endswith("on 127.0.0.1 was killed by SIGKILL: the job is ended")
    assert job.nothing_is_left()


def test_a_killed_guard_takes_its_member_and_the_job_with_it(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "work", tmp_path)
    job.until_at_work()
    guard = int(Path(f"/proc/{job.processes(WORKER)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    assert job.end() == 128 + signal.SIGKILL, job.text()
    assert "was lost: its guard was killed by SIGKILL" in job.sentence()
    assert job.nothing_is_left()


def test_a_killed_launcher_leaves_nothing_behind_and_the_workers_save(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "work", tmp_path)
    job.until_at_work()
    job.process.kill()
    assert job.nothing_is_left(20)
    assert (tmp_path / "saved").exists()


def test_a_second_signal_ends_everything_at_once(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "work", tmp_path)
    job.until_at_work()
    job.process.send_signal(signal.SIGINT)
    job.until(lambda: any("save and leave" in line for line in job.err))
    job.process.send_signal(signal.SIGINT)
    assert job.end() == 128 + signal.SIGINT and job.sentence() == "launch.sh: ended at once"
    assert not (tmp_path / "saved").exists() and job.nothing_is_left()


def test_a_worker_that_is_asked_to_stop_takes_the_others_along(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "work", tmp_path)
    job.until_at_work()
    os.kill(job.processes(WORKER)[-1], signal.SIGTERM)
    assert job.end() == 128 + signal.SIGTERM, job.text()
    assert (tmp_path / "saved").exists() and job.sentence() == "launch.sh: all workers have left"
    assert job.nothing_is_left()


def test_a_workers_fault_is_the_jobs(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "fail", tmp_path)
    assert job.end() == 1, job.text()
    assert "worker 1 | team_program.py: the second worker has a fault\n" in job.out
    assert job.sentence() == "launch.sh: worker 1 on 127.0.0.1 ended with exit status 1: the job is ended"
    assert job.nothing_is_left()


def test_a_worker_that_leaves_early_does_not_let_the_others_wait_for_ever(start, tmp_path, monkeypatch):
    code = "from backend.launch import __main__, job; job.STRAGGLER_GRACE = 1; raise SystemExit(__main__.main())"
    made = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code, "-n", "2", "--", PROGRAM, "leave", str(tmp_path)], env=made,
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == ("launch.sh: worker 1 on 127.0.0.1 has ended, but others were still at "
                                              "work 1 s later: the job is ended")


def test_an_output_that_nobody_reads_any_more_ends_the_job(start):
    job = start("-n", 1, "--", "sh", "-c", "while :; do echo line; sleep .1; done")
    job.until(lambda: job.out)
    job.reading.clear()
    assert job.end() == 1
    assert job.sentence() == "launch.sh: the output: Broken pipe; the job is ended" and job.nothing_is_left()


def test_a_signal_before_anything_is_ready_ends_the_job(start):
    job = start("-n", 1, "--", "sleep", "100")
    job.until(lambda: job.err)
    job.process.send_signal(signal.SIGHUP)
    assert job.end() == 128 + signal.SIGHUP
    assert job.sentence() == "launch.sh: all workers have left" and job.nothing_is_left()


def test_a_log_that_cannot_be_written_is_a_sentence(start, tmp_path):
    (tmp_path / "file").touch()
    job = start("-n", 1, "--log-dir", tmp_path / "file", "--", "true")
    assert job.end() == 1 and "--log-dir" in job.err[-1] and "cannot be made: File exists" in job.err[-1]
    (tmp_path / "logs" / "scheduler.log").mkdir(parents=True)
    job = start("-n", 1, "--log-dir", tmp_path / "logs", "--", "true")
    assert job.end() == 127 and "scheduler on 127.0.0.1 cannot be started: [Errno 21] Is a directory" in job.sentence()


def test_a_failure_names_the_file_that_has_the_members_output(start, tmp_path):
    job = start("-n", 1, "--log-dir", tmp_path, "--", "sh", "-c", "echo why; exit 3")
    assert job.end() == 3
    assert job.sentence() == (f"launch.sh: worker 0 on 127.0.0.1 ended with exit status 3: the job is ended (its "
                              f"output: {tmp_path}/worker-0.log)")
    assert (tmp_path / "worker-0.log").read_text() == "why\n"


def test_workers_that_never_join_end_the_job_after_the_timeout(start, tmp_path):
    job = start("-n", 2, "--timeout", 2, "--", "sleep", "100")
    assert job.end() == 1
    assert "0 of 2 workers have joined (not yet: worker 0 on 127.0.0.1, worker 1 on 127.0.0.1)" in job.sentence()
    assert job.nothing_is_left()


def test_a_program_that_cannot_be_run_is_a_sentence(start):
    job = start("-n", 1, "--", "/no/such/program")
    assert job.end() == 127
    assert job.sentence() == ("launch.sh: worker 0 on 127.0.0.1 cannot be started: /no/such/program: No such file or "
                              "directory")
    assert job.nothing_is_left()


def test_a_worker_alone_may_do_without_the_servers(start, tmp_path):
    job = start("-n", 1, "--", PROGRAM, "train", tmp_path, "device")
    assert job.end() == 0, job.text()
    check = np.load(tmp_path / "0.npz")
    assert check["images"] == team_program.BATCH * team_program.STEPS and job.nothing_is_left()


def test_several_workers_that_would_each_train_alone_are_refused(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "train", tmp_path, "device")
    assert job.end() == 1
    assert any("--kvstore device is for one worker; with scripts/launch.sh give --kvstore dist_sync_device" in line
               for line in job.out), job.text()


def test_a_server_refuses_an_optimizer(start, tmp_path):
    job = start("-n", 2, "--", PROGRAM, "optimizer", tmp_path)
    assert job.end() == 1, job.text()
    assert "server 0 | server: refused command 0, which would unpickle what a worker has sent\n" in job.out
    assert job.sentence() == "launch.sh: server 0 on 127.0.0.1 ended with exit status 1: the job is ended"
    assert not (tmp_path / "went on").exists() and job.nothing_is_left()


# Over ssh.

@pytest.fixture
def fake_ssh(tmp_path):
    """A folder with an `ssh` that notes its arguments and runs the command here, in another folder and session."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(f"""#!/bin/sh
printf '%s\\n' "$*" >>{shlex.quote(str(folder / 'calls'))}
while [ "${{1#-}}" != "$1" ]; do case $1 in -o) shift 2 ;; *) shift ;; esac; done
[ "$1" = 127.0.0.9 ] && {{ echo 'ssh: connect to host 127.0.0.9 port 22: Connection refused' >&2; exit 255; }}
shift
unset PYTHONPATH CUDA_VISIBLE_DEVICES
cd / && setsid sh -c "$*"
""")
    (folder / "ssh").chmod(0o755)
    return folder


def test_over_ssh_the_same_training(start, tmp_path, fake_ssh):
    work = tmp_path / "a folder with 'quotes' & $signs"
    work.mkdir()
    (work / "hosts").write_text("me@127.0.0.2\nlocalhost slots=2\n")
    job = start("-n", 2, "-H", "hosts", "-s", 1, "--", PROGRAM, "train", ".", folder=work,
                environment={"FIRST": str(fake_ssh), "PORT": "80", "DMLC_ROLE": "server"})
    assert job.end() == 0, job.text()
    check_training(work, 2)
    calls = (fake_ssh / "calls").read_text().splitlines()
    assert len(calls) == 4 and all("BatchMode=yes" in call for call in calls)
    assert sum(" me@127.0.0.2 cd " in call for call in calls) == 3  # scheduler, server, worker 0
    assert sum(" localhost cd " in call for call in calls) == 1
    assert job.nothing_is_left(5)


@pytest.mark.parametrize("how", ["worker", "launcher", "connection"])
def test_over_ssh_nothing_is_left_either(how, start, tmp_path, fake_ssh):
    (tmp_path / "hosts").write_text("127.0.0.1 slots=2\n")
    job = start("-n", 2, "-H", tmp_path / "hosts", "--", PROGRAM, "work", tmp_path,
                environment={"FIRST": str(fake_ssh)})
    job.until_at_work()
    victim = {"worker": job.processes(WORKER)[-1], "launcher": job.process.pid,
              "connection": job.processes(re.escape(str(fake_ssh / "ssh")))[-1]}[how]
    os.kill(victim, signal.SIGKILL)
    assert job.end() != 0
    if how == "worker":
        assert job.sentence().endswith("on 127.0.0.1 was killed by SIGKILL: the job is ended")
    if how == "connection":
        assert "was lost: ssh was killed by SIGKILL" in job.sentence()
    assert job.nothing_is_left(20)


def test_a_machine_that_cannot_be_reached_is_named(start, tmp_path, fake_ssh):
    (tmp_path / "hosts").write_text("127.0.0.9\n")
    job = start("-n", 1, "-H", tmp_path / "hosts", "--", "true", environment={"FIRST": str(fake_ssh)})
    assert job.end() == 255
    assert job.sentence() == ("launch.sh: scheduler on 127.0.0.9 was lost: ssh ended with exit status 255 (ssh: "
                              "connect to host 127.0.0.9 port 22: Connection refused): the job is ended")


def test_an_address_that_is_another_machines_is_named(start, tmp_path, fake_ssh):
    (tmp_path / "hosts").write_text("somewhere address=192.0.2.1\n")
    job = start("-n", 1, "-H", tmp_path / "hosts", "--", "true", environment={"FIRST": str(fake_ssh)})
    assert job.end() == 127
    assert "scheduler on somewhere cannot be started: 192.0.2.1 is no address of its machine" in job.sentence()


def test_a_guard_that_hears_nothing_over_ssh_ends_its_member(tmp_path):
    code = "from backend.launch import guard; guard.SILENCE = guard.ORPHAN_GRACE = 1; guard.Guard().run()"
    order = {"role": "server", "environment": {}, "address": "127.0.0.1", "peers": 1, "remote": True,
             "command": ["sleep", "100"]}
    guard = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, cwd=ROOT, stderr=subprocess.PIPE)
    guard.stdin.write(json.dumps(order).encode() + b"\n")
    guard.stdin.flush()  # and stays open
    assert guard.wait(20) == -signal.SIGKILL
    guard.stdin.close()
    guard.stderr.close()
