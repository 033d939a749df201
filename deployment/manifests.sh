#!/bin/sh
# `make manifests`: build/kubernetes, which is deployment/kubernetes with the image's name and version.
#
#     make manifests                                        the image that was built last
#     make manifests ARGS=REGISTRY/traffic-signs:VERSION    an image in your registry; or NAME@sha256:...
#     make manifests ARGS='REGISTRY/traffic-signs:VERSION drift'    and deployment/drift, with the image
#                                                                   REGISTRY/traffic-signs-drift:VERSION
#     kubectl apply -k build/kubernetes
set -eu
cd "$(dirname -- "$0")/.."

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

image=${1:-} drift=${2:-}
if [ "$image" = drift ]; then image='' drift=drift; fi
case $drift in
    '' | drift) ;;
    *) fail "After the image there may be the word 'drift', but there is '$drift'." ;;
esac
if [ -z "$image" ]; then
    [ -f build/build.env ] || fail "There is no image in build/: 'make image' builds one, or name another with ARGS=REGISTRY/traffic-signs:VERSION."
    image=traffic-signs:$(sed -n 's/^version=//p' build/build.env)
fi
invalid="The image is '$image', but must end with a version, as in traffic-signs:v1."
case $image in
    *[!A-Za-z0-9._:@/-]*) fail "$invalid" ;;
esac
case ${image##*/} in
    *:latest | *:) fail "$invalid" ;;  # `latest` would be another image tomorrow
    *@sha256:*) name=${image%@*} version="digest: ${image##*@}" ;;
    *:*) name=${image%:*} version="newTag: \"${image##*:}\"" ;;
    *) fail "$invalid" ;;
esac

case $drift$image in
    drift*@*) fail "The image of the drift report needs a version: name a tag in place of $image." ;;
esac
mkdir -p build/kubernetes
cat >build/kubernetes/kustomization.yaml <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../deployment/kubernetes
images:
  - name: traffic-signs
    newName: $name
    $version
YAML
if [ "$drift" ]; then
    cat >>build/kubernetes/kustomization.yaml <<YAML
  - name: traffic-signs-drift
    newName: $name-drift
    $version
components:
  - ../../deployment/drift
YAML
fi
echo "build/kubernetes deploys $image: kubectl apply -k build/kubernetes"
