#!/bin/sh
# Makes this machine a node of the cloud at @API@, or brings the node that it is
# to version @VERSION@. May be run again at any time. For Debian and Ubuntu:
#
#     curl -fsSL @API@/install.sh | sudo sh
#
# Options go behind `sh -s --`:
#     --join-file FILE   read the join string of `nacre node token create` from FILE; - is standard input
#     --dry-run          say what would be done and do nothing
#     --no-start         install and check, but leave the agent off
#     --uninstall        take the agent away; machines' disks and settings stay
#     --help             this text
#
# Without --join-file, the join string is taken from the environment (NACRE_JOIN) or asked for on the terminal. It is
# not an option, because every user of a machine can read the options of every program.
#
# NACRE_PYTHON names another python3 (3.11 or newer). NACRE_PREFIX puts everything under a folder of your own, without
# root: no packages are installed and nothing is started.
set -eu

API='@API@'
VERSION='@VERSION@'
WHEEL='@WHEEL@'
SHA256='@SHA256@'

PACKAGES="ca-certificates curl python3 python3-venv qemu-system-x86 qemu-utils"

prefix=${NACRE_PREFIX:-}
home=$prefix/opt/nacre
release=$home/$VERSION-$(printf %.12s "$SHA256")
current=$home/current
settings=$prefix/etc/nacre/agent.toml
join_file=$prefix/etc/nacre/join
data=$prefix/var/lib/nacre/agent
run=$prefix/run/nacre
identity=$data/identity/node.pem
unit=/etc/systemd/system/nacre-agent.service
link=/usr/local/bin/nacre-agent

dry_run=false
start=true
uninstall=false
join_from=""
join=""

main() {
    parse "$@"
    if [ "$(uname -s)" != Linux ]; then
        fail "this script is for Linux" "on other systems run nacre-agent from a checkout"
    fi
    if [ -z "$prefix" ] && [ "$(id -u)" != 0 ] && ! $dry_run; then
        fail "this must be run as root" "run it with sudo"
    fi
    if $uninstall; then
        remove
        return
    fi
    find_join
    install_packages
    install_release
    write_settings
    check
    start_agent
}

parse() {
    while [ $# -gt 0 ]; do
        case $1 in
            --join-file)
                [ $# -ge 2 ] || fail "--join-file needs a file" "give - for standard input"
                join_from=$2
                shift
                ;;
            --dry-run) dry_run=true ;;
            --no-start) start=false ;;
            --uninstall) uninstall=true ;;
            --help)
                usage
                exit 0
                ;;
            *) fail "there is no option $1" "--help lists them" ;;
        esac
        shift
    done
}

usage() {
    cat <<TEXT
Makes this machine a node of the cloud at $API.

    curl -fsSL $API/install.sh | sudo sh -s -- [--join-file FILE] [--dry-run] [--no-start] [--uninstall]

The join string of \`nacre node token create\` is read from FILE (- is standard input), taken from NACRE_JOIN, or
asked for on the terminal.
TEXT
}

# Where this node learns which cloud it belongs to. Asked first, so that the rest needs nobody.

find_join() {
    if [ -n "$join_from" ]; then
        if [ "$join_from" = - ]; then
            IFS= read -r join || true
        else
            [ -r "$join_from" ] || fail "$join_from cannot be read" "give the file with the join string"
            IFS= read -r join <"$join_from" || true
        fi
    elif [ -n "${NACRE_JOIN:-}" ]; then
        join=$NACRE_JOIN
    elif [ -e "$identity" ]; then
        say "this machine is a node already and keeps its name"
        $dry_run || rm -f "$join_file" # its secret may be good for other nodes
        return
    elif $dry_run; then
        say "would ask for the join string"
        return
    else
        ask_for_join
    fi
    case $join in
        nacre-join-?*) ;;
        *) fail "that is not a join string" "copy the whole string that \`nacre node token create\` printed" ;;
    esac
}

ask_for_join() {
    if ! (: </dev/tty) 2>/dev/null; then
        fail "there is no join string and no terminal to ask on" "set NACRE_JOIN, or give --join-file FILE"
    fi
    terminal=$(stty -g </dev/tty)
    trap 'stty "$terminal" </dev/tty' EXIT
    trap 'exit 130' INT TERM
    stty -echo </dev/tty
    printf 'Join string of nacre node token create (it is not shown): ' >/dev/tty
    IFS= read -r join </dev/tty || true
    stty "$terminal" </dev/tty
    trap - EXIT INT TERM
    printf '\n' >/dev/tty
}

# What the agent stands on.

install_packages() {
    if [ -n "$prefix" ]; then
        return
    fi
    missing=""
    for package in $PACKAGES; do
        is_installed "$package" || missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        say "packages: all there"
        return
    fi
    if $dry_run; then
        say "would install packages:$missing"
        return
    fi
    command -v apt-get >/dev/null || fail "there is no apt-get here" "install what is meant by:$missing"
    say "installing packages:$missing"
    apt-get -qq update
    # shellcheck disable=SC2086  # one word per package
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $missing </dev/null >/dev/null
}

is_installed() {
    dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

# Each version has a folder of its own, and `current` leads to the one in use: an update that breaks off changes nothing.

install_release() {
    if [ -e "$release/complete" ]; then
        say "nacre $VERSION: installed already"
    elif $dry_run; then
        say "would install nacre $VERSION into $release"
    else
        say "installing nacre $VERSION into $release"
        make_release
    fi
    if ! $dry_run; then
        switch_release
    fi
}

make_release() {
    python=${NACRE_PYTHON:-python3}
    "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is missing, older than 3.11, or has no venv" "install one, and name it with NACRE_PYTHON"
    rm -rf "$release"
    mkdir -p "$home"
    "$python" -m venv "$release"
    fetch "$API/install/$WHEEL" "$release/$WHEEL"
    printf '%s  %s\n' "$SHA256" "$release/$WHEEL" | sha256sum -c --status - ||
        fail "$WHEEL arrived damaged" "run this again; the control plane may have been updated just now"
    "$release/bin/pip" -q --disable-pip-version-check --no-input install "$release/$WHEEL"
    rm -f "$release/$WHEEL"
    : >"$release/complete"
}

switch_release() {
    before=$(readlink "$current" || true)
    ln -sfn "$release" "$home/.next"
    mv -T "$home/.next" "$current"
    for other in "$home"/*/; do
        other=${other%/}
        case $other in
            "$release" | "$before" | "$current") ;;
            *) rm -rf "$other" ;;
        esac
    done
    if [ -z "$prefix" ]; then
        ln -sfn "$current/bin/nacre-agent" "$link"
    fi
}

write_settings() {
    if $dry_run; then
        [ -e "$settings" ] || say "would write $settings"
        [ -z "$join" ] || say "would write the join string to $join_file, for root only"
        return
    fi
    mkdir -p "$(dirname "$settings")"
    if [ ! -e "$settings" ]; then
        say "writing $settings"
        {
            printf '# Settings of this node: see "Configuration" in the documentation. Not changed by updates.\n'
            printf 'data_dir = "%s"\n' "$data"
            printf 'join_file = "%s"\n' "$join_file"
            [ -z "$prefix" ] || printf 'run_dir = "%s"\n' "$run"
        } >"$settings"
    fi
    if [ -n "$join" ]; then
        (umask 077 && printf '%s\n' "$join" >"$join_file.new")
        mv "$join_file.new" "$join_file"
    fi
}

check() {
    if $dry_run; then
        say "would check this host: nacre-agent check"
        return
    fi
    "$current/bin/nacre-agent" check --config "$settings" ||
        fail "this host cannot be a node yet" "put right what is marked FAIL above, then run this again"
}

start_agent() {
    if [ -n "$prefix" ] || [ ! -d /run/systemd/system ]; then
        say "to start the node: $current/bin/nacre-agent --config $settings"
        return
    fi
    if $dry_run; then
        say "would write $unit"
        $start && say "would start nacre-agent"
        return
    fi
    write_unit
    systemctl daemon-reload
    if ! $start; then
        say "to start the node: systemctl enable --now nacre-agent"
        return
    fi
    systemctl -q enable nacre-agent
    systemctl restart nacre-agent
    wait_until_joined
}

# Guests are processes of their own that outlive the agent, so stopping the agent must stop nothing else.

write_unit() {
    cat >"$unit" <<TEXT
[Unit]
Description=Nacre agent: runs machines on this node
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=$current/bin/nacre-agent --config $settings
Restart=always
RestartSec=2
RestartPreventExitStatus=2
KillMode=process
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
TEXT
}

wait_until_joined() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        if [ -e "$identity" ]; then
            rm -f "$join_file"
            say "this machine is a node now: see it with nacre node list"
            return
        fi
        sleep 1
    done
    fail "the node has not joined within 20 seconds" "journalctl -u nacre-agent says why; it keeps trying"
}

remove() {
    if $dry_run; then
        say "would stop nacre-agent and remove $home"
        return
    fi
    if [ -z "$prefix" ]; then
        if [ -d /run/systemd/system ] && [ -e "$unit" ]; then
            systemctl -q disable --now nacre-agent
        fi
        rm -f "$unit" "$link" "$join_file"
        if [ -d /run/systemd/system ]; then
            systemctl daemon-reload
        fi
    fi
    rm -rf "$home" "$join_file"
    say "the agent is gone; guests that run go on running"
    say "what stays: disks and identity in $data, settings in $settings"
}

fetch() {
    curl -fsSL --proto '=http,https' --retry 3 -o "$2" "$1" ||
        fail "$1 cannot be fetched" "can this machine reach the control plane?"
}

say() {
    printf '%s\n' "$1"
}

fail() {
    printf 'install: %s\n  %s\n' "$1" "$2" >&2
    exit 1
}

main "$@" # the last line: a script that arrived in part does nothing
