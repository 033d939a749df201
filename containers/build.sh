#!/bin/sh
# `make bento` and `make image`: sh containers/build.sh bento|image [OPTION of the build ...]
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

wanted=$1
shift
started=$(date +%s)
[ -f models/classifier/classifier.json ] ||
    fail "There is no classifier in models/classifier to pack: 'make' trains one, 'dvc pull' fetches the one that was committed."
about=$(PYTHONPATH=. python -c '
import sys
from signs.classifier import FOLDER, Classifier, ClassifierError
try:
    about = Classifier(FOLDER, threads=1).about
except ClassifierError as error:
    sys.exit(f"ERROR: {error}")
print(about.version, about.provenance.get("data", "unknown"))
')
model=${about% *} data=${about#* }
revision=$(git rev-parse --verify --quiet HEAD) ||
    fail "Nothing is committed here, but the commit is half of the version: run this in a git clone."
# What was changed since is no part of that commit, and must not pass for it.
packed=$(sed -n 's/^  - //p' bentofile.yaml)
changed=
# shellcheck disable=SC2086  # one word for each path
[ -z "$(git status --porcelain -- bentofile.yaml containers $packed)" ] || changed=-dirty
version=$model-$(printf %.10s "$revision")$changed
bento=traffic_signs:$version

case $wanted in
bento) ;;
image)
    # Asked at once: a build must not end with there being nothing to build with.
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
        [ -n "$engine" ] || fail "An image is built by docker, podman or buildah, and none of them runs here: install or start one, or name another with ENGINE=..."
    fi
    ;;
*) fail "build.sh makes a bento or an image, not '$wanted'." ;;
esac

# The same model and code have the same tag; what stands there may be of other thresholds.
bentoml delete --yes "$bento" >/dev/null 2>&1 || true
bentoml build --version "$version" --output tag >/dev/null
# `bentoml get` would break a long path into lines.
folder=$(python -c 'import bentoml, sys; print(bentoml.get(sys.argv[1]).path)' "$bento")
if [ "$wanted" = bento ]; then
    echo "The bento $bento is in $folder"
    exit
fi

image=traffic-signs:$version
# The other format that podman and buildah know has no health check.
BUILDAH_FORMAT=docker "$engine" build --file containers/Dockerfile --tag "$image" \
    --build-arg version="$version" --build-arg revision="$revision$changed" \
    --build-arg data="$data" "$@" "$folder"
size=$("$engine" images --format '{{.Size}}' "$image")
if [ "$engine" = buildah ]; then engine=podman; fi # which runs what buildah builds
echo
echo "The image $image, $size, after $(($(date +%s) - started)) s. To run it:"
echo "    $engine run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:3000:3000 $image"
