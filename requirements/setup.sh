#!/bin/sh
# Builds .venv: `sh requirements/setup.sh uv|pipeline|ray|development`, as the Makefile does.
# With VENV=FOLDER the environment is there instead, as in the pipeline's image.
#
# Says nothing when there is nothing to do. What was interrupted or failed is put
# right by the next run. Every way to fail ends in one sentence; the tool's own
# words stay in .venv/setup.log.
set -eu
cd "$(dirname -- "$0")/.."
unset PYTHONDONTWRITEBYTECODE PYTHONHOME

wanted=$1
venv=${VENV:-.venv}
python=$venv/bin/python
uv=$venv/bin/uv
log=$venv/setup.log
unfinished=$venv/.unfinished # there while packages are being installed
started=$(date +%s)

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

# The version of a Python, as `3.11.7`; nothing if it cannot run.
version() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}

supported() {
    case $1 in 3.11.* | 3.12.* | 3.13.*) return 0 ;; *) return 1 ;; esac
}

# Sets `base`, the Python to build with: the one named by PYTHON, else the first that fits.
find_python() {
    base='' found=''
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
    for name; do
        number=$(version "$name")
        if supported "$number"; then
            base=$name
            return
        fi
        [ -n "$found" ] || [ -z "$number" ] || found="$name is Python $number"
    done
    advice="this project needs Python 3.11, 3.12 or 3.13: name one with 'make PYTHON=python3.12'."
    if [ -n "$found" ]; then fail "$found, but $advice"; fi
    if [ -n "${PYTHON:-}" ]; then fail "'$PYTHON' does not run as a Python; $advice"; fi
    fail "there is no Python on the PATH; $advice"
}

# One sentence for what the log tells, with what to do about it.
explain() {
    tell() { fail "$1; $2 (all details: $log)."; }
    if grep -qiE 'no space left|disk quota' "$log"; then
        tell "$1: the disk is full" "free some space (about 3 GB are needed) and run make again"
    elif grep -qiE 'permission denied|read-only file system' "$log"; then
        tell "$1: a file cannot be written" "check who owns this folder and the package cache"
    elif grep -qiE 'do not match the hashes|hash mismatch' "$log"; then
        tell "$1: a package is not the one that was locked" "check the mirror or proxy it came from"
    elif grep -qiE 'connect|timed? ?out|dns|resolve host|proxy|certificate|failed to fetch|request failed|could not find a version' "$log"; then
        tell "$1: the package index cannot be reached or lacks a package" \
            "check the network and any proxy or index settings, then run make again"
    fi
    tell "$1" "the last message was: $(tail -n 1 "$log")"
}

make_environment() {
    find_python
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$base cannot make virtual environments; install its venv module (on Debian and Ubuntu: apt install python3-venv)."
    echo "Making $venv with Python $(version "$base") ..."
    { rm -rf "$venv" && mkdir "$venv"; } || fail "the folder $venv cannot be written here."
    "$base" -m venv "$venv" >"$log" 2>&1 || explain "The environment $venv could not be made"
}

install_uv() {
    echo "Installing uv, which installs the rest ..."
    "$python" -c 'import pip' >"$log" 2>&1 || "$python" -m ensurepip --upgrade >>"$log" 2>&1 ||
        explain "pip could not be set up"
    "$python" -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall \
        --only-binary :all: --require-hashes -r requirements/uv.txt >"$log" 2>&1 ||
        explain "uv could not be installed"
    # Relocatable: the folder may be renamed or moved.
    "$uv" venv --quiet --relocatable --allow-existing --python "$python" "$venv" >"$log" 2>&1 ||
        explain "uv could not prepare $venv"
}

# Installs requirements/$1.txt and shows the large downloads; a copy of that file is its stamp.
install() {
    again=''
    if [ -e "$unfinished" ]; then again=--reinstall; fi
    other='' # the TensorFlow that goes: both are the folder `tensorflow`
    if [ "$1" = gpu ]; then other=tensorflow-cpu; elif [ -e "$venv/.gpu" ]; then other=tensorflow; fi
    rm -f "$venv/.gpu"
    [ "$1" = gpu ] || rm -f "$venv/.pipeline" "$venv/.ray" "$venv/.development"
    : >"$unfinished"
    [ -z "$other" ] || "$uv" pip uninstall --quiet --python "$python" "$other" >"$log" 2>&1 ||
        explain "$other could not be removed"
    { "$uv" pip install --python "$python" --require-hashes --compile-bytecode $again \
        -r "requirements/$1.txt" 2>&1 && rm "$unfinished"; } |
        tee "$log" | while IFS= read -r line; do
        case $line in
        Downloading* | Prepared*) echo "$line" ;;
        Installed*) echo "$line; compiling them to bytecode, a minute or two ..." ;;
        esac
    done
    if [ -e "$unfinished" ]; then explain "The packages could not be installed"; fi
    cp "requirements/$1.txt" "$venv/.$1"
    echo "The environment is complete, after $(($(date +%s) - started)) s."
}

command -v git >/dev/null || fail "git is not installed, but DVC versions data with it: install git and run make again."
if [ "$wanted" = pipeline ] && ! git rev-parse --git-dir >/dev/null 2>&1; then
    fail "git refuses this folder ($(git rev-parse --git-dir 2>&1 | head -n 1)), but DVC needs a git clone that belongs to the user who runs make."
fi

# A PYTHON named on purpose replaces an environment of another version.
has=$(version "$python")
if [ -n "${PYTHON:-}" ]; then
    find_python
    number=$(version "$base")
    if [ "${has%.*}" != "${number%.*}" ]; then has=''; fi
fi
supported "$has" || make_environment

pinned=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements/uv.txt)
case "$("$uv" --version 2>/dev/null) " in "uv $pinned "*) ;; *) install_uv ;; esac

# `signs` beside `dvc` and `bentoml`, from whatever folder.
command_line() {
    [ -e "$venv/bin/signs" ] || "$python" -c '
import pathlib, sys
file = pathlib.Path(sys.argv[1])
file.write_text("""#!/bin/sh
bin=$(dirname -- "$(readlink -f -- "$0")")
PYTHONPATH=$bin/../..${PYTHONPATH:+:$PYTHONPATH} exec "$bin/python" -m signs "$@"
""")
file.chmod(0o755)' "$venv/bin/signs"
}

# Each environment contains the ones before it: never go back.
if [ "$wanted" = pipeline ] && [ -e "$venv/.ray" ]; then wanted=ray; fi
if [ "$wanted" != uv ] && [ -e "$venv/.development" ]; then wanted=development; fi
case $wanted in
uv) ;;
pipeline)
    command_line
    cmp -s requirements/pipeline.txt "$venv/.pipeline" || {
        echo "Installing the pipeline's packages (about 3 GB on disk, some minutes the first time) ..."
        install pipeline
    }
    ;;
ray)
    command_line
    cmp -s requirements/ray.txt "$venv/.ray" || {
        echo "Installing the pipeline's packages and Ray (about 3 GB on disk, some minutes the first time) ..."
        install ray
    }
    ;;
development)
    command_line
    cmp -s requirements/development.txt "$venv/.development" || {
        echo "Installing the pipeline's and the development packages (about 3 GB on disk, some minutes the first time) ..."
        install development
    }
    ;;
*) fail "setup.sh knows uv, pipeline, ray and development, not '$wanted'." ;;
esac

if [ "${GPU:-}" = yes ] && [ "$wanted" != uv ]; then
    cmp -s requirements/gpu.txt "$venv/.gpu" || {
        echo "Installing TensorFlow for NVIDIA GPUs in place of the one without (about 5 GB more on disk) ..."
        install gpu
    }
fi
