#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Another process takes a disk over while it is used: its user sees a delay, no error,
# and every byte where it was written. When that fails, the old process goes on.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

rounds=${UPGRADE_ROUNDS:-$([ "$arch" = amd64 ] && echo 10 || echo 4)}

server() { nbd_server "$work/s" --threads 1 memory 64M; }

# A load that checks what it reads, and stops at the first error.
start_fio() # JOBS
{
	start "$work/fio" fio --name=load --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bsrange=4k-64k --iodepth=16 --numjobs="$1" --size=6m \
		--offset_increment=8m --verify=crc32c --verify_fatal=1 --do_verify=1 \
		--verify_backlog=64 --loops=100000 --fsync=32 --group_reporting
	fio=$pid
}

# The load goes on: requests complete that were not completed before.
moves_on()
{
	local before now
	before=$(cut -d ' ' -f 1-8 "/sys/block/${disk##*/}/stat")
	now=$before
	while [ "$before" = "$now" ]; do
		kill -0 "$fio" 2>/dev/null || return
		sleep 0.02
		now=$(cut -d ' ' -f 1-8 "/sys/block/${disk##*/}/stat")
	done
}

end_fio()
{
	kill -0 "$fio" 2>/dev/null || {
		echo "fio ended:"
		tail -n 30 "$work/fio"
		return 1
	}
	kill -INT "$fio"
	wait "$fio"
	! grep -E 'verify:|err= *[1-9]|error' "$work/fio"
}

no_kernel_complaint()
{
	! dmesg | grep -E 'I/O error|blocked for more than|WARNING:|BUG:|Oops'
}

# serve_mine NAME URI OPTION...: as serve; the daemon's process ID is in $me
serve_mine()
{
	serve "$@" || return
	me=$pid
}

# upgraded NAME OPTION...: it works, and another process serves; its number is in $me
upgraded()
{
	local name=$1 before=$me
	shift
	"$daemon" upgrade "$name" --json "$@" >"$work/up" 2>"$work/up.err" || {
		cat "$work/up.err" "$work/$name.log"
		return 1
	}
	me=$(python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
assert d["ok"] and d["old_pid"] == int(sys.argv[2]) and d["new_pid"] != d["old_pid"], d
assert d["longest_stall_us"] == max(d["stall_us"]), d
print(d["new_pid"], file=sys.stdout)
print("stall", d["stall_us"], file=sys.stderr)' "$work/up" "$before") || return
	started_pids+=("$me")
	wait_for 10000 ended "$before" || {
		echo "process $before did not end"
		return 1
	}
}

ended() { ! kill -0 "$1" 2>/dev/null; }

# refused_upgrade NAME TEXT OPTION...: it says so, and the same process goes on
refused_upgrade()
{
	local name=$1 text=$2
	shift 2
	"$daemon" upgrade "$name" "$@" >"$work/up" 2>"$work/up.err" && return 1
	grep -q "$text.*process $me goes on" "$work/up.err" || {
		echo "wanted: $text"
		cat "$work/up.err" "$work/$name.log"
		return 1
	}
	[ "$(field "$name" pid)" = "$me" ] && [ "$(field "$name" upgrade)" = none ] || return
	# No child is left.
	[ -z "$(cat "/proc/$me/task/$me/children" 2>/dev/null)" ] || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
}

# ended_well NAME
ended_well()
{
	"$daemon" stop "$1" || return
	[ ! -e "/run/vduse-blk/$1" ]
}

descriptors() { find "/proc/$1/fd" -type l | wc -l; }
resident_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }

upgrades_under_load() # QUEUES OPTION...
{
	local queues=$1 i fds kb
	shift
	dmesg -C
	server || return
	serve_mine u-load "nbd+unix:///?socket=$work/s" --queues "$queues" "$@" || return
	start_fio "$queues"
	wait_for 30000 moves_on || return
	upgraded u-load || return
	wait_for 30000 moves_on || return
	fds=$(descriptors "$me") kb=$(resident_kb "$me")
	for ((i = 1; i < rounds; i++)); do
		upgraded u-load || return
		wait_for 30000 moves_on || return
	done
	[ "$(field u-load upgrades)" = "$rounds" ] || return
	echo "descriptors: $fds, $(descriptors "$me"); kB: $kb, $(resident_kb "$me")"
	[ "$(descriptors "$me")" -le "$fds" ] || return
	[ "$(resident_kb "$me")" -le $((kb + 4096)) ] || return
	end_fio || return
	fio_verify "$disk" --size=6m --numjobs=2 --offset_increment=8m --group_reporting || return
	ended_well u-load || return
	no_kernel_complaint
}

plan 2
check "upgrades under fio, 1 queue, split" upgrades_under_load 1
check "upgrades under fio, 4 queues, packed" upgrades_under_load 4 --packed on
finish
