#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# An unmodified qemu-storage-daemon's vduse-blk export on vduse.ko.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

command -v qemu-storage-daemon >/dev/null || {
	plan 1
	result 1 "qemu-storage-daemon is installed"
	exit 1
}

# qsd NAME QUEUES [OPTION]: an export of a file, ready for 'add'
qsd()
{
	local name=$1 queues=$2 image=$work/image
	[ -e "$image" ] || truncate -s 64M "$image"
	used_devices+=("$name")
	start "$work/qsd.log" qemu-storage-daemon \
		--blockdev "driver=file,node-name=node,filename=$image" \
		--export "type=vduse-blk,id=e,name=$name,node-name=node,num-queues=$queues,queue-size=128,writable=on${3-}"
	wait_for 20000 test -e "/dev/vduse/$name" || {
		cat "$work/qsd.log"
		return 1
	}
	# The node exists a little before the virtqueues are set up.
	sleep 0.5
}

verify() # QUEUES
{
	qsd q-verify "$1" || return
	add q-verify || return
	fio_verify "$disk" --size=4m --numjobs=2 --offset_increment=8m --group_reporting
}

serial()
{
	qsd q-serial 1 ,serial=abc123 || return
	add q-serial || return
	[ "$(cat "/sys/block/${disk##*/}/serial")" = abc123 ]
}

data_outlives_the_daemon()
{
	local sum
	qsd q-keep 2 || return
	add q-keep || return
	dd if=/dev/urandom of="$disk" bs=64k count=16 oflag=direct status=none || return
	sum=$(dd if="$disk" bs=64k count=16 iflag=direct status=none | cksum)
	vdpa dev del q-keep || return
	end_pid "$pid"
	wait_for 5000 test ! -e /dev/vduse/q-keep || return
	qsd q-keep 2 || return
	add q-keep || return
	[ "$sum" = "$(dd if="$disk" bs=64k count=16 iflag=direct status=none | cksum)" ]
}

killed()
{
	local daemon fio best=100000
	for _ in 1 2 3; do
		qsd q-kill 2 || return
		daemon=$pid
		add q-kill || return
		start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 \
			--ioengine=libaio --rw=randrw --bs=4k --iodepth=32 --numjobs=2 \
			--size=8m --time_based --runtime=60
		fio=$pid
		wait_for 20000 busy "$disk" || return
		end_pid "$daemon" KILL
		timed_del q-kill || return
		wait_for 15000 ended "$fio" || return
		reap
		[ "$took" -lt "$best" ] && best=$took
		[ "$best" -lt 1000 ] && return 0
	done
	return 1
}

busy()
{
	local reads rest
	read -r reads rest <"/sys/block/${1##*/}/stat"
	[ "$reads" -gt 100 ] && [ -n "$rest" ]
}

plan 5
check "fio verify, 1 queue" verify 1
check "fio verify, 4 queues" verify 4
check "serial" serial
check "data outlives the daemon" data_outlives_the_daemon
check "kill -9 under fio, then vdpa dev del" killed
finish
