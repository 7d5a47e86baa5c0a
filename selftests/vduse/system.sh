#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# vduse.ko with real users of the disk: fio, file systems, the vdpa tool, trace
# events. The daemon is testd, so that only the module is on trial.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

verify() # OPTION... of testd
{
	testd t-verify size=64 "$@" || return
	add t-verify || return
	fio_verify "$disk" --size=4m --numjobs=2 --offset_increment=8m --group_reporting
}

filesystem() # TYPE OPTION...
{
	local type=$1 mnt=$work/mnt sum
	shift
	testd t-fs size=320 "$@" || return
	add t-fs || return
	"mkfs.$type" -q "$disk" || return
	mkdir -p "$mnt"
	mount "$disk" "$mnt" || return
	cp -r /etc "$mnt/" || return
	dd if=/dev/urandom of="$mnt/random" bs=64k count=64 status=none || return
	sum=$(cd "$mnt" && find . -type f -exec cksum {} + | sort | cksum)
	umount "$mnt" || return
	echo 3 >/proc/sys/vm/drop_caches
	"fsck.$type" -n "$disk" || return
	mount "$disk" "$mnt" || return
	[ "$sum" = "$(cd "$mnt" && find . -type f -exec cksum {} + | sort | cksum)" ]
	local ret=$?
	umount "$mnt"
	return "$ret"
}

# The daemon is killed while fio runs; then the device goes in under a second
# (the best of three, the machine may be busy) and fio ends with errors.
killed() # OPTION...
{
	local best=100000 round fio
	for round in 1 2 3; do
		testd t-kill size=64 "$@" || return
		local daemon=$pid
		add t-kill || return
		start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 \
			--ioengine=libaio --rw=randrw --bs=4k --iodepth=32 --numjobs=4 \
			--size=8m --offset_increment=8m --time_based --runtime=60
		fio=$pid
		wait_for 20000 busy "$disk" || return
		end_pid "$daemon" KILL
		timed_del t-kill || return
		wait_for 15000 ended "$fio" || {
			echo "fio still waits for its requests"
			return 1
		}
		reap
		[ "$took" -lt "$best" ] && best=$took
		[ "$best" -lt 1000 ] && return 0
		echo "round $round: $took ms"
	done
	return 1
}

busy() # DISK: many requests completed, and some in flight
{
	local reads rest
	read -r reads rest <"/sys/block/${1##*/}/stat"
	[ "$reads" -gt 200 ] || return 1
	read -r reads rest <"/sys/block/${1##*/}/inflight"
	[ $((reads + rest)) -gt 0 ]
}

# Dirty pages of a mounted file system, and nobody to write them to.
mounted()
{
	local mnt=$work/mnt daemon
	testd t-mnt size=64 || return
	daemon=$pid
	add t-mnt || return
	mkfs.ext4 -q "$disk" || return
	mkdir -p "$mnt"
	mount "$disk" "$mnt" || return
	dd if=/dev/zero of="$mnt/dirty" bs=64k count=64 status=none || return
	end_pid "$daemon" KILL
	timed_del t-mnt || return
	[ "$took" -lt 6000 ] || return
	umount "$mnt"
}

add_and_delete_repeatedly()
{
	testd t-again size=8 queues=2 || return
	for _ in 1 2 3 4 5 6 7 8; do
		add t-again || return
		dd if=/dev/urandom of="$disk" bs=4k count=16 oflag=direct status=none || return
		vdpa dev del t-again || return
	done
}

vdpa_tool_shows_it()
{
	testd t-show queues=3 queue-size=128 || return
	add t-show || return
	vdpa mgmtdev show vduse | tee "$work/mgmt"
	grep -q 'supported_classes.*block' "$work/mgmt" || return
	grep -q 'supported_classes.*net' "$work/mgmt" || return
	vdpa dev show t-show | tee "$work/show"
	grep -q 'type block' "$work/show" || return
	grep -q 'mgmtdev vduse' "$work/show" || return
	grep -q 'max_vqs 3' "$work/show" || return
	grep -q 'max_vq_size 128' "$work/show"
}

trace_events()
{
	local t=/sys/kernel/tracing e missing=0
	mountpoint -q "$t" || mount -t tracefs tracefs "$t" || return
	testd t-trace || return
	echo >"$t/trace"
	echo 1 >"$t/events/vduse/enable" || return
	add t-trace || return
	dd if=/dev/zero of="$disk" bs=4k count=8 oflag=direct status=none || return
	vdpa dev del t-trace || return
	echo 0 >"$t/events/vduse/enable"
	for e in msg_sent msg_answered kick irq map unmap state; do
		grep -q "vduse_$e" "$t/trace" || {
			echo "no event vduse_$e"
			missing=1
		}
	done
	return "$missing"
}

plan 14
check "fio verify, split, 1 queue" verify
check "fio verify, split, 4 queues" verify queues=4
check "fio verify, packed, 1 queue" verify packed
check "fio verify, packed, 4 queues" verify packed queues=4
check "ext4, split" filesystem ext4 queues=2
check "xfs, packed" filesystem xfs packed queues=2
check "vdpa dev del after kill -9 under fio, split, 4 queues" killed queues=4
check "vdpa dev del after kill -9 under fio, packed, 4 queues" killed queues=4 packed
check "vdpa dev del after kill -9 under fio, gaps in the ring" killed queues=4 hold-every=50
check "vdpa dev del after kill -9, gaps in the packed ring" killed queues=4 hold-every=50 packed
check "vdpa dev del after kill -9 under a mounted file system" mounted
check "vdpa dev add and del repeatedly" add_and_delete_repeatedly
check "vdpa shows the device" vdpa_tool_shows_it
if [ "${VDUSE_KO-}" = in-tree ]; then
	skip "trace events" "the in-tree module has none"
else
	check "trace events" trace_events
fi
finish
