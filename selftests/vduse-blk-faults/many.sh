#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Many devices created at once, and many of their daemons killed at once, under
# load: all of them come, and all of those come back.
#
# MANY_DEVICES, MANY_KILLED in the environment (16 and 8; tools/check-long: 256
# and 64).

# shellcheck source-path=SCRIPTDIR source=cell.sh
. "$(dirname "$0")/cell.sh"

devices=${MANY_DEVICES:-16}
killed=${MANY_KILLED:-8}
pids=()

# begin FIRST COUNT: starts daemons, all at once
begin()
{
	local i
	for ((i = $1; i < $1 + $2; i++)); do
		rm -f "$work/m$i.out"
		"$daemon" serve --name "m$i" --uri null:16M >"$work/m$i.out" 2>"$work/m$i.log" &
		pids[i]=$!
	done
}

served() # NUMBER
{
	[ -s "$work/m$1.out" ] && [ -b "$(<"$work/m$1.out")" ]
}

# come FIRST COUNT: each prints its disk
come()
{
	local i missing=0
	for ((i = $1; i < $1 + $2; i++)); do
		until_true 300 served_or_gone "$i"
		served "$i" && continue
		missing=$((missing + 1))
		[ "$missing" -gt 3 ] || sed "s/^/m$i: /" "$work/m$i.log"
	done
	echo "$missing of $2 did not come"
	[ "$missing" -eq 0 ]
}

served_or_gone() { served "$1" || gone "${pids[$1]}"; }

# read_all FIRST COUNT: each disk answers, and they are all different
read_all()
{
	local i
	for ((i = $1; i < $1 + $2; i++)); do
		limited 30 dd if="$(<"$work/m$i.out")" of=/dev/null bs=4k count=4 iflag=direct \
			status=none || {
			echo "m$i does not answer"
			return 1
		}
	done
	[ "$(cat "$work"/m*.out | sort -u | wc -l)" = "$(cat "$work"/m*.out | wc -l)" ]
}

created_at_once()
{
	begin 0 "$devices"
	come 0 "$devices" && read_all 0 "$devices"
}

kill_some()
{
	local i
	for ((i = 0; i < killed; i++)); do
		kill -KILL "${pids[i]}"
	done
	for ((i = 0; i < killed; i++)); do
		until_true 20 gone "${pids[i]}" || return
		wait "${pids[i]}" 2>/dev/null
	done
	return 0
}

# writes_until_told NUMBER: one after the other
writes_until_told()
{
	until [ -e "$work/enough" ]; do
		dd if=/dev/zero of="$(<"$work/m$1.out")" bs=4k count=64 oflag=direct conv=notrunc \
			status=none || return
		touch "$work/wrote$1"
	done
}

wrote_all()
{
	local i
	for ((i = 0; i < killed; i++)); do
		[ -e "$work/wrote$i" ] || return
	done
}

# How many of the first $killed disks have a request that has not ended.
disks_waiting()
{
	local i disk read written n=0
	for ((i = 0; i < killed; i++)); do
		disk=$(<"$work/m$i.out")
		read -r read written <"/sys/block/${disk##*/}/inflight"
		[ $((read + written)) -eq 0 ] || n=$((n + 1))
	done
	echo "$n"
}

ends_well() { until_true 60 gone "$1" && wait "$1"; } # PID

all_wait() { [ "$(disks_waiting)" -eq "$killed" ]; }

killed_and_back()
{
	local i status=0 writers=() waiting
	for ((i = 0; i < killed; i++)); do
		writes_until_told "$i" 2>"$work/writer$i" &
		writers+=($!)
	done
	until_true 120 wrote_all || return
	kill_some || return
	# A writer whose last one had just ended begins the next.
	until_true 30 all_wait
	waiting=$(disks_waiting)
	echo "$waiting of $killed have a request that waits for the next daemon"
	[ "$waiting" -eq "$killed" ] || return
	mkdir "$work/before" && cp "$work"/m*.out "$work/before" || return
	begin 0 "$killed"
	come 0 "$killed" && same_disks || return
	rm -f "$work"/wrote*
	until_true 120 wrote_all || return
	touch "$work/enough"
	for ((i = 0; i < killed; i++)); do
		ends_well "${writers[i]}" && continue
		cat "$work/writer$i"
		status=1
	done
	[ "$status" -eq 0 ] && read_all 0 "$devices"
}

# What is open stays open: a disk of another name would be another disk.
same_disks()
{
	local i
	for ((i = 0; i < killed; i++)); do
		cmp "$work/before/m$i.out" "$work/m$i.out" || return
	done
}

# Without recovery: the devices have to go before they can come again.
killed_removed_and_back()
{
	local i
	kill_some || return
	for ((i = 0; i < killed; i++)); do
		limited 30 vdpa dev del "m$i" || return
		[ ! -e "/dev/vduse/m$i" ] || limited 10 "$here/../vduse/testd" "m$i" destroy ||
			return
	done
	begin 0 "$killed"
	come 0 "$killed" && read_all 0 "$devices"
}

all_end()
{
	local i status=0
	kill -TERM "${pids[@]}"
	for ((i = 0; i < devices; i++)); do
		until_true 120 gone "${pids[i]}" || {
			echo "m$i does not end"
			return 1
		}
		wait "${pids[i]}" || status=1
	done
	[ -z "$(ls /sys/bus/vdpa/devices)" ] && [ "$(ls /dev/vduse)" = control ] || status=1
	return "$status"
}

# step NAME FUNCTION
step()
{
	local status
	"$2" >"$work/output" 2>&1
	status=$?
	[ $status -eq 0 ] || sed 's/^/#   /' "$work/output" | tail -n 30
	result $status "$1"
}

trap '' EXIT
plan 4
step "$devices devices created at once" created_at_once
step "$killed daemons killed at once, devices removed and made again" killed_removed_and_back
if feature_missing recovery; then
	skip "$killed daemons killed at once, all back" \
		"known gap: this vduse-blk does not have 'recovery' among its features (--version)"
else
	step "$killed daemons killed at once, all back" killed_and_back
fi
step "all of them end" all_end
[ -n "$dirty" ] || rm -rf "$work"
exit $tap_failed
