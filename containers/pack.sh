#!/bin/sh
# `make bento`: all that an image and a deployment need, in build/, for machines without Python.
#
#     build/bento            the service and the classifier, as BentoML packs them
#     build/smoke            test photos and what the classifier says about them, if they are here
#     build/drift            what `make drift-image` needs, if the validation predictions are here
#     build/build.env        version, commit and data of all
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

[ -f models/classifier/classifier.json ] ||
    fail "There is no classifier in models/classifier to pack: 'make' trains one, 'dvc pull' fetches the one that was committed."
origin=$(python -c '
import sys
from signs.errors import UserError
from signs.inference.classifier import Classifier
try:
    metadata = Classifier(threads=1).metadata
except UserError as error:
    sys.exit(f"ERROR: {error}")
print(metadata.version, metadata.provenance.get("data", "unknown"))
')
model=${origin% *} data=${origin#* }
revision=$(git rev-parse --verify --quiet HEAD) ||
    fail "The version contains the commit, but nothing is committed here: run this in a git clone."
# Files that were changed since are not part of that commit, so the version must show it.
packed=$(sed -n 's/^  - //p' bentofile.yaml)
changed=
# shellcheck disable=SC2086  # one word for each path
[ -z "$(git status --porcelain -- bentofile.yaml containers $packed)" ] || changed=-dirty
version=$model-$(printf %.10s "$revision")$changed
bento=traffic_signs:$version

rm -rf build/bento build/smoke build/drift build/build.env
mkdir -p build
# The same model and code have the same tag, but the bento of that tag may have other thresholds.
bentoml delete --yes "$bento" >/dev/null 2>&1 || true
bentoml build --version "$version" --output tag >/dev/null
# `bentoml get` would break a long path into lines.
folder=$(python -c 'import bentoml, sys; print(bentoml.get(sys.argv[1]).path)' "$bento")
cp -R "$folder" build/bento
if [ -f data/prepared/prepared.json ]; then
    python -m signs smoke-photos
else
    echo "There are no test photos here (data/prepared), so build/smoke is not made."
fi
predictions=data/evaluation/predictions.csv
if [ -f $predictions ]; then
    for file in signs/__init__.py signs/__main__.py signs/cli.py signs/errors.py signs/paths.py \
        signs/serving/__init__.py signs/serving/drift.py requirements/drift.txt \
        models/classifier/classifier.json $predictions; do
        mkdir -p "build/drift/${file%/*}"
        cp $file build/drift/$file
    done
fi
# Written last: it says that the rest is complete.
printf 'version=%s\nrevision=%s\ndata=%s\n' "$version" "$revision$changed" "$data" >build/build.env
echo "The bento $bento is in $folder and in build/bento."
