#!/bin/sh
# Show Nacre working on this machine: called by `make demo` after setup. Starts a cloud of one machine, boots two
# machines, fetches a page out of one, shows consoles and events, and leaves it all running for you to look at.
set -eu

cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
dir=${DEMO_DIR:-.nacre/demo}
listen=${DEMO_LISTEN:-127.0.0.1:7480}
page=${DEMO_PAGE:-127.0.0.1:8080}
NACRE_CONFIG="$PWD/$dir/config.toml"
export NACRE_CONFIG

main() {
    began=$(date +%s)
    say "Starting a control plane and an agent under $dir"
    mkdir -p "$dir"
    nacre up --data "$dir" --listen "$listen" --detach
    if ! nacre node list >/dev/null 2>&1; then
        nacre login "http://$listen" --claim-file "$dir/claim"
    fi
    say "The nodes of this cloud, and what they can do"
    nacre node list

    say "Building the image 'tiny' from this distribution's packages"
    nacre image show tiny >/dev/null 2>&1 || nacre image build tiny
    nacre image list

    say "Booting two machines"
    machine web --publish "$page:80"
    machine db
    say "A page out of the guest 'web', through the published port $page"
    fetch "http://$page/"
    say "What it printed on its console"
    nacre vm log web | tail -n 8
    say "All machines"
    nacre vm list
    say "What happened"
    nacre event list
    say "Done in $(($(date +%s) - began)) s. It keeps running; go on with"
    how_to_go_on
}

machine() {
    name=$1
    shift
    nacre vm show "$name" >/dev/null 2>&1 || nacre vm create "$name" --image tiny --memory 128MiB "$@" --wait
}

fetch() {
    python3 - "$1" <<'PYTHON'
import sys, time, urllib.request
deadline = time.monotonic() + 60
while True:
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode().strip())
        break
    except OSError:
        if time.monotonic() > deadline:
            sys.exit("the guest did not answer within 60 s: look at `nacre vm log web`")
        time.sleep(0.1)
PYTHON
}

how_to_go_on() {
    cat <<TEXT
  export PATH="$PWD/.venv/bin:\$PATH" NACRE_CONFIG="$NACRE_CONFIG"
  nacre vm console web        a shell in the guest; leave with ^]
  nacre vm create mine --image tiny --wait
  http://$listen/docs    the API

Remove everything:
  nacre down --data "$PWD/$dir" --vms && rm -rf "$PWD/$dir"
TEXT
}

say() {
    printf '\n== %s\n' "$*"
}

main
