# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the tests of the daemon share: start and stop it, start storage servers.

# shellcheck source-path=SCRIPTDIR source=../vduse/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
esac
for daemon in "${VDUSE_BLK-}" "$here/../../../userspace/$arch/vduse-blk" \
	"/src/build/userspace/$arch/vduse-blk"; do
	[ -x "$daemon" ] && break
	daemon=
done
[ -n "$daemon" ] || {
	plan 1
	say "vduse-blk is not built; build it or set VDUSE_BLK"
	result 1 "vduse-blk can be run"
	exit 1
}

# serve NAME URI OPTION...: starts the daemon; when its disk is there, its path
# is in $disk and its process ID in $pid. Its log is $work/NAME.log.
serve()
{
	local name=$1 uri=$2
	shift 2
	used_devices+=("$name")
	rm -f "$work/$name.out"
	"$daemon" serve --name "$name" --uri "$uri" "$@" \
		>"$work/$name.out" 2>"$work/$name.log" &
	pid=$!
	started_pids+=("$pid")
	wait_for 20000 served_or_dead "$name" "$pid"
	disk=$(cat "$work/$name.out")
	[ -n "$disk" ] && [ -b "$disk" ] && return
	cat "$work/$name.log"
	return 1
}

served_or_dead() { [ -s "$work/$1.out" ] || ! kill -0 "$2" 2>/dev/null; }

# stop PID: SIGTERM; the daemon has to end well
stop()
{
	local status
	kill -TERM "$1" || return
	wait "$1"
	status=$?
	[ $status -eq 0 ] || {
		echo "the daemon ended with status $status"
		cat "$work"/*.log
	}
	return $status
}

# nbd_server SOCKET|PORT ARGUMENT... of nbdkit; its pid is in $server
nbd_server()
{
	local where=$1
	shift
	case $where in
	/*)
		rm -f "$where"
		start "$work/nbdkit.log" nbdkit -f -U "$where" "$@"
		# shellcheck disable=SC2034 # for the tests
		server=$pid
		wait_for 20000 test -S "$where" && return
		;;
	*)
		start "$work/nbdkit.log" nbdkit -f -p "$where" "$@"
		# shellcheck disable=SC2034 # for the tests
		server=$pid
		wait_for 20000 listening "$where" && return
		;;
	esac
	cat "$work/nbdkit.log"
	return 1
}

# bad_server MODE: bad_server.py on $work/s
bad_server()
{
	rm -f "$work/s"
	start "$work/bad.log" python3 "$here/bad_server.py" "$work/s" "$1"
	wait_for 20000 test -S "$work/s" && return
	cat "$work/bad.log"
	return 1
}

listening() { ss -Hltn "sport = :$1" | grep -q .; }

# field NAME KEY: one value of the status document
field()
{
	"$daemon" status "$1" --json |
		python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$2"
}

# checksums DIR: one line for all files below
checksums() { (cd "$1" && find . -type f -exec cksum {} + | sort | cksum); }

# memory_kb PID: not what is shared with the kernel, which depends on the load of the moment
memory_kb() { awk '/^RssAnon/ { print $2 }' "/proc/$1/status"; }

# waiting DISK N: at least so many requests are in flight
waiting()
{
	local reads writes
	read -r reads writes <"/sys/block/${1##*/}/inflight"
	[ $((reads + writes)) -ge "$2" ]
}

# busy DISK: many requests completed
busy()
{
	local reads rest
	read -r reads rest <"/sys/block/${1##*/}/stat"
	[ "$reads" -gt 200 ] && [ -n "$rest" ]
}
