#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The daemon is killed, or its server hangs, and the device has to go: in under
# a second (the best of three rounds, for the machine may be busy), with errors
# for its users.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

best_of_three() # FUNCTION ARGUMENT...: each round sets $took
{
	local best=100000
	for _ in 1 2 3; do
		"$@" || return
		reap
		[ "$took" -lt "$best" ] && best=$took
		[ "$best" -lt 1000 ] && return 0
	done
	echo "best of three: $best ms"
	return 1
}

idle()
{
	serve r-idle null:64M --queues 4 "$@" || return
	end_pid "$pid" KILL
	timed_del r-idle
}

busy_disk()
{
	local me fio
	nbd_server "$work/s" memory 64M || return
	serve r-busy "nbd+unix:///?socket=$work/s" --queues 4 "$@" || return
	me=$pid
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bsrange=4k-64k --iodepth=32 --numjobs=4 --size=8m \
		--offset_increment=8m --time_based --runtime=60
	fio=$pid
	wait_for 20000 busy "$disk" || return
	end_pid "$me" KILL
	timed_del r-busy || return
	wait_for 15000 ended "$fio"
}

# The server answers no more: requests are stuck in a daemon that is alive and
# then killed.
stuck_server()
{
	local me
	nbd_server "$work/s" memory 64M || return
	serve r-stuck "nbd+unix:///?socket=$work/s" "$@" || return
	me=$pid
	kill -STOP "$server"
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randread --bs=4k --iodepth=64 --size=8m --number_ios=64
	local fio=$pid
	sleep 1
	end_pid "$me" KILL
	timed_del r-stuck || return
	kill -CONT "$server"
	wait_for 15000 ended "$fio" || return
	grep -q 'Input/output error' "$work/fio-bg"
}

plan 6
check "killed when idle, split" best_of_three idle
check "killed when idle, packed" best_of_three idle --packed on
check "killed under fio, split, 4 queues" best_of_three busy_disk
check "killed under fio, packed, 4 queues" best_of_three busy_disk --packed on
check "killed with requests stuck at the server, split" best_of_three stuck_server
check "killed with requests stuck at the server, packed" best_of_three stuck_server --packed on
finish
