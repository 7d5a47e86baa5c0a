#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Whatever state the daemon and its server are in, the device has to go, and "stop" has to
# return: in under a second (the best of three rounds, for the machine may be busy), with
# errors for its users.

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

# start_load: on $disk, well under way; sets $fio
start_load()
{
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bsrange=4k-64k --iodepth=32 --numjobs=4 --size=8m \
		--offset_increment=8m --time_based --runtime=60
	fio=$pid
	wait_for 20000 busy "$disk"
}

busy_disk()
{
	local me fio
	nbd_server "$work/s" memory 64M || return
	serve r-busy "nbd+unix:///?socket=$work/s" --queues 4 "$@" || return
	me=$pid
	start_load || return
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

# timed_stop NAME: milliseconds of "vduse-blk stop" are in $took
timed_stop()
{
	local begin
	begin=$(now_ms)
	"$daemon" stop "$1" || return
	took=$(($(now_ms) - begin))
	echo "stop took $took ms"
	[ ! -e "/dev/vduse/$1" ] && [ ! -e "/sys/bus/vdpa/devices/$1" ]
}

# The server does not matter to a daemon without requests.
live_idle() # timed_stop|timed_del
{
	nbd_server "$work/s" memory 64M || return
	serve r-live "nbd+unix:///?socket=$work/s" --queues 4 || return
	local me=$pid
	kill -STOP "$server"
	"$1" r-live || return
	kill -CONT "$server"
	ended "$me" || end_daemon "$me"
}

# end_daemon PID: which "vdpa dev del" has left for the next driver
end_daemon()
{
	kill -TERM "$1" && wait_for 10000 ended "$1"
}

# live_waiting HOW SIGNAL: requests are stuck, the server is stopped or killed. A part of the
# second is --stop-timeout: with its default of 500 ms a busy machine has too little left.
live_waiting()
{
	local me fio
	nbd_server "$work/s" memory 64M || return
	serve r-live "nbd+unix:///?socket=$work/s" --queues 4 --stop-timeout 200ms || return
	me=$pid
	kill -"$2" "$server" || return
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bs=4k --iodepth=64 --size=8m --number_ios=256
	fio=$pid
	wait_for 10000 waiting "$disk" 64 || return
	"$1" r-live || return
	wait_for 15000 ended "$fio" || return
	grep -q 'Input/output error' "$work/fio-bg" || return
	kill -CONT "$server" 2>/dev/null
	ended "$me" || end_daemon "$me"
}

# Storage that gets on is waited for.
live_busy() # timed_stop|timed_del
{
	local me fio
	nbd_server "$work/s" memory 64M || return
	serve r-live "nbd+unix:///?socket=$work/s" --queues 4 --packed on || return
	me=$pid
	start_load || return
	"$1" r-live || return
	wait_for 15000 ended "$fio" || return
	ended "$me" || end_daemon "$me"
}

plan 14
check "killed when idle, split" best_of_three idle
check "killed when idle, packed" best_of_three idle --packed on
check "killed under fio, split, 4 queues" best_of_three busy_disk
check "killed under fio, packed, 4 queues" best_of_three busy_disk --packed on
check "killed with requests stuck at the server, split" best_of_three stuck_server
check "killed with requests stuck at the server, packed" best_of_three stuck_server --packed on
for how in stop del; do
	check "$how: idle, server hangs" best_of_three live_idle "timed_$how"
	check "$how: under fio, packed" best_of_three live_busy "timed_$how"
	check "$how: requests wait, server hangs" best_of_three live_waiting "timed_$how" STOP
	check "$how: requests wait, server gone" best_of_three live_waiting "timed_$how" KILL
done
finish
