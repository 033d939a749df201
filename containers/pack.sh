#!/bin/sh
# `make bento`: what an image and a deployment are made of, in build/, for machines without Python.
#
#     build/bento            the service and the classifier, as BentoML packs them
#     build/smoke            photos with known answers, if the test photos are here
#     build/build.env        version, commit and data of both
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

[ -f models/classifier/classifier.json ] ||
    fail "There is no classifier in models/classifier to pack: 'make' trains one, 'dvc pull' fetches the one that was committed."
about=$(PYTHONPATH=. python -c '
import sys
from signs.inference.classifier import FOLDER, Classifier, ClassifierError
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

rm -rf build/bento build/smoke build/build.env
mkdir -p build
# The same model and code have the same tag; what stands there may be of other thresholds.
bentoml delete --yes "$bento" >/dev/null 2>&1 || true
bentoml build --version "$version" --output tag >/dev/null
# `bentoml get` would break a long path into lines.
folder=$(python -c 'import bentoml, sys; print(bentoml.get(sys.argv[1]).path)' "$bento")
cp -R "$folder" build/bento
if [ -f data/prepared/prepared.json ]; then
    python -m signs.operations.smoke_photos
else
    echo "There are no test photos here (data/prepared), so build/smoke is not made."
fi
# Last: it says that the rest is complete.
printf 'version=%s\nrevision=%s\ndata=%s\n' "$version" "$revision$changed" "$data" >build/build.env
echo "The bento $bento is in $folder and in build/bento."
