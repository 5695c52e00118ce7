#!/bin/sh
# build.sh cpu|cuda|apptainer: make an image of this checkout. BASE_IMAGE names another base,
# BUILD another builder than podman with its options, such as "docker build".
set -eu
cd "$(dirname "$0")"
./prepare.sh
case ${1:-cpu} in
  cpu) file=Containerfile tag=brainchop ;;
  cuda) file=Containerfile.cuda tag=brainchop-cuda ;;
  apptainer) exec apptainer build brainchop.sif apptainer.def ;;
  *) echo "build.sh cpu, cuda or apptainer" >&2 && exit 64 ;;
esac
# shellcheck disable=SC2086 - a command with options
${BUILD:-podman build} -f "$file" -t "$tag" ${BASE_IMAGE:+--build-arg BASE_IMAGE="$BASE_IMAGE"} .
