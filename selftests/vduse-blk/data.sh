#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Data: fio with checksums through both ring formats and several queues, file
# systems, every backend and every way to reach a server.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

verify() # OPTION...
{
	nbd_server "$work/s" memory 64M || return
	serve d-verify "nbd+unix:///?socket=$work/s" "$@" || return
	fio_verify "$disk" --size=6m --numjobs=2 --offset_increment=8m --group_reporting || return
	stop "$pid"
}

# More data in flight than the bounce buffer holds.
large_requests() # OPTION...
{
	nbd_server "$work/s" memory 128M || return
	serve d-large "nbd+unix:///?socket=$work/s" --queues 2 "$@" || return
	fio_verify "$disk" --size=24m --numjobs=4 --offset_increment=32m --bsrange=512-1m \
		--iodepth=32 --group_reporting || return
	stop "$pid"
}

# Trimmed ranges read as zeroes from the memory plugin; the rest is untouched.
discard()
{
	nbd_server "$work/s" memory 64M || return
	serve d-trim "nbd+unix:///?socket=$work/s" --queues 2 || return
	dd if=/dev/urandom of="$work/data" bs=1M count=8 status=none
	dd if="$work/data" of="$disk" bs=1M oflag=direct status=none || return
	blkdiscard -o 1M -l 2M "$disk" || return
	blkdiscard -z -o 5M -l 1M "$disk" || return
	dd if=/dev/zero of="$work/data" bs=1M seek=1 count=2 conv=notrunc status=none
	dd if=/dev/zero of="$work/data" bs=1M seek=5 count=1 conv=notrunc status=none
	dd if="$disk" bs=1M count=8 iflag=direct status=none | cmp - "$work/data" || return
	fio_verify "$disk" --size=4m --rw=randtrimwrite --bsrange=4k-64k --blockalign=4k --verify=0 &&
		stop "$pid"
}

# copy_tree DIR: some hundred files of all sizes
copy_tree()
{
	find /usr/share -type f | head -n 500 | tar -C / -cf - -T - 2>/dev/null | tar -C "$1" -xf -
}

filesystem() # TYPE OPTION...
{
	local type=$1 mnt=$work/mnt sum
	shift
	rm -f "$work/image"
	truncate -s 320M "$work/image"
	nbd_server "$work/s" file "$work/image" || return
	serve d-fs "nbd+unix:///?socket=$work/s" "$@" || return
	"mkfs.$type" -q "$disk" || return
	mkdir -p "$mnt"
	mount "$disk" "$mnt" || return
	copy_tree "$mnt" || return
	dd if=/dev/urandom of="$mnt/random" bs=64k count=64 status=none || return
	sum=$(checksums "$mnt")
	umount "$mnt" || return
	# Another daemon, and nothing in the page cache.
	stop "$pid" || return
	serve d-fs "nbd+unix:///?socket=$work/s" "$@" || return
	"fsck.$type" -n "$disk" || return
	mount "$disk" "$mnt" || return
	[ "$sum" = "$(checksums "$mnt")" ] || {
		umount "$mnt"
		return 1
	}
	umount "$mnt"
	stop "$pid"
}

round_trip() # URI OPTION...: 4 MiB of random data there and back
{
	serve d-trip "$@" || return
	dd if=/dev/urandom of="$work/data" bs=1M count=4 status=none
	dd if="$work/data" of="$disk" bs=128k oflag=direct conv=fsync status=none || return
	dd if="$disk" bs=256k count=16 iflag=direct status=none | cmp - "$work/data" || return
	stop "$pid"
}

tcp() # HOST [nbdkit's ADDRESS]
{
	ip link set lo up
	nbd_server 10809 -i "$2" memory 16M || return
	round_trip "nbd://$1/"
}

tcp_port_and_export()
{
	ip link set lo up
	mkdir -p "$work/exports"
	truncate -s 16M "$work/exports/disk one"
	nbd_server 10999 file "dir=$work/exports" || return
	round_trip "nbd://localhost:10999/disk%20one" || return
	cmp -n $((4 << 20)) "$work/data" "$work/exports/disk one"
}

file_backend()
{
	truncate -s 16M "$work/file"
	round_trip "file://$work/file" --queues 2 || return
	cmp -n $((4 << 20)) "$work/data" "$work/file"
}

null_backend()
{
	serve d-null "null:1G" --queues 2 || return
	[ "$(blockdev --getsize64 "$disk")" = $((1 << 30)) ] || return
	dd if=/dev/zero of="$disk" bs=64k count=32 oflag=direct status=none || return
	dd if="$disk" bs=64k count=32 iflag=direct status=none | cmp - <(head -c 2M /dev/zero) || return
	stop "$pid"
}

# Requests below, at and above the sizes at which buffers change.
odd_sizes()
{
	nbd_server "$work/s" memory 64M || return
	serve d-odd "nbd+unix:///?socket=$work/s" || return
	local bs
	for bs in 512 1536 4096 15872 16384 16896 131072 1048576; do
		dd if=/dev/urandom of="$work/data" bs="$bs" count=3 status=none
		dd if="$work/data" of="$disk" bs="$bs" seek=1 oflag=direct status=none || return
		dd if="$disk" bs="$bs" skip=1 count=3 iflag=direct status=none |
			cmp - "$work/data" || return
	done
	stop "$pid"
}

big_blocks()
{
	nbd_server "$work/s" memory 64M || return
	serve d-4k "nbd+unix:///?socket=$work/s" --block-size 4096 --queues 2 || return
	[ "$(blockdev --getss "$disk")" = 4096 ] || return
	fio_verify "$disk" --size=6m --bsrange=4k-64k --blockalign=4k || return
	stop "$pid"
}

# sync_from CPU: a flush of the virtqueue that this processor uses
sync_from() { timeout 30 taskset -c "$1" sync "$disk"; }

becomes() # TABLE of /dev/mapper/d-below
{
	dmsetup suspend --noflush --nolockfs d-below && dmsetup load d-below --table "$1" &&
		dmsetup resume d-below
}

# What is below the file backend cannot write back what was acknowledged: the kernel says
# so once to everybody who has it open, and each virtqueue's next flush has to fail.
write_back_fails()
{
	local loop sectors=$((64 * 2048)) status=0
	modprobe -a loop dm-mod || return
	truncate -s 64M "$work/below"
	loop=$(losetup -f --show "$work/below") || return
	dmsetup create d-below --table "0 $sectors linear $loop 0" && dmsetup mknodes d-below || return
	serve d-back file:///dev/mapper/d-below --queues 2 || return
	dd if=/dev/zero of="$disk" bs=4k count=16 oflag=direct status=none || return
	becomes "0 $sectors error" || return
	sync_from 0 && echo "the first flush succeeds" && status=1
	sync_from 1 && echo "that of the other virtqueue succeeds" && status=1
	becomes "0 $sectors linear $loop 0" || return
	sync_from 0 && sync_from 1 || return
	stop "$pid" || return
	dmsetup remove d-below && losetup -d "$loop" || return
	return "$status"
}

plan 18
check "fio verify, split, 1 queue" verify --packed off
check "fio verify, split, 4 queues" verify --packed off --queues 4
check "fio verify, packed, 1 queue" verify --packed on
check "fio verify, packed, 4 queues" verify --packed on --queues 4
check "fio verify, ring of 16" verify --queue-size 16 --queues 2
check "fio verify, up to 1 MiB, split" large_requests
check "fio verify, up to 1 MiB, packed" large_requests --packed on
check "discard and write zeroes" discard
check "ext4, split, 4 queues" filesystem ext4 --queues 4
check "xfs, packed, 2 queues" filesystem xfs --packed on --queues 2
check "TCP, IPv4" tcp 127.0.0.1 127.0.0.1
check "TCP, IPv6" tcp "[::1]" ::1
check "TCP, port and export name with a blank" tcp_port_and_export
check "file backend" file_backend
if [ "$(nproc)" -ge 2 ]; then
	check "file backend, a write-back that fails" write_back_fails
else
	skip "file backend, a write-back that fails" "one processor uses one virtqueue"
fi
check "null backend" null_backend
check "request sizes around buffer sizes" odd_sizes
check "4096-byte blocks" big_blocks
finish
