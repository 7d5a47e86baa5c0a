#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The daemon is killed again and again in one boot, and nothing is left behind:
# no descriptor, no memory, no process, no device.
#
# KILL_ROUNDS in the environment: how many (20; tools/check-long: 200).

# shellcheck source-path=SCRIPTDIR source=cell.sh
. "$(dirname "$0")/cell.sh"

rounds=${KILL_ROUNDS:-20}
# The first rounds fill caches of the kernel.
warm_up=5

# leftovers: open files, unreclaimable slab and other memory in KiB, processes
leftovers()
{
	local files rest
	sync
	echo 3 >/proc/sys/vm/drop_caches
	read -r files rest </proc/sys/fs/file-nr
	[ -e "$work/meminfo" ] || cp /proc/meminfo "$work/meminfo"
	awk -v files="$files" -v processes="$(find /proc -maxdepth 1 -name '[0-9]*' | wc -l)" '
		$1 == "SUnreclaim:" { slab = $2 }
		# The disk of the server lies in memory, and grows.
		$1 == "MemFree:" || $1 == "Shmem:" { free += $2 }
		END { print files, slab, free, processes }' /proc/meminfo
}

# no_leak BEFORE AFTER: what a leak of a little in each round would come to
no_leak()
{
	local -a was is
	read -ra was <<<"$1"
	read -ra is <<<"$2"
	echo "before: open files, slab KiB, free KiB, processes: $1"
	echo "after:  open files, slab KiB, free KiB, processes: $2"
	echo "what has changed by a MiB or more:"
	paste "$work/meminfo" /proc/meminfo | awk '{ d = $5 - $2 } d >= 1024 || d <= -1024 { print $1, d, "KiB" }'
	rm -f "$work/meminfo"
	# Half a descriptor a round, 16 KiB of slab, 64 KiB of memory; and what the
	# kernel counts only now and then (open files: 32 for each processor).
	[ $((is[0] - was[0])) -lt $((rounds / 2 + 64)) ] &&
		[ $((is[1] - was[1])) -lt $((rounds * 16 + 1024)) ] &&
		[ $((was[2] - is[2])) -lt $((rounds * 64 + 32768)) ] &&
		[ $((is[3] - was[3])) -lt 8 ]
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
	local i before=''
	server_for_kills || return
	for ((i = 0; i < rounds + warm_up; i++)); do
		[ "$i" -ne "$warm_up" ] || before=$(leftovers)
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
		rm -f "$cell/model.$i"
		[ ! -e /dev/vduse/fault ] || limited 10 "$here/../vduse/testd" fault destroy
		dd if=/dev/zero of="$image" bs=1M count=8 conv=notrunc status=none
	done
	subject_pid=0
	no_leak "$before" "$(leftovers)"
}

progressed() # MODEL COUNT
{
	[ "$("$here/raw_check" progress "$1" 2>/dev/null || echo 0)" -ge "$2" ]
}

# Killed under one load that goes on all the time.
killed_and_recovered()
{
	local i before='' base
	server_for_kills || return
	load_options=()
	subject_start 4 packed || return
	load_start raw some 11
	for ((i = 0; i < rounds + warm_up; i++)); do
		[ "$i" -ne "$warm_up" ] || before=$(leftovers)
		base=$(load_progress)
		subject_kill || return
		until_true 30 load_beyond $((base + 20)) || {
			echo "round $i: the load does not go on"
			return 1
		}
	done
	no_leak "$before" "$(leftovers)" || return
	load_stop 30 || return
	load_result
	echo "errors: $errors, longest stall: $stall_ms ms"
	[ "$errors" -eq 0 ] && [ -z "$wrong" ] || return
	subject_stop || return
	servers_end
	load_verify
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
	[ $status -eq 0 ] || sed 's/^/#   /' "$work/output" | tail -n 30
	grep -E '^(before|after|errors|what has changed|[A-Z][A-Za-z]*: -?[0-9]* KiB)' "$work/output" | sed 's/^/# /'
	result $status "$1"
}

trap '' EXIT
plan 2
modprobe -a veth 2>/dev/null
network_up || exit 1
rounds_of "killed and removed, $rounds times: nothing is left" killed_and_removed
if [ -n "$dirty" ]; then
	echo "# dirty: $dirty"
	exit 1
fi
if feature_missing recovery; then
	skip "killed and recovered under load, $rounds times" \
		"known gap: this vduse-blk does not have 'recovery' among its features (--version)"
else
	rounds_of "killed and recovered under load, $rounds times: nothing is left or lost" \
		killed_and_recovered
fi
network_down
rm -rf "$work"
exit $tap_failed
