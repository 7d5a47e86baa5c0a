# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The two loads, and whether what they were promised is there. Both use only
# the first 48 MiB of the disk, so that an export of 64 MiB can shrink beside
# them.
#
#   raw    raw_check on the first 24 MiB (or less: $raw_size), and, unless errors
#          are expected, fio with checksums on 4 MiB behind them, pass after pass
#   ext4   a file system, on it fsync_check
#
# A load's files are in $cell. What was acknowledged is judged by what the
# server's disk holds at the end, not by what a cache would say.

# shellcheck source-path=SCRIPTDIR source=subjects.sh
. "$(dirname "${BASH_SOURCE[0]}")/subjects.sh"

raw_size=$((24 << 20))
load_pid=0 fio_pid=0 load_kind='' load_errors=''

# load_start KIND ERRORS SEED
load_start()
{
	load_kind=$1 load_errors=$2
	"load_start_$1" "$3"
}

load_start_raw()
{
	"$here/raw_check" run "$disk" "$cell/model" "size=$raw_size" threads=8 "seed=$1" \
		"${load_options[@]}" >"$cell/stats" 2>&1 &
	load_pid=$!
	# The write that comes late has to be one that will be overtaken.
	[ "$load_errors" = none ] && [ "$fault" != late-write ] || return 0
	fio_passes >"$cell/fio" 2>&1 &
	fio_pid=$!
}

fio_passes()
{
	while [ ! -e "$cell/stop" ]; do
		fio --name=verify --filename="$disk" --direct=1 --ioengine=libaio --rw=randwrite \
			--bsrange=4k-16k --iodepth=16 --offset=24m --size=4m --verify=crc32c \
			--verify_fatal=1 --do_verify=1 --verify_backlog=64 --verify_state_save=0 --randrepeat=0 \
			--output="$cell/fio.out" || {
			cat "$cell/fio.out"
			return 1
		}
		echo pass
	done
}

load_start_ext4()
{
	limited 60 mkfs.ext4 -q -F -b 4096 -E nodiscard "$disk" 48M || return
	mkdir -p "$cell/mnt"
	limited 30 mount -o errors=remount-ro "$disk" "$cell/mnt" || return
	mkdir "$cell/mnt/records"
	"$here/fsync_check" run "$cell/mnt/records" "$cell/acks" threads=4 "seed=$1" segments=4 \
		>"$cell/stats" 2>&1 &
	load_pid=$!
}

# How far it has come: requests, or acknowledgements.
load_progress()
{
	local n
	if [ "$load_kind" = raw ]; then
		n=$("$here/raw_check" progress "$cell/model" 2>/dev/null)
	else
		n=$(($(stat -c %s "$cell/acks" 2>/dev/null || echo 0) / 16))
	fi
	echo "${n:-0}"
}

load_beyond() { [ "$(load_progress)" -ge "$1" ]; }
load_ended() { gone "$load_pid"; }
load_beyond_or_ended() { load_beyond "$1" || load_ended; }

# load_stop SECONDS: it ends at the end of what it is doing
load_stop()
{
	local limit=$1 end
	end=$(($(now_ms) + limit * 1000))
	touch "$cell/stop"
	kill -TERM "$load_pid" 2>/dev/null
	until_true "$limit" gone "$load_pid" || return
	[ "$fio_pid" -eq 0 ] ||
		until_true $((($(now_ms) < end ? end - $(now_ms) : 0) / 1000 + 5)) gone "$fio_pid"
}

# load_result: what its programs said; sets $errors, $stall_ms and, if a block
# held what it must not, $wrong
load_result()
{
	local status=0 fio_status=0
	wait "$load_pid" 2>/dev/null || status=$?
	[ "$fio_pid" -eq 0 ] || wait "$fio_pid" 2>/dev/null || fio_status=$?
	load_pid=0
	errors=$(sed -n 's/.*\<errors=\([0-9]*\).*/\1/p' "$cell/stats" | tail -n 1)
	stall_ms=$(sed -n 's/.*longest_ms=\([0-9]*\).*/\1/p' "$cell/stats")
	first_error=$(sed -n 's/.*first_error=\([A-Za-z]*\).*/\1/p' "$cell/stats")
	wrong=
	if [ $status -ne 0 ] || [ -z "$errors" ]; then
		wrong=$(head -n 1 "$cell/stats")
		wrong="load, status $status: $wrong"
		[ $status -eq 1 ] || wrong="load failed: $wrong"
	fi
	if [ $fio_status -ne 0 ]; then
		if grep -q 'verify:\|Invalid or incomplete multibyte\|EILSEQ' "$cell/fio"; then
			wrong="fio: $(grep -m 1 'verify' "$cell/fio")"
		else
			errors=$((${errors:-0} + 1))
			[ "$first_error" != none ] || first_error=fio
		fi
	fi
	fio_pid=0
	: "${errors:=0}" "${stall_ms:=0}"
}

# load_unmount: the file system is left; nothing of it stays in a cache
load_unmount()
{
	[ "$load_kind" = ext4 ] && mountpoint -q "$cell/mnt" || return 0
	limited 40 umount "$cell/mnt"
}

# load_verify: everything acknowledged is on the server's disk
load_verify()
{
	"load_verify_$load_kind"
}

load_verify_raw()
{
	limited 60 "$here/raw_check" verify "$image" "$cell/model" "${load_options[@]}"
}

load_verify_ext4()
{
	local loop status options=()
	# Where errors are due ext4 may shut itself down.
	[ "$load_errors" = none ] || options=(shutdown=1)
	loop=$(losetup -f --show "$image") || return
	# Mounting replays the journal.
	limited 40 mount "$loop" "$cell/mnt" || {
		losetup -d "$loop"
		return 1
	}
	limited 60 "$here/fsync_check" verify "$cell/mnt/records" "$cell/acks" "${options[@]}"
	status=$?
	limited 30 umount "$cell/mnt" || status=1
	limited 60 e2fsck -fn "$loop" >"$cell/fsck" 2>&1 || {
		cat "$cell/fsck"
		status=1
	}
	losetup -d "$loop"
	return "$status"
}

# The loop and the fio that it runs.
end_fio()
{
	local child
	local -a children
	[ "$fio_pid" -gt 0 ] || return 0
	{ read -ra children <"/proc/$fio_pid/task/$fio_pid/children"; } 2>/dev/null
	end_job "$fio_pid"
	for child in "${children[@]}"; do
		kill -KILL "$child" 2>/dev/null
		until_true 5 gone "$child" || stuck+=("$child")
	done
}

# load_kill: whatever is left of it
load_kill()
{
	touch "$cell/stop"
	end_fio
	end_job "$load_pid"
	load_pid=0 fio_pid=0
}
