# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What every script of the rig shares: where things are, how to talk, how to
# lock, how to put a result in place. Sourced, never run.
#
# Everything the rig makes lies under build/ (git-ignored). A cached artefact
# is made under a lock of its own name, in a temporary folder on the same file
# system, and moved into place in one rename: an interrupted download or build
# leaves nothing that looks finished.

# An error in "$(...)" ends the script like one outside.
shopt -s inherit_errexit

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck disable=SC2034 # used by the scripts that source this file
build=$top/build

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step TEXT: one line of progress with the time of day, on stderr.
step() { printf '[%(%H:%M:%S)T] %s\n' -1 "$*" >&2; }

# as_root COMMAND...: as root, through sudo where the caller is not.
as_root()
{
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo -- "$@"
	else
		die "needs root or sudo for: $*"
	fi
}

# list FILE: the words of a list file, one a line, without comments.
list() { sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$1"; }

# check_arch ARCH: accepts the two names that the project knows.
check_arch()
{
	case $1 in
	amd64 | arm64) ;;
	*) die "unknown architecture '$1' (amd64 or arm64)" ;;
	esac
}

host_arch() { dpkg --print-architecture; }

# triplet ARCH: the GNU triplet, also the name of Debian's multiarch folder.
triplet()
{
	case $1 in
	amd64) echo x86_64-linux-gnu ;;
	arm64) echo aarch64-linux-gnu ;;
	esac
}

# lock NAME: waits for, and holds until the shell exits or calls unlock, the
# build lock of that name. Not recursive. Children must not keep the
# descriptor (background processes: close it with "9>&-").
lock()
{
	mkdir -p "$build/lock"
	exec 9>"$build/lock/$1"
	flock -n 9 && return
	say "waiting for another process that makes $1"
	flock 9
}

unlock() { exec 9>&-; }

# hash_of FILE...: one word that changes when the content of any file does.
hash_of() { cat -- "$@" | sha256sum | cut -c1-16; }

# is_fresh DIR STAMP: whether DIR was made from the inputs that STAMP names.
is_fresh() { [ -e "$1/.stamp" ] && [ "$(<"$1/.stamp")" = "$2" ]; }

# new_dir DIR: makes and prints a temporary sibling of DIR, after removing what
# interrupted runs left there (the caller holds DIR's lock).
new_dir()
{
	mkdir -p "$(dirname "$1")"
	rm -rf "$1".tmp.*
	mktemp -d "$1.tmp.XXXXXX"
}

# put_dir TMP DIR STAMP: TMP becomes DIR; the stamp says what it was made from.
put_dir()
{
	chmod 755 "$1"
	printf '%s\n' "$3" >"$1/.stamp"
	rm -rf "$2"
	mv "$1" "$2"
}
