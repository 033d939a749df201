#!/bin/bash
# What the container tests need: `bash .ci/containers.sh`.
# Ends with 0 when podman runs python:3.11-slim; with 77 and one sentence when it cannot be had.
#
# Where the official image cannot be pulled, Debian's own Python 3.11 takes its name on this
# machine. A pass with that stand-in does not prove that the official image builds.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive

IMAGE=python:3.11-slim
# Takes the name that the unmodified `FROM python:3.11-slim` looks up first.
STAND_IN=localhost/$IMAGE
SUITE=bookworm

cannot() {
    echo "Containers cannot be tested here: $1." >&2
    exit 77
}

runs() { podman run --rm --pull=never "$IMAGE" python -c '' >/dev/null 2>&1; }

# Fills $1 with a root file system like that of the official image, and names it as that.
make_stand_in() {
    echo "Making a stand-in for $IMAGE ..."
    debootstrap --variant=minbase \
        --include=ca-certificates,python3.11,python3-pip,python3.11-venv,python-is-python3 \
        "$SUITE" "$1" >"$1.log" 2>&1 || return 1
    # Whoever is trusted here, such as a company's proxy, is trusted there.
    find /usr/local/share/ca-certificates -name '*.crt' \
        -exec cp {} "$1/usr/local/share/ca-certificates/" \; 2>/dev/null
    chroot "$1" update-ca-certificates >>"$1.log" 2>&1 || return 1
    # Debian's pip refuses to install beside apt; the official image's does not.
    rm -rf "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* \
        "$1"/usr/share/{doc,man,locale}
    tar -C "$1" -c . | podman import --quiet --change CMD=python3 - "$STAND_IN" >>"$1.log" 2>&1
}

runs && exit

missing=()
for tool in podman runc debootstrap; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
root=
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then root=yes; fi
if [ ${#missing[@]} -gt 0 ]; then
    [ "$root" ] || cannot "${missing[*]} missing, and only root can install them"
    echo "Installing ${missing[*]} ..."
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends buildah "${missing[@]}"; } \
        >/dev/null 2>&1 || cannot "apt-get could not install ${missing[*]}"
fi

# Settings for a machine that is a container itself; one with settings of its own keeps them.
if [ "$root" ] && [ ! -e /etc/containers/storage.conf ] && [ ! -e /etc/containers/containers.conf ]; then
    mkdir -p /etc/containers
    # vfs, which is taken where nothing is said, copies each layer in full.
    cat >/etc/containers/storage.conf <<'CONF'
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
CONF
    # crun refuses the control groups found here, and there is no systemd to run health checks.
    cat >/etc/containers/containers.conf <<'CONF'
[containers]
netns = "host"
default_ulimits = ["nofile=1024:20000", "nproc=4096:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
env = ["DISABLE_HC_SYSTEMD=true", "BUILDAH_ISOLATION=chroot"]
CONF
fi

runs && exit
if ! podman image exists "$IMAGE" && ! timeout 120 podman pull --quiet "$IMAGE" >/dev/null 2>&1; then
    [ "$root" ] || cannot "$IMAGE cannot be pulled, and only root can make a stand-in"
    folder=$(mktemp -d)
    make_stand_in "$folder/root"
    made=$?
    reason=$(tail -n 1 "$folder/root.log")
    rm -rf "$folder"
    [ $made = 0 ] || cannot "$IMAGE cannot be pulled, and its stand-in could not be made ($reason)"
fi
why=$(podman run --rm "$IMAGE" python -c '' 2>&1) || cannot "podman does not run $IMAGE (${why##*$'\n'})"
