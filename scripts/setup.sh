#!/usr/bin/env bash
# Makes .venv in the repository's root and installs the project's packages into it; see usage below and docs/INSTALL.md.
script=$(readlink -f "${BASH_SOURCE:-$0}") && . "${script%/*}/preamble.sh" || exit

usage() {
    cat <<'END'
usage: bash scripts/setup.sh [--cpu | --gpu | --auto] [--torch] [--dev] [--dry-run] [--quiet]

Makes .venv and installs MXNet 1.9.1, GluonCV, NumPy and matplotlib into it. With the CPU build it also compiles the
fused operators (ops/) for this processor if there is a C++ compiler (g++, or the one that CXX names). Without one
everything works, but more slowly. A second run changes nothing.

  --cpu      the CPU build (requirements-cpu.txt)
  --gpu      the build for NVIDIA GPUs with the CUDA libraries it needs (requirements.txt, about 2.4 GB to download)
  --auto     the GPU build if the NVIDIA driver shows GPUs that it can use, else the CPU build. This is the default, but
             an earlier --cpu or --gpu is kept until this flag. Where MXNet has no build (Apple silicon), it is --torch
  --torch    PyTorch (requirements-torch.txt, its CPU build if there is no NVIDIA GPU): beside MXNet with --cpu, --gpu or
             --auto or if an earlier run has installed MXNet, else in its place
  --dev      also pytest and ruff (requirements-dev.txt)
  --dry-run  print what would be installed and why, and install nothing
  --quiet    print nothing if there is nothing to do

PYTHON=python3.10 bash scripts/setup.sh uses that Python. Otherwise it uses the first of python3, python3.14, ...,
python3.8 that is one of 3.8 to 3.14, else a newer python3, which nobody has tried, else a Python that uv installs, if
there is uv.
END
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

mode="" torch="" dev="" dry_run="" quiet=""
for argument in "$@"; do
    case $argument in
        --cpu | --gpu | --auto) mode=${argument#--} ;;
        --torch) torch=yes ;;
        --dev) dev=yes ;;
        --dry-run) dry_run=yes ;;
        --quiet) quiet=yes ;;
        -h | --help) usage && exit 0 ;;
        *)
            printf "error: unknown argument '%s'; the flags are --cpu, --gpu, --auto, --torch, --dev, --dry-run, --quiet and --help\n" \
                "$argument" >&2
            exit 2
            ;;
    esac
done

cd "$repository"
# An activated .venv must not be what a new .venv is made from.
PATH=${PATH//"$repository/.venv/bin:"/}
[ ! "${VIRTUAL_ENV:-}" -ef .venv ] || PATH=${PATH//"$VIRTUAL_ENV/bin:"/}
unset PYTHONHOME PYTHONPATH PYTHONSAFEPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV

venv_python=.venv/bin/python
marker=.venv/made-by-setup # a .venv without it was made by others and is left alone
stamp=.venv/setup-stamp    # the full list of what was installed; exists only while the installation is complete
dev_stamp=.venv/setup-stamp-dev
torch_stamp=.venv/setup-stamp-torch # PyTorch beside MXNet
choice=.venv/setup-mode    # cpu, gpu or torch if a flag asked for it
log=.venv/setup.log
build_log=.venv/setup-operators.log

# Every start of .venv's Python runs this line, which lets a bare `import mxnet` work (support/import_hook.py). It finds
# the repository as the folder of .venv, does nothing if that is gone, and loads nothing before the import of MXNet.
hook="import os, sys; root = os.path.dirname(sys.prefix); \
os.path.isfile(os.path.join(root, 'support', 'import_hook.py')) and (sys.path.append(root), \
sys.meta_path.insert(0, type('MXNetFinder', (), {'find_spec': staticmethod(lambda name, path=None, target=None: \
__import__('support.import_hook', fromlist=['find_spec']).find_spec(name, path, target) if name == 'mxnet' else None)})))"

# ---- Which Python, which build

newest=314     # the newest Python that this project was tried with
uv_python=3.11 # installed with uv if no Python fits: the one tried most

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

number() { # 3.12 -> 312; anything but a version -> 0
    [[ $1 =~ ^([0-9]+)\.([0-9]+)$ ]] && echo $((100 * BASH_REMATCH[1] + BASH_REMATCH[2])) || echo 0
}

tried() {
    (($(number "$1") >= 308 && $(number "$1") <= newest))
}

newer() {
    (($(number "$1") > newest))
}

take() { # the Python $1, if it passes the test $2
    version=$(version_of "$1")
    "$2" "$version" && python=$1
}

install_python="install one, for example with \`apt-get install python3 python3-venv\`, or install uv, which this script \
then uses (\`uv python install $uv_python\`), or name one: \`PYTHON=/path/to/python3.11 bash scripts/setup.sh\`"

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        take "$PYTHON" tried || take "$PYTHON" newer || {
            [ -n "$version" ] || fail "PYTHON=$PYTHON does not run: give the name or path of a Python 3.8 or newer"
            fail "PYTHON=$PYTHON is Python $version, and this project needs Python 3.8 or newer"
        }
        return
    fi
    for candidate in "$venv_python" python3 python3.{14..8}; do
        ! take "$candidate" tried || return 0
    done
    for candidate in "$venv_python" python3; do
        ! take "$candidate" newer || return 0
    done
    python_of_uv || fail "no Python 3.8 or newer found (python3 is $(version_of python3 | grep . || echo missing)):" \
        "$install_python"
}

# A Python that uv has or fetches.
python_of_uv() {
    command -v uv >/dev/null || return 1
    printf 'no Python 3.8 or newer found: uv brings Python %s\n' "$uv_python"
    [ -z "$dry_run" ] || exit 0
    local output
    output=$(UV_PYTHON_INSTALL_BIN=0 uv python install "$uv_python" 2>&1) || # 0: no link in ~/.local/bin
        fail "\`uv python install $uv_python\` failed: $(tail -n 1 <<<"$output")"
    take "$(UV_PYTHON_PREFERENCE=only-managed uv python find --system "$uv_python")" tried
}

find_python

kept=""
installed=$(cat "$stamp" 2>/dev/null || true)
if [ -z "$mode" ]; then
    mode=auto
    if [ -n "$torch" ] && [ -z "$installed" ]; then
        mode=torch
    elif [ -f "$choice" ]; then
        mode=$(cat "$choice")
        kept="as in an earlier run (--auto decides again), "
    fi
fi
answer=$("$python" -m support.runtime choose "$mode") || exit 1
build=${answer%%$'\n'*}
why=${answer#*$'\n'}
case $build in
    gpu) requirements=requirements.txt what="MXNet's GPU build" ;;
    torch)
        requirements=requirements-torch.txt what="PyTorch without MXNet" torch=""
        (($(number "$version") >= 310)) || fail "PyTorch 2.13 needs Python 3.10 or newer, and $python is $version: name" \
            "another one, as in \`PYTHON=/path/to/python3.11 bash scripts/setup.sh\`"
        ;;
    *) requirements=requirements-cpu.txt what="MXNet's CPU build" ;;
esac
[ ! -f "$torch_stamp" ] || [ "$build" = torch ] || torch=yes # an earlier --torch is kept
summary="$what ($requirements)${torch:+ and PyTorch (requirements-torch.txt)} for Python $version: $kept$why"
untried=""
! newer "$version" || untried="nobody has tried this project with Python $version yet: it gets the newest packages"

if [ -n "$dry_run" ]; then
    printf '%s\n' "$summary" ${untried:+"warning: $untried"}
    exit 0
fi

# ---- One setup at a time

if command -v flock >/dev/null; then
    exec 9<scripts/setup.sh
    if ! flock -n 9; then
        printf 'waiting for another setup that is running here\n'
        flock 9
    fi
fi

# ---- Steps

make_venv() {
    # Not from .venv's own Python, which is removed below.
    if [ "$python" = "$venv_python" ]; then
        PYTHON=$("$venv_python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
        find_python
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: run \`apt-get install python$version-venv\` (Debian, Ubuntu), or name" \
            "another Python: \`PYTHON=/path/to/python3.11 bash scripts/setup.sh\`"
    printf 'making .venv with Python %s\n' "$version"
    rm -rf .venv
    mkdir .venv
    touch "$marker"
    local output
    output=$("$python" -m venv .venv 2>&1) || fail "$python could not make .venv: $(tail -n 1 <<<"$output")"
}

# Pip's output goes to the log; only the large downloads and the unpacking are shown.
show_progress() {
    local line large='(Downloading|Using cached) ([^ -]+-[^ -]+)[^ ]*\.whl \(([0-9]{2,}(\.[0-9]+)? [MG]B)\)'
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        if [[ $line =~ $large ]]; then
            printf '  %s (%s)\n' "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
        elif [[ $line == "Installing collected packages"* ]]; then
            printf '  unpacking\n'
        fi
    done
}

pip() {
    "$venv_python" -m pip install --disable-pip-version-check --no-input --only-binary :all: "$@"
}

# PyTorch's packages on the usual index bring 3 GB of CUDA libraries on Linux; its own index has the CPU build. If that
# cannot be reached, the usual one serves.
cpu_index=https://download.pytorch.org/whl/cpu

# Installs a requirements file. MXNet comes last and without dependencies: its metadata demand a NumPy below 2, which it
# does not need with support/numpy_names.py. The file has its other dependencies.
install_file() {
    local without_mxnet mxnet
    without_mxnet=$(grep -v '^mxnet' "$1")
    if [ "$1" = requirements-torch.txt ] && [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        pip --index-url "$cpu_index" --retries 0 --timeout 15 "$(grep '^torch' "$1")" || true
    fi
    pip -r /dev/stdin <<<"$without_mxnet" || return
    mxnet=$(sed -nE 's/^(mxnet[^ ]*).*/\1/p' "$1")
    [ -z "$mxnet" ] || pip --no-deps "$mxnet"
}

pip_install() {
    local hint
    printf 'installing %s (everything pip says is in %s)\n' "$1" "$log"
    if ! install_file "$1" 2>&1 | show_progress; then
        hint=$(grep -E '^ERROR' "$log" | tail -n 1 || true)
        if grep -qE 'Retrying|NewConnectionError|ProxyError' "$log"; then
            hint="the package index cannot be reached (check the network or the proxy)"
        fi
        # Usually nothing was changed yet; if it was, the next run notices that it does not work.
        [ -z "$installed" ] || printf '%s\n' "$installed" >"$stamp"
        fail "pip could not install $1: ${hint:-see $log}; the whole output is in $log"
    fi
}

install() {
    local packages
    rm -f "$stamp"
    : >"$log"
    if [ -n "$other_build" ]; then
        printf 'removing the other build of MXNet\n'
        packages=$(sed -nE 's/^((mxnet|nvidia-)[^= ]*)==.*/\1/p' requirements.txt requirements-cpu.txt)
        # shellcheck disable=SC2086 - one word for each package
        "$venv_python" -m pip uninstall --yes $packages >>"$log" 2>&1 ||
            fail "pip could not remove it: see $log"
    fi
    pip_install "$requirements"
    printf '%s\n' "$hook" >"$("$venv_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project-root.pth"
}

works() {
    local code=0
    state=$("$venv_python" -m support.runtime check 2>.venv/setup-check.log) || code=$?
    if [ "$code" != 0 ]; then
        state=$(grep '^error: ' .venv/setup-check.log | tail -n 1 || true)
        state=${state:-error: Python ended with code $code as it imported MXNet}
    fi
    return "$code"
}

# Compiles the fused operators if they are not there yet. Nothing depends on them, so a failure is only a warning (in
# `slower`).
build_operators() {
    local plan reason
    plan=$("$venv_python" -c "from ops import build
print('there' if build.sound(build.library()) else 'compile' if build.compiler() else '')" 2>/dev/null || true)
    if [ "$plan" = compile ]; then
        up_to_date=""
        printf 'compiling the fused operators for this processor (up to a minute)\n'
    fi
    if [ "$plan" = there ] || "$venv_python" -m ops.build >"$build_log" 2>&1; then
        state="$state; fused operators"
    else
        reason=$(sed -n 's/^python -m ops.build: //p' "$build_log" | tail -n 1)
        slower="training and evaluation use the plain Gluon operators, which are slower: ${reason:-see $build_log}"
        state="$state; plain Gluon operators"
    fi
}

# ---- The work

wanted="Python $version, $build build"$'\n'"$hook"$'\n'"$(cat "$requirements")"
wanted_dev=$(cat requirements-dev.txt)
[ ! -f "$dev_stamp" ] || dev=yes # an earlier --dev is kept
wanted_torch=$(cat requirements-torch.txt)
installed_torch=$(cat "$torch_stamp" 2>/dev/null || true)
installed_dev=$(cat "$dev_stamp" 2>/dev/null || true)
other_build=""

if [ -e .venv ] && [ ! -e "$marker" ] && [ -n "$(ls -A .venv 2>/dev/null)" ]; then
    fail ".venv is there, but this script did not make it: move it away or delete it, then run this again"
fi

warning=$("$python" -m support.runtime libraries) || exit 1

up_to_date=yes
if [ "$installed" != "$wanted" ]; then
    up_to_date=""
elif ! works; then
    printf '%s\nrepairing .venv\n' "${state#error: }"
    installed="" up_to_date=""
elif [ -n "$dev" ] && [ "$installed_dev" != "$wanted_dev" ] ||
    [ -n "$torch" ] && [ "$installed_torch" != "$wanted_torch" ]; then
    up_to_date=""
fi

if [ -z "$up_to_date" ] || [ -z "$quiet" ]; then
    printf '%s\n' "$summary"
    for line in "$untried" "$warning"; do
        [ -z "$line" ] || printf 'warning: %s\n' "$line"
    done
fi

if [ "$installed" != "$wanted" ]; then
    # Without its stamp, or with another Python, .venv is in an unknown state and is made again.
    fresh=""
    case $installed in
        "Python $version, $build build"*) ;;
        "Python $version, "*) other_build=yes ;;
        *)
            make_venv
            fresh=yes
            ;;
    esac
    install
    if ! works && [ -z "$fresh" ]; then
        printf '%s\nmaking .venv again\n' "${state#error: }"
        installed="" other_build=""
        make_venv
        install
        works || true
    fi
    case $state in error:*) fail "${state#error: }" ;; esac
    printf '%s\n' "$wanted" >"$stamp"
fi

slower=""
[ "$build" != cpu ] || build_operators

[ "$installed" != "$wanted" ] || [ -n "$up_to_date" ] || : >"$log"
# Installs an extra file once: $1, with the stamp $2 for its content $3.
install_extra() {
    [ "$(cat "$2" 2>/dev/null || true)" != "$3" ] || return 0
    pip_install "$1"
    printf '%s\n' "$3" >"$2"
}
[ -z "$torch" ] || install_extra requirements-torch.txt "$torch_stamp" "$wanted_torch"
[ -z "$dev" ] || install_extra requirements-dev.txt "$dev_stamp" "$wanted_dev"

if [ "$mode" = auto ]; then
    rm -f "$choice"
else
    printf '%s\n' "$mode" >"$choice"
fi

if [ -z "$up_to_date" ] || [ -z "$quiet" ]; then
    [ -z "$slower" ] || printf 'warning: %s\n' "$slower"
    printf 'ready%s: %s\n' "${up_to_date:+, nothing to do}" "$state"
    printf 'next: bash scripts/quickstart.sh\n'
fi
