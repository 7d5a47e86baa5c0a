#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: power_check.sh ACKS MOUNT-POINT COPY MARK
#
# What log_replay runs for each power loss: the file system in COPY can be
# mounted, has every record that was acknowledged when the mark was set
# (acks-BYTES: so long was the list then), and is clean.

here=$(cd "$(dirname "$0")" && pwd)
acks=$1 mnt=$2 copy=$3 mark=$4
bytes=16
case $mark in
acks-[0-9]*) [ "${mark#acks-}" -lt 16 ] || bytes=${mark#acks-} ;;
esac

loop=$(losetup -f --show "$copy") || exit 1
status=1
if mount "$loop" "$mnt"; then
	"$here/fsync_check" verify "$mnt/records" "$acks" "bytes=$bytes" >"$copy.out" 2>&1
	status=$?
	# The folder itself may not be durable yet: nothing was promised then.
	[ -d "$mnt/records" ] || [ "$bytes" -gt 16 ] || status=0
	umount "$mnt"
	if ! e2fsck -fn "$loop" >"$copy.fsck" 2>&1; then
		cat "$copy.fsck"
		status=1
	fi
fi
losetup -d "$loop"
[ $status -eq 0 ] || cat "$copy.out"
exit $status
