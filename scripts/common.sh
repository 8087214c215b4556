# Sourced by the scripts beside it: words to the person at the terminal, root, and apt.
# shellcheck shell=sh

say() { printf '%s\n' "== $*" >&2; }

# die WHAT-FAILED WHAT-TO-DO...: one message, then out with status 1.
die() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# can_root: is there a way to become root without a question on the terminal?
can_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

# as_root COMMAND...: fails (126) when root is not to be had.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 126
    fi
}

can_apt() { command -v apt-get >/dev/null 2>&1 && can_root; }

# Package lists are fetched at most once a run, and a stale or missing mirror answer is tried again.
# A list that can't be fetched at all is left to the install to judge: another source may have what is needed.
apt_updated=no
apt_update() {
    [ "$apt_updated" = no ] || return 0
    apt_updated=yes
    for pause in 2 5 10 0; do
        as_root apt-get update -qq -o DPkg::Lock::Timeout=300 >&2 && return 0
        sleep "$pause"
    done
    say "apt-get update did not succeed; trying to install all the same"
}

# apt_install PACKAGE...: quietly, without recommendations, and without starting any daemon that comes along.
# A policy file is what Debian asks before it starts a service; one that is there already is left as it is.
apt_install() {
    can_apt || return 126
    apt_update
    policy=/usr/sbin/policy-rc.d
    made_policy=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && made_policy=yes
    fi
    apt_status=1
    for pause in 3 10 0; do
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >&2
        apt_status=$?
        [ "$apt_status" -ne 0 ] || break
        sleep "$pause"
    done
    [ "$made_policy" = no ] || as_root rm -f "$policy"
    return "$apt_status"
}
