#!/bin/sh
# Install what Nacre needs on Debian or Ubuntu. Usage: setup.sh run|develop
# run:     what the product and the demo need.   develop: also what the tests need.
# Does nothing that is done already; asks for sudo only when a package is missing.
set -eu

cd "$(dirname "$0")/.."
purpose=${1:-run}
UV_VERSION=0.13.8

run_packages="ca-certificates python3 python3-venv qemu-system-x86 qemu-utils busybox-static kmod zstd xz-utils curl procps"
test_packages="postgresql faketime cpio iproute2 nftables ovmf swtpm mmdebstrap e2fsprogs xfsprogs ceph-common ceph-mon ceph-osd ceph-mgr qemu-block-extra"

main() {
    packages=$run_packages
    [ "$purpose" = develop ] && packages="$packages $test_packages"
    install_packages $packages
    install_uv
    install_environment
}

install_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
    done
    # The tiny image is made from downloaded packages, which needs the lists even when nothing is missing.
    lists=$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' 2>/dev/null | head -n 1)
    [ -z "$missing" ] && [ -n "$lists" ] && return 0
    command -v apt-get >/dev/null || fail "this machine has no apt-get" "install by hand:$missing"
    as_root apt-get -qq update
    [ -z "$missing" ] && return 0
    echo "installing:$missing"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing </dev/null >/dev/null
}

install_uv() {
    [ "$(.tools/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ] && return 0
    echo "installing uv $UV_VERSION into .tools"
    /usr/bin/python3 -m venv .tools
    .tools/bin/pip -q --disable-pip-version-check install "uv==$UV_VERSION"
}

install_environment() {
    group=--no-dev
    [ "$purpose" = develop ] && group="--group dev --group docs"
    # A development environment also runs the product: never take packages out of it for a demo.
    [ "$purpose" = run ] && [ -x .venv/bin/pytest ] && group="--group dev --group docs"
    .tools/bin/uv sync -q --frozen $group --python "$(python_for_nacre)"
}

python_for_nacre() {
    if /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo /usr/bin/python3
    else
        echo 3.13  # uv brings one where the distribution's is too old
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

fail() {
    echo "setup: $1" >&2
    echo "  hint: $2" >&2
    exit 1
}

main
