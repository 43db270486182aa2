#!/usr/bin/env bash
# Build the images without a container engine, start each as Kubernetes does, and ask it for one prediction.
#
# Takes root, Debian or Ubuntu, 30 GB and a quarter of an hour. TORCH_INDEX is an index of CPU wheels, for the image without
# CUDA; BUILD_FLAGS are more flags for `buildah bud`, and ONLY limits the run to some of: gpu cpu own-model.
set -euo pipefail
cd "$(dirname "$0")/../.."
TORCH_INDEX=${TORCH_INDEX:-}
BUILD_FLAGS=${BUILD_FLAGS:-}
ONLY=${ONLY:-gpu own-model ${TORCH_INDEX:+cpu}}
PYTHON=${PYTHON:-.venv/bin/python}
BASE=docker.io/library/python:3.11-slim
PORT=18613
SCRATCH=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
server=

cleanup() {
    [ -z "$server" ] || kill -KILL "$server" 2> /dev/null || true
    buildah rm --all > /dev/null
    rm -rf "$SCRATCH"
}
trap cleanup EXIT

# What the Dockerfile names as its base, made of Debian's packages: this needs no registry of images.
make_base() {
    buildah inspect --type image "$BASE" > /dev/null 2>&1 && return
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$SCRATCH/base"
    ln -s /usr/bin/python3 "$SCRATCH/base/usr/local/bin/python"
    cp /etc/ssl/certs/ca-certificates.crt "$SCRATCH/base/etc/ssl/certs/" # who this machine trusts
    local container
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$SCRATCH/base" / > /dev/null
    buildah commit --quiet --rm "$container" "$BASE" > /dev/null
    rm -rf "$SCRATCH/base"
}

# own_model FOLDER: the README's network with random weights.
own_model() {
    "$PYTHON" - "$1" << 'END'
import subprocess, sys
from pathlib import Path
from tests.pages import block
folder = Path(sys.argv[1])
(folder / "my_models.py").write_text(block("python", "my_models.py"))
save = block("console", "save_file").replace("python ", f"{sys.executable} ", 1)
subprocess.run(save, shell=True, cwd=folder, check=True)
END
}

# build TAG ARGUMENTS...
build() {
    # shellcheck disable=SC2086 # several flags in one variable
    buildah bud --pull-never --format docker $BUILD_FLAGS --tag "$@" > "$SCRATCH/build" 2>&1 || { tail -n 30 "$SCRATCH/build"; exit 1; }
}

# start IMAGE: as uid 10001, without capabilities, its root read-only, and /tmp in memory.
start() {
    local container root
    container=$(buildah from --pull-never "$1")
    root=$(buildah mount "$container")
    buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$1" > "$SCRATCH/env"
    mapfile -t environment < <(grep . "$SCRATCH/env")
    unshare --mount --pid --fork --kill-child bash -euc '
        root=$1; shift
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount -o remount,bind,ro "$root"
        exec env -i "$@" chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs \
            --bounding-set -all --inh-caps -all sh -c "cd /tmp && ! touch /opt/venv/x 2> /dev/null && exec tta-server serve"
    ' - "$root" "${environment[@]}" "TTA_SERVER__PORT=$PORT" TTA_AUTH__INSECURE_PUBLIC=true \
        TTA_STORAGE__URL=/tmp/kept OMP_NUM_THREADS=2 > "$SCRATCH/log" 2>&1 &
    server=$!
}

# check IMAGE: it becomes ready, answers one image, and stops when it is told to.
check() {
    start "$1"
    local began=$SECONDS
    until curl --silent --fail "http://127.0.0.1:$PORT/v2/health/ready" > /dev/null; do
        if ! kill -0 "$server" 2> /dev/null || [ $((SECONDS - began)) -gt 180 ]; then
            cat "$SCRATCH/log" && echo "$1 does not become ready" && exit 1
        fi
        sleep 1
    done
    local ready=$((SECONDS - began))
    curl --silent --fail-with-body -F image=@docs/frame.png -H 'X-Stream-Id: gate-7' "http://127.0.0.1:$PORT/predict" \
        > "$SCRATCH/answer" || { cat "$SCRATCH/answer" "$SCRATCH/log"; exit 1; }
    grep -q '"label"' "$SCRATCH/answer" || { cat "$SCRATCH/answer"; exit 1; }
    kill -TERM "$(pgrep -P "$server")"
    wait "$server" || { cat "$SCRATCH/log"; echo "$1 does not stop well"; exit 1; }
    server=
    local size
    size=$(buildah images --format '{{.Size}}' "$1")
    echo "$1: $size, ready in $ready s, answered: $(head -c 160 "$SCRATCH/answer")"
    buildah rm --all > /dev/null
}

health_check_is_kept() {
    buildah inspect --type image --format '{{.Docker.Config.Healthcheck}}' "$1" | grep -q 'tta-server ready' \
        || { echo "$1 has lost its HEALTHCHECK"; exit 1; }
}

make_base
for image in $ONLY; do
    case $image in
        gpu) build tta-server:0.1.0 . ;;
        cpu) build tta-server:0.1.0-cpu --build-arg TORCH_INDEX="$TORCH_INDEX" . ;;
        own-model)
            mkdir "$SCRATCH/model"
            own_model "$SCRATCH/model"
            build my-model:1 --file k8s/own-model/Dockerfile "$SCRATCH/model"
            ;;
    esac
done
for image in $ONLY; do
    case $image in
        gpu) name=tta-server:0.1.0 ;;
        cpu) name=tta-server:0.1.0-cpu ;;
        own-model) name=my-model:1 ;;
    esac
    health_check_is_kept "$name"
    check "$name"
done
[ -n "$TORCH_INDEX" ] || echo "tta-server:0.1.0-cpu was not built: TORCH_INDEX names no index of CPU wheels"
