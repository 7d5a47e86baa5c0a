#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The daemon is killed again and again in one boot, and nothing is left behind:
# no descriptor, no memory, no process, no device.
#
# KILL_ROUNDS in the environment: how many (12; tools/check-long: 200). The first
# ones fill caches; then there are two windows, and what grows in both is a leak:
# with 200 rounds one object in each, with few rounds several (leaks.sh).

# shellcheck source-path=SCRIPTDIR source=cell.sh
. "$(dirname "$0")/cell.sh"
# shellcheck source-path=SCRIPTDIR source=leaks.sh
. "$(dirname "$0")/leaks.sh"

kills=${KILL_ROUNDS:-12}

# begin_rounds COUNT
begin_rounds()
{
	rounds=$1
	window=$((rounds * 3 / 8))
	warm_up=$((rounds - 2 * window))
	windows_more=2
}

# counted ROUND: before the first window, between the two, and behind the second
counted()
{
	local number
	case $1 in
	"$warm_up") number=0 ;;
	$((warm_up + window))) number=1 ;;
	"$rounds") number=2 ;;
	*) return ;;
	esac
	# A load that goes on keeps still, so that nothing of it is in flight.
	[ "$load_pid" -eq 0 ] || kill -STOP "$load_pid"
	leaks_count "$work/leaks.$number"
	[ "$load_pid" -eq 0 ] || kill -CONT "$load_pid"
}

no_leak() { leaks_in "$window" "$work"/leaks.{0,1,2}; }

# Few rounds may not have filled every cache. So what grew in both windows gets
# another one, twice at most: in that only a leak grows, too.
that_was_all() # ROUND
{
	[ "$1" -eq "$rounds" ] || return
	if [ "$windows_more" -eq 0 ] || no_leak >"$work/judged"; then
		return 0
	fi
	sed -n 's/^leak:/suspected:/p' "$work/judged"
	mv "$work/leaks.1" "$work/leaks.0"
	mv "$work/leaks.2" "$work/leaks.1"
	windows_more=$((windows_more - 1))
	rounds=$((rounds + window))
	return 1
}

server_for_kills()
{
	cell=$work/cell image=$work/cell/disk.img
	rm -rf "$cell"
	mkdir "$cell"
	truncate -s "$disk_size" "$image"
	server_plain
}

# Killed under I/O, its device removed, started again with the same name.
killed_and_removed()
{
	local i
	begin_rounds "$kills"
	server_for_kills || return
	for ((i = 0; ; i++)); do
		counted "$i"
		! that_was_all "$i" || break
		server_is_well
		subject_start $((i % 4 + 1)) "$([ $((i % 2)) = 0 ] && echo split || echo packed)" ||
			return
		"$here/raw_check" run "$disk" "$cell/model.$i" size=$((8 << 20)) \
			>"$cell/stats" 2>&1 &
		load_pid=$!
		until_true 20 progressed "$cell/model.$i" 20 || return
		end_job "$subject_pid" KILL
		limited 30 vdpa dev del fault || return
		load_stop 20 || return
		load_pid=0
		rm -f "$cell/model.$i"
		[ ! -e /dev/vduse/fault ] || limited 10 "$here/../vduse/testd" fault destroy
		dd if=/dev/zero of="$image" bs=1M count=8 conv=notrunc status=none
	done
	subject_pid=0
	no_leak
}

progressed() # MODEL COUNT
{
	[ "$("$here/raw_check" progress "$1" 2>/dev/null || echo 0)" -ge "$2" ]
}

# Killed under one load that goes on all the time.
killed_and_recovered()
{
	local i base
	begin_rounds "$kills"
	server_for_kills || return
	load_options=()
	subject_start 4 packed || return
	load_start raw some 11
	for ((i = 0; ; i++)); do
		counted "$i"
		! that_was_all "$i" || break
		base=$(load_progress)
		subject_kill || return
		until_true 30 load_beyond $((base + 20)) || {
			echo "round $i: the load does not go on"
			return 1
		}
	done
	no_leak || return
	load_stop 30 || return
	load_result
	echo "errors: $errors, longest stall: $stall_ms ms"
	[ "$errors" -eq 0 ] && [ -z "$wrong" ] || return
	subject_stop || return
	servers_end
	load_verify
}

# What this looks for is found: a process leaves two files and two pages behind in
# each round. (Of pages one would not do: 20 of 75 may be hidden.)
leak_is_found()
{
	local i
	begin_rounds 200
	coproc LEAK { python3 -c '
import os, sys
kept = []
for line in sys.stdin:
    kept.append(os.pipe())
    os.write(kept[-1][1], bytes(8192))
    print("done", flush=True)
'; }
	for ((i = 0; i < rounds; i++)); do
		counted "$i"
		echo more >&"${LEAK[1]}" && read -r -u "${LEAK[0]}" || return
	done
	counted "$rounds"
	# shellcheck disable=SC2153 # set by coproc
	end_job "$LEAK_PID"
	no_leak >"$work/found" && return 1
	cat "$work/found"
	grep -q '^leak: slab:filp:' "$work/found" && grep -q '^leak: pages:' "$work/found"
}

clean()
{
	load_kill
	subject_stop
	servers_end
	[ -z "$dirty" ]
}

# rounds_of NAME FUNCTION
rounds_of()
{
	local status
	"$2" >"$work/output" 2>&1
	status=$?
	clean >>"$work/output" 2>&1 || status=1
	[ $status -eq 0 ] || grep -v ': line [0-9]*: *[0-9]* Killed' "$work/output" | tail -n 30 |
		sed 's/^/#   /'
	grep -E '^(errors|no leak|suspected|leak):' "$work/output" | sed 's/^/# /'
	result $status "$1"
}

trap '' EXIT
plan 3
modprobe -a veth 2>/dev/null
network_up || exit 1
leaks_prepare >"$work/output" || {
	sed 's/^/Bail out! /' "$work/output"
	exit 1
}
rounds_of "a leak of two pages and two files in each of 200 rounds is found" leak_is_found
rounds_of "killed and removed, $kills times: nothing is left" killed_and_removed
if [ -n "$dirty" ]; then
	echo "# dirty: $dirty"
	exit 1
fi
if feature_missing recovery; then
	skip "killed and recovered under load, $kills times" \
		"known gap: this vduse-blk does not have 'recovery' among its features (--version)"
else
	rounds_of "killed and recovered under load, $kills times: nothing is left or lost" \
		killed_and_recovered
fi
network_down
rm -rf "$work"
exit $tap_failed
