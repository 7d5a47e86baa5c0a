#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Power losses of the server. dm-log-writes below the server's disk writes down
# what becomes durable when, while a load with a lot of fsync runs on top of
# everything:
#
#   fsync_check ── ext4 ── disk ── vduse-blk ── nbdkit ── dm-log-writes
#
# Afterwards every power loss that the log allows is made from it (log_replay),
# and each time the file system has to be clean and every record that had been
# acknowledged has to be there. A server that ignores flushes has to be found
# out by the same test; there are boundaries in its log because somebody else on
# its host flushes the disk now and then.
#
# In the environment: POWER_SECONDS (2), POWER_BOUNDARIES (12; 0 is all) and
# POWER_SUBSETS (2) for each of them; tools/check-long has all boundaries with
# 50 subsets.

# shellcheck source-path=SCRIPTDIR source=cell.sh
. "$(dirname "$0")/cell.sh"

seconds=${POWER_SECONDS:-2}
boundaries=${POWER_BOUNDARIES:-12}
subsets=${POWER_SUBSETS:-2}
size=$((32 << 20))
data_loop='' log_loop='' flushes_outside=''

# A disk whose writes are logged: /dev/mapper/power. Its logical blocks have 4096
# bytes. A power loss may tear a write between any two logical blocks, for no disk
# promises more; and ext4 needs one of 4096, for its super block has 1024 bytes, with
# a checksum, and is written in place: on 512 it cannot always be mounted, whoever
# serves the disk.
logged_disk()
{
	cell=$work/cell
	rm -rf "$cell"
	mkdir -p "$cell/mnt"
	truncate -s "$size" "$cell/data"
	truncate -s 1G "$cell/log"
	data_loop=$(losetup -b 4096 -f --show "$cell/data") && log_loop=$(losetup -f --show "$cell/log") &&
		dmsetup create power --table "0 $((size / 512)) log-writes $data_loop $log_loop" &&
		dmsetup mknodes power
}

no_logged_disk()
{
	dmsetup info power >/dev/null 2>&1 && { limited 20 dmsetup remove power ||
		make_dirty "the logged disk is in use"; }
	[ -z "$data_loop" ] || losetup -d "$data_loop"
	[ -z "$log_loop" ] || losetup -d "$log_loop"
	data_loop='' log_loop=''
}

mark() { dmsetup message power 0 mark "$1"; }

# How long the list of acknowledgements is goes into the log all the time, ahead of
# the load's own work: what no mark says is promised to nobody. The length is read
# first: the mark never promises too much.
mark_acks()
{
	chrt -f -p 1 "$BASHPID" || return
	while [ ! -e "$cell/stop" ]; do
		mark "acks-$(stat -c %s "$cell/acks" 2>/dev/null || echo 0)"
		sleep 0.05
	done
}

flush_outside()
{
	while [ ! -e "$cell/stop" ]; do
		sync -d /dev/mapper/power
		sleep 0.1
	done
}

load_on_top()
{
	local p
	limited 60 mkfs.ext4 -q -F -b 4096 "$disk" || return
	mark start || return
	limited 30 mount "$disk" "$cell/mnt" || return
	mkdir "$cell/mnt/records"
	mark_acks &
	readers=($!)
	[ -z "$flushes_outside" ] || {
		flush_outside &
		readers+=($!)
	}
	limited $((seconds + 60)) "$here/fsync_check" run "$cell/mnt/records" "$cell/acks" \
		threads=3 segments=100 "seconds=$seconds" || return
	touch "$cell/stop"
	for p in "${readers[@]}"; do
		until_true 10 gone "$p" || return
	done
	limited 40 umount "$cell/mnt"
}

# record [FILTER PARAMETER]: of nbdkit; runs the load, ends everything but the log
record()
{
	logged_disk || return
	server_start ${1:+--filter="$1"} file /dev/mapper/power ${2:+"$2"} || return
	subject_start 2 split || return
	load_on_top || return
	subject_stop || return
	server_kill
	no_logged_disk
	[ -z "$dirty" ]
}

replay() # BOUNDARIES SUBSETS
{
	rm -f "$cell/data"
	truncate -s "$size" "$cell/data"
	"$here/log_replay" "$cell/log" "$cell/data" "$cell/copy" start "boundaries=$1" \
		"subsets=$2" -- "$here/power_check.sh" "$cell/acks" "$cell/mnt"
}

nothing_is_lost()
{
	record && replay "$boundaries" "$subsets"
}

liar_is_found_out()
{
	local status
	flushes_outside=1
	record fua fuamode=discard || return
	replay 0 1 >"$work/found"
	status=$?
	cat "$work/found"
	# Not that it could not be done (2).
	[ "$status" -eq 1 ] && grep -q 'the check fails for a power loss' "$work/found"
}

# step NAME FUNCTION
step()
{
	local status
	"$2" >"$work/output" 2>&1
	status=$?
	touch "$cell/stop"
	load_unmount
	[ -n "$dirty" ] || subject_stop >/dev/null
	servers_end
	no_logged_disk
	[ $status -eq 0 ] || sed 's/^/#   /' "$work/output" | tail -n 30
	grep -E '^(records|entries)=' "$work/output" | sed 's/^/# /'
	result $status "$1"
}

trap '' EXIT
plan 2
modprobe -a veth loop dm-log-writes 2>/dev/null
network_up || exit 1
load_kind=ext4
step "power losses: the file system is clean, every acknowledged record is there" nothing_is_lost
if [ -n "$dirty" ]; then
	echo "# dirty: $dirty"
	exit 1
fi
step "power losses: a server that ignores flushes is found out" liar_is_found_out
network_down
rm -rf "$work"
exit $tap_failed
