#!/bin/sh
# `make containerize`: builds an image of build/bento. Arguments go to the build. Needs no Python.
# `make drift-image`: with NAME=traffic-signs-drift, that of build/drift.
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

started=$(date +%s)
[ -f build/build.env ] || fail "There is no bento in build/: 'make bento' packs one; 'make image' packs one and builds its image."
recorded() { sed -n "s/^$1=//p" build/build.env; }
version=$(recorded version)
engine=${ENGINE:-}
if [ -n "$engine" ]; then
    "$engine" info >/dev/null 2>&1 || fail "ENGINE=$engine cannot build images here: '$engine info' fails."
else
    for name in docker podman buildah; do
        if "$name" info >/dev/null 2>&1; then
            engine=$name
            break
        fi
    done
    [ -n "$engine" ] || fail "None of docker, podman and buildah runs here: install or start one, or name another with ENGINE=..."
fi

name=${NAME:-traffic-signs} file=containers/Dockerfile context=build/bento
if [ "$name" = traffic-signs-drift ]; then
    file=containers/drift/Dockerfile context=build/drift
    [ -d build/drift ] || fail "There is no build/drift: 'dvc repro' makes the validation predictions, then 'make bento' packs them."
fi
image=$name:$version
# The default format of podman and buildah has no health check.
# Docker before 23 takes BuildKit, which `RUN --mount` needs, only if told to.
DOCKER_BUILDKIT=1 BUILDAH_FORMAT=docker "$engine" build --file "$file" --tag "$image" \
    --build-arg version="$version" --build-arg revision="$(recorded revision)" \
    --build-arg data="$(recorded data)" "$@" "$context"
size=$("$engine" images --format '{{.Size}}' "$image")
if [ "$engine" = buildah ]; then engine=podman; fi # buildah runs no containers
echo
echo "The image $image, $size, after $(($(date +%s) - started)) s."
if [ "$name" != traffic-signs ]; then exit; fi
echo "To run it:"
echo "    $engine run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:3000:3000 $image"
