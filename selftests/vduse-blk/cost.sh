#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What the daemon takes: nothing when idle, few system calls under load, and no
# more descriptors and mappings after many attachments.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

# switches PID: context switches of all its threads so far
switches()
{
	cat "/proc/$1"/task/*/status |
		awk '/^(non)?voluntary_ctxt_switches/ { n += $2 } END { print n }'
}

# Neither a timer nor a poll wakes an idle daemon. One switch a thread is left
# for the scheduler.
sleeps_when_idle() # URI OPTION...
{
	local before after threads
	serve k-idle "$@" || return
	dd if="$disk" of=/dev/null bs=4k count=64 iflag=direct status=none || return
	sleep 1
	threads=$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)
	before=$(switches "$pid")
	sleep 3
	after=$(switches "$pid")
	echo "$threads threads, $((after - before)) context switches in 3 s"
	[ $((after - before)) -le "$threads" ] || return
	stop "$pid"
}

idle_on_nbd()
{
	nbd_server "$work/s" memory 64M || return
	sleeps_when_idle "nbd+unix:///?socket=$work/s" --queues 4
}

# syscalls PID SECONDS: how many system calls its threads enter meanwhile, from
# the kernel's own count, which does not slow the daemon as strace would.
count_syscalls_begin()
{
	local t=/sys/kernel/tracing
	mountpoint -q "$t" || mount -t tracefs tracefs "$t" || return
	trigger=$t/events/raw_syscalls/sys_enter
	echo '!hist:keys=common_pid' >"$trigger/trigger" 2>/dev/null
	echo 'hist:keys=common_pid:size=4096' >"$trigger/trigger"
}

count_syscalls_end() # PID
{
	local tasks
	tasks=$(cd "/proc/$1/task" && echo *)
	syscalls=$(awk -v tasks="$tasks" '
		BEGIN { split(tasks, t, " "); for (i in t) mine[t[i]] = 1 }
		/common_pid:/ { gsub(/[{}:,]/, " "); if ($2 in mine) n += $4 }
		END { print n + 0 }' "$trigger/hist")
	echo '!hist:keys=common_pid:size=4096' >"$trigger/trigger"
}

# calls_per_read QUEUE-DEPTH LIMIT (in hundredths)
calls_per_read()
{
	local ios=2000
	nbd_server "$work/s" memory 64M || return
	serve k-calls "nbd+unix:///?socket=$work/s" || return
	count_syscalls_begin || return
	fio --name=calls --filename="$disk" --direct=1 --ioengine=libaio --rw=randread --bs=4k \
		--iodepth="$1" --iodepth_batch_submit=8 --number_ios="$ios" --size=32m \
		--output="$work/fio.out" || return
	count_syscalls_end "$pid"
	echo "$syscalls system calls for $ios reads at depth $1: $((syscalls * 100 / ios)) hundredths each"
	# At least one for each batch: zero means that nothing was counted.
	[ "$syscalls" -ge $((ios / 128)) ] && [ $((syscalls * 100 / ios)) -le "$2" ] || return
	stop "$pid"
}

descriptors() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
mappings() { wc -l <"/proc/$1/maps"; }

# Before the count the first rounds bring what is kept for good.
attach_and_detach()
{
	local me i before
	used_devices+=(k-fd)
	nbd_server "$work/s" memory 64M || return
	start "$work/k-fd.out" "$daemon" serve --name k-fd --uri "nbd+unix:///?socket=$work/s" \
		--queues 2 --bind none
	me=$pid
	wait_for 20000 grep -q ready "$work/k-fd.out" || return
	for i in 1 2 3 4 5 6 7 8 9 10; do
		add k-fd || return
		dd if="$disk" of=/dev/null bs=64k count=4 iflag=direct status=none || return
		vdpa dev del k-fd || return
		[ "$i" = 3 ] && before="$(descriptors "$me") $(mappings "$me")"
	done
	echo "descriptors and mappings after 3 rounds: $before, after 10: $(descriptors "$me") $(mappings "$me")"
	[ "$(descriptors "$me")" -le "${before% *}" ] || return
	[ "$(mappings "$me")" -le $((${before#* } + 2)) ] || return
	stop "$me"
}

# Memory does not grow with the requests.
memory_is_flat()
{
	local before after
	nbd_server "$work/s" memory 64M || return
	serve k-mem "nbd+unix:///?socket=$work/s" || return
	dd if="$disk" of=/dev/null bs=64k count=512 iflag=direct status=none || return
	before=$(memory_kb "$pid")
	for _ in 1 2 3 4; do
		dd if="$disk" of=/dev/null bs=64k count=512 iflag=direct status=none || return
	done
	after=$(memory_kb "$pid")
	echo "anonymous memory: $before KiB, then $after KiB"
	[ $((after - before)) -le 256 ] || return
	stop "$pid"
}

# Nor with a server that falls behind: the virtqueues are the only place where requests wait.
memory_is_flat_when_slow()
{
	local before after
	nbd_server "$work/s" --filter=delay memory 64M rdelay=200ms wdelay=200ms || return
	serve k-slow "nbd+unix:///?socket=$work/s" --replay-log off || return
	deep_pass 256 || return
	before=$(memory_kb "$pid")
	deep_pass 1024 || return
	after=$(memory_kb "$pid")
	echo "anonymous memory: $before KiB, then $after KiB"
	[ $((after - before)) -le 256 ] || return
	stop "$pid"
}

deep_pass() # REQUESTS
{
	fio --name=deep --filename="$disk" --direct=1 --ioengine=libaio --rw=randrw --bs=64k \
		--iodepth=128 --number_ios="$1" --size=32m --output="$work/fio.out"
}

plan 8
check "sleeps when idle, null" sleeps_when_idle null:64M --queues 2
check "sleeps when idle, four NBD connections" idle_on_nbd
check "sleeps when idle, file" sleeps_when_idle "file:///dev/sda" --read-only
check "system calls for a read at depth 32" calls_per_read 32 150
check "system calls for a read at depth 1" calls_per_read 1 600
check "descriptors and mappings after ten attachments" attach_and_detach
check "memory under load" memory_is_flat
check "memory with a slow server" memory_is_flat_when_slow
finish
