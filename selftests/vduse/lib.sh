# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# TAP and clean-up for the shell tests. A test is a function; it passes when it
# returns 0, and what it printed is shown when it did not. Each runs in this
# shell, so it leaves what it started in the lists below, and finish() ends
# exactly that.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
tap_number=0 tap_failed=0
started_pids=() used_devices=()

say() { echo "# $*"; }

# plan N: how many results there will be
plan()
{
	echo "TAP version 13"
	echo "1..$1"
}

# result STATUS NAME
result()
{
	tap_number=$((tap_number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $tap_number $2"
	else
		echo "not ok $tap_number $2"
		tap_failed=1
	fi
}

# check NAME COMMAND...
check()
{
	local name=$1 status
	shift
	"$@" >"$work/output" 2>&1
	status=$?
	[ $status -eq 0 ] || sed 's/^/#   /' "$work/output"
	result $status "$name"
	reap
}

# skip NAME REASON
skip()
{
	tap_number=$((tap_number + 1))
	echo "ok $tap_number $1 # SKIP $2"
}

# skip_all REASON: nothing here can run
skip_all()
{
	echo "TAP version 13"
	echo "1..0 # SKIP $1"
	exit 4
}

# now_ms: monotonic, 10 ms steps
now_ms()
{
	local up
	read -r up _ </proc/uptime
	echo $((10#${up/./} * 10))
}

# wait_for MS COMMAND...: until it succeeds
wait_for()
{
	local ms=$1 end
	end=$(($(now_ms) + ms))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt "$end" ] || {
			echo "not within $ms ms: $*" >&2
			return 1
		}
		sleep 0.02
	done
}

# start LOG COMMAND...: in the background; its process ID is in $pid
start()
{
	local log=$1
	shift
	"$@" >"$log" 2>&1 &
	pid=$!
	started_pids+=("$pid")
}

# disk_of NAME: prints /dev/vdX of the vDPA device, once it has a size
disk_of()
{
	local size
	for size in /sys/bus/vdpa/devices/"$1"/virtio*/block/*/size; do
		[ -e "$size" ] && [ "$(cat "$size")" -gt 0 ] || return 1
		size=${size%/size}
		[ -b "/dev/${size##*/}" ] || return 1
		echo "/dev/${size##*/}"
	done
}

# add NAME [DRIVER]: vDPA device, bound to virtio_vdpa; sets $disk
add()
{
	local name=$1 driver=${2:-virtio_vdpa} dev=/sys/bus/vdpa/devices/$1
	used_devices+=("$name")
	echo 0 >/sys/bus/vdpa/drivers_autoprobe
	vdpa dev add name "$name" mgmtdev vduse || return
	echo "$driver" >"$dev/driver_override" || return
	echo "$name" >/sys/bus/vdpa/drivers_probe || return
	disk=
	[ "$driver" = virtio_vdpa ] || return 0
	wait_for 10000 disk_of "$name" >/dev/null || {
		say "no disk for $name"
		return 1
	}
	# shellcheck disable=SC2034 # for the tests
	disk=$(disk_of "$name")
}

# timed_del NAME: milliseconds of vdpa dev del are in $took
timed_del()
{
	local begin
	begin=$(now_ms)
	vdpa dev del "$1" || return
	took=$(($(now_ms) - begin))
	echo "vdpa dev del took $took ms"
}

# testd NAME OPTION...: the test device, ready for 'add'; its pid is in $pid
testd()
{
	local name=$1
	start "$work/$name.log" "$here/testd" "$@"
	wait_for 5000 grep -qs ready "$work/$name.log" && return
	cat "$work/$name.log"
	return 1
}

# fio_verify DISK [OPTION...]: writes, reads back and verifies
fio_verify()
{
	local file=$1
	shift
	fio --name=verify --filename="$file" --direct=1 --ioengine=libaio \
		--rw=randwrite --bsrange=512-64k --blockalign=512 --iodepth=16 \
		--verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0 \
		--output="$work/fio.out" "$@" || {
		tail -n 20 "$work/fio.out"
		return 1
	}
	grep -Eq 'err= *0' "$work/fio.out" || {
		tail -n 20 "$work/fio.out"
		return 1
	}
}

# end_pid PID [SIGNAL]: ends and reaps one that was started here; one that does
# not end by itself within ten seconds is killed
end_pid()
{
	kill -"${2:-TERM}" "$1" 2>/dev/null
	wait_for 10000 ended "$1" || {
		say "process $1 ($(cat "/proc/$1/comm")) had to be killed"
		kill -KILL "$1"
	}
	wait "$1" 2>/dev/null
	return 0
}

# ended PID: it is a zombie or gone
ended() { ! grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$1/status"; }

# reap: ends what a test left: devices first, while their daemons still live,
# then daemons before the servers that they use
reap()
{
	local name p i
	for name in "${used_devices[@]}"; do
		[ -e "/sys/bus/vdpa/devices/$name" ] && vdpa dev del "$name"
	done
	for ((i = ${#started_pids[@]} - 1; i >= 0; i--)); do
		p=${started_pids[i]}
		kill -0 "$p" 2>/dev/null && end_pid "$p"
	done
	for name in "${used_devices[@]}"; do
		[ -e "/dev/vduse/$name" ] && "$here/testd" "$name" destroy
	done
	started_pids=() used_devices=()
}

finish()
{
	reap
	rm -rf "$work"
	exit $tap_failed
}
trap 'reap; rm -rf "$work"' EXIT

sh "$here/load.sh" || skip_all_failed=1
if [ -n "${skip_all_failed-}" ]; then
	plan 1
	result 1 "vduse can be loaded"
	exit 1
fi
