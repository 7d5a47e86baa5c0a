#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The daemon is killed with SIGKILL and started again: whoever uses the disk sees
# a delay, no error, and every byte where it was written. What does not fit is
# refused, and nothing is lost by having tried.

# shellcheck source-path=SCRIPTDIR source=load_fio.sh
. "$(dirname "$0")/load_fio.sh"

rounds=${RECOVERY_ROUNDS:-12}
# The server is on this host: what a dead connection had sent is not long on its way.
fence=(--fence-timeout 200ms)

# again NAME URI OPTION...: starts the daemon of a device that is there; it has to
# find the same disk
again()
{
	local before=$disk
	serve "$@" || return
	[ "$disk" = "$before" ] && return
	echo "was $before, is $disk now"
	return 1
}

# nbdkit 1.32 aborts when a client with several requests in flight is killed and
# more than one of its threads answers that client.
server() { nbd_server "$work/s" --threads 1 memory 64M; }

folder() { echo "/run/vduse-blk/$1"; }

kills_under_load() # QUEUES OPTION...
{
	local queues=$1 me i
	shift
	dmesg -C
	server || return
	serve v-load "nbd+unix:///?socket=$work/s" --queues "$queues" "${fence[@]}" "$@" || return
	me=$pid
	start_fio "$queues"
	for ((i = 0; i < rounds; i++)); do
		wait_for 30000 moves_on || fio_is_well || return
		sleep "0.$((RANDOM % 30))"
		end_pid "$me" KILL
		[ -e "$(folder v-load)/inflight" ] || return
		again v-load "nbd+unix:///?socket=$work/s" --queues "$queues" "${fence[@]}" "$@" || return
		me=$pid
		# Some die again before they have got far.
		[ $((i % 3)) = 2 ] || continue
		end_pid "$me" KILL
		again v-load "nbd+unix:///?socket=$work/s" --queues "$queues" "${fence[@]}" "$@" || return
		me=$pid
	done
	wait_for 30000 moves_on
	end_fio || return
	fio_verify "$disk" --size=6m --numjobs=2 --offset_increment=8m --group_reporting || return
	stop "$me" || return
	[ ! -e "$(folder v-load)" ] || return
	no_kernel_complaint
}

# Killed with requests stuck at the server: they end with the next daemon.
stuck_requests() # OPTION...
{
	local me fio
	server || return
	serve v-stuck "nbd+unix:///?socket=$work/s" "${fence[@]}" "$@" || return
	me=$pid
	kill -STOP "$server"
	start "$work/fio" fio --name=stuck --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randread --bs=4k --iodepth=32 --size=8m --number_ios=64
	fio=$pid
	wait_for 10000 waiting "$disk" 1 || return
	end_pid "$me" KILL
	kill -CONT "$server"
	again v-stuck "nbd+unix:///?socket=$work/s" "${fence[@]}" "$@" || return
	wait "$fio" || {
		cat "$work/fio"
		return 1
	}
	stop "$pid"
}

# A file system that is used while its daemon is killed.
file_system()
{
	local me mnt=$work/mnt i
	rm -f "$work/image"
	truncate -s 128M "$work/image"
	serve v-fs "file://$work/image" || return
	me=$pid
	mkfs.ext4 -q "$disk" || return
	mkdir -p "$mnt"
	mount "$disk" "$mnt" || return
	for i in 1 2 3 4; do
		start "$work/dd" dd if=/dev/urandom of="$mnt/file$i" bs=64k count=64 conv=fsync
		local writer=$pid
		sleep 0.1
		end_pid "$me" KILL
		again v-fs "file://$work/image" || return
		me=$pid
		wait "$writer" || return
		cksum <"$mnt/file$i" >"$work/sum$i"
	done
	umount "$mnt" || return
	stop "$me" || return
	serve v-fs "file://$work/image" || return
	fsck.ext4 -nf "$disk" || return
	mount "$disk" "$mnt" || return
	for i in 1 2 3 4; do
		cksum <"$mnt/file$i" | cmp - "$work/sum$i" || {
			umount "$mnt"
			return 1
		}
	done
	umount "$mnt"
	stop "$pid"
}

# Of two that start at once one gets the device, the other names it.
race()
{
	local first second winner loser i
	serve v-race null:64M || return
	end_pid "$pid" KILL
	for i in 1 2 3 4 5; do
		start "$work/race1" "$daemon" serve --name v-race --uri null:64M
		first=$pid
		start "$work/race2" "$daemon" serve --name v-race --uri null:64M
		second=$pid
		wait_for 20000 one_of "$first" "$second" || return
		if kill -0 "$first" 2>/dev/null; then
			winner=$first loser=2
		else
			winner=$second loser=1
		fi
		wait_for 20000 grep -q '^/dev/' "$work/race$((3 - loser))" || return
		grep -q "a vduse-blk that serves \"v-race\" is running, process $winner" \
			"$work/race$loser" || {
			cat "$work/race$loser"
			return 1
		}
		dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct status=none || return
		end_pid "$winner" KILL
	done
	again v-race null:64M || return
	stop "$pid"
}

# Exactly one of them lives.
one_of()
{
	local n=0
	kill -0 "$1" 2>/dev/null && n=$((n + 1))
	kill -0 "$2" 2>/dev/null && n=$((n + 1))
	[ "$n" = 1 ]
}

# refused NAME TEXT URI OPTION...: it says TEXT and how to give up
refused()
{
	local name=$1 text=$2 uri=$3
	shift 3
	"$daemon" serve --name "$name" --uri "$uri" "$@" >"$work/refused" 2>&1 && return 1
	grep -q "cannot go on with \"$name\", whose process was killed: .*$text" "$work/refused" &&
		grep -q "vdpa dev del $name" "$work/refused" && return
	cat "$work/refused"
	return 1
}

what_does_not_fit()
{
	truncate -s 64M "$work/image"
	serve v-fit "file://$work/image" --queues 2 || return
	end_pid "$pid" KILL
	refused v-fit 'the device has 2 queues, --queues says 1' "file://$work/image" || return
	refused v-fit "up to 256 entries, --queue-size says 64" "file://$work/image" \
		--queues 2 --queue-size 64 || return
	truncate -s 32M "$work/image"
	refused v-fit 'the disk has 131072 sectors, the storage only 65536 now' \
		"file://$work/image" --queues 2 || return
	truncate -s 64M "$work/image"
	refused v-fit 'the disk was writable and is read-only now' "file://$work/image" \
		--queues 2 --read-only || return
	again v-fit "file://$work/image" --queues 2 || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	stop "$pid"
}

damaged_log()
{
	local log
	log=$(folder v-log)/inflight
	serve v-log null:64M || return
	end_pid "$pid" KILL
	cp "$log" "$work/saved"
	dd if=/dev/urandom of="$log" bs=1k count=16 conv=notrunc status=none
	refused v-log 'is damaged' null:64M || return
	truncate -s 100 "$log"
	refused v-log 'is damaged' null:64M || return
	rm "$log"
	refused v-log 'there is no log of requests in flight' null:64M || return
	cp "$work/saved" "$log"
	again v-log null:64M || return
	stop "$pid"
}

foreign_log()
{
	serve v-one null:64M || return
	local one=$pid
	serve v-two null:64M || return
	end_pid "$pid" KILL
	cp "$(folder v-two)/inflight" "$work/saved"
	cp "$(folder v-one)/inflight" "$(folder v-two)/inflight"
	refused v-two 'is of a device "v-one"' null:64M || return
	cp "$work/saved" "$(folder v-two)/inflight"
	again v-two null:64M || return
	stop "$pid" || return
	stop "$one"
}

# The way out that the messages name.
give_up()
{
	serve v-up null:64M --queues 2 || return
	end_pid "$pid" KILL
	refused v-up 'the device has 2 queues' null:64M || return
	vdpa dev del v-up || return
	serve v-up null:64M || return
	dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct status=none || return
	stop "$pid"
}

grown()
{
	truncate -s 64M "$work/image"
	serve v-grow "file://$work/image" || return
	end_pid "$pid" KILL
	truncate -s 96M "$work/image"
	again v-grow "file://$work/image" || return
	wait_for 10000 sectors 196608 || return
	dd if=/dev/zero of="$disk" bs=1M seek=90 count=1 oflag=direct status=none || return
	stop "$pid"
}

sectors() { [ "$(cat "/sys/block/${disk##*/}/size")" = "$1" ]; }

# Each life opens the same; nothing is handed down.
descriptors()
{
	local first last i
	server || return
	serve v-fds "nbd+unix:///?socket=$work/s" --queues 4 || return
	first=$(find "/proc/$pid/fd" -type l | wc -l)
	for i in 1 2 3 4 5; do
		end_pid "$pid" KILL
		again v-fds "nbd+unix:///?socket=$work/s" --queues 4 || return
	done
	dd if="$disk" of=/dev/null bs=4k count=64 iflag=direct status=none || return
	last=$(find "/proc/$pid/fd" -type l | wc -l)
	echo "$first descriptors at first, $last in the end"
	[ "$last" -le "$first" ] || return
	stop "$pid"
}

account()
{
	serve v-user null:64M --user nobody || return
	end_pid "$pid" KILL
	again v-user null:64M --user nobody || return
	[ "$(stat -c %U "/proc/$pid")" = nobody ] || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	stop "$pid"
}

# A server whose cache dies with it.
writeback_server()
{
	nbd_server "$work/s" --threads 1 --filter=cache file "$work/image" cache=writeback
}

image_has_it()
{
	head -c 4096 "$work/image" | grep -aq acknowledged &&
		head -c $((64 * 4096)) "$work/image" | tail -c 4096 | grep -aq acknowledged
}

# unflushed NAME OPTION...: serves a disk with writes that are acknowledged, and in the
# server's cache alone
unflushed()
{
	local name=$1
	shift
	rm -f "$work/image"
	truncate -s 64M "$work/image"
	writeback_server || return
	serve "$name" "nbd+unix:///?socket=$work/s" "$@" || return
	yes acknowledged | dd of="$disk" bs=4k count=64 iflag=fullblock oflag=direct status=none
}

# Writes are acknowledged and not flushed when the daemon is killed, and then the
# server: the next daemon writes them again before it answers a flush, or says in its
# answer, once, that it cannot (WANT 1).
both_die() # WANT OPTION...
{
	local want=$1 status=0
	shift
	unflushed v-both "${fence[@]}" "$@" || return
	end_pid "$pid" KILL
	end_pid "$server" KILL
	image_has_it && echo "the server had written it back" && return 1
	writeback_server || return
	again v-both "nbd+unix:///?socket=$work/s" "${fence[@]}" "$@" || return
	sync "$disk" || status=1
	[ "$status" = "$want" ] || return
	sync "$disk" || return
	[ "$want" = 1 ] || image_has_it || return
	# What is told is told once, and what is flushed is not written again.
	end_pid "$pid" KILL
	again v-both "nbd+unix:///?socket=$work/s" "${fence[@]}" "$@" || return
	sync "$disk" || return
	grep -F 'acknowledged writes' "$work/v-both.log"
	stop "$pid"
}

# A clean end leaves nothing in the server's cache alone.
ends_flushed()
{
	unflushed v-end "$@" || return
	stop "$pid" || return
	end_pid "$server" KILL
	image_has_it
}

# The server is away when the daemon is started again: the device is there, and whoever
# uses it waits, for as long as nobody says otherwise.
server_away()
{
	local me reader
	rm -f "$work/image"
	truncate -s 64M "$work/image"
	nbd_server "$work/s" --threads 1 file "$work/image" || return
	serve v-away "nbd+unix:///?socket=$work/s" "${fence[@]}" --reconnect-max 500ms || return
	end_pid "$pid" KILL
	end_pid "$server" KILL
	again v-away "nbd+unix:///?socket=$work/s" "${fence[@]}" --reconnect-max 500ms || return
	me=$pid
	start "$work/reader" dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
	reader=$pid
	wait_for 10000 waiting "$disk" 1 || return
	"$daemon" status v-away | grep -E '^(server|backend) ' || return
	"$daemon" status v-away | grep -q 'not reached yet' || return
	nbd_server "$work/s" --threads 1 file "$work/image" || return
	wait "$reader" || return
	"$daemon" status v-away | grep -q 'structured replies' || return
	# And once more, but nobody waits for it any more.
	end_pid "$me" KILL
	end_pid "$server" KILL
	again v-away "nbd+unix:///?socket=$work/s" "${fence[@]}" || return
	me=$pid
	start "$work/reader" dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
	reader=$pid
	wait_for 10000 waiting "$disk" 1 || return
	"$daemon" fail v-away || return
	! wait "$reader" || return
	"$daemon" stop v-away || return
	wait_for 5000 gone "$me"
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# The kernel reads the partition table, and the storage does not answer.
kept_while_attaching()
{
	local me
	nbd_server "$work/s" --filter=delay memory 64M rdelay=120 || return
	used_devices+=(v-hung)
	start "$work/v-hung.log" "$daemon" serve --name v-hung --uri "nbd+unix:///?socket=$work/s"
	me=$pid
	wait_for 20000 in_state v-hung attaching || return
	wait_for 20000 test -e /dev/vduse/v-hung || return
	# The process itself may have to wait for the kernel; nothing is locked by it.
	"$daemon" stop v-hung --keep || return
	cat "$work/v-hung.log"
	[ -e /run/vduse-blk/v-hung/inflight ] || return
	end_pid "$server" KILL
	nbd_server "$work/s" memory 64M || return
	serve v-hung "nbd+unix:///?socket=$work/s" "${fence[@]}" || return
	wait_for 20000 gone "$me" || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	stop "$pid"
}

in_state() { [ "$(field "$1" state 2>/dev/null)" = "$2" ]; }

plan 22
check "kill -9 under fio, 1 queue, split" kills_under_load 1
check "kill -9 under fio, 1 queue, packed" kills_under_load 1 --packed on
check "kill -9 under fio, 4 queues, split" kills_under_load 4
check "kill -9 under fio, 4 queues, packed" kills_under_load 4 --packed on
check "requests stuck at the server, split" stuck_requests
check "requests stuck at the server, packed" stuck_requests --packed on
check "file system" file_system
check "two daemons race for one device" race
check "what does not fit is refused" what_does_not_fit
check "damaged log" damaged_log
check "another device's log" foreign_log
check "giving up" give_up
check "storage that has grown" grown
check "no descriptor is leaked" descriptors
check "--user" account
check "daemon and server die, 1 queue" both_die 0
check "daemon and server die, 4 queues" both_die 0 --queues 4
check "daemon and server die, no replay log" both_die 1 --replay-log off
check "a clean end flushes" ends_flushed
check "a clean end flushes, no replay log" ends_flushed --replay-log off --queues 4
check "server away" server_away
check "left to a successor while it is attached" kept_while_attaching
finish
