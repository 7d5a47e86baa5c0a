# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# A load on $disk, for tests in which the daemon goes away under it, and whether the
# disk's user has noticed.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "${BASH_SOURCE[0]}")/blk.sh"

# start_fio JOBS: checks what it reads, and stops at the first error
start_fio()
{
	start "$work/fio" fio --name=load --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bsrange=4k-64k --iodepth=16 --numjobs="$1" --size=6m \
		--offset_increment=8m --verify=crc32c --verify_fatal=1 --do_verify=1 \
		--verify_backlog=64 --loops=100000 --fsync=32 --group_reporting
	fio=$pid
}

# The load goes on: requests complete that were not completed when it was looked at last.
moves_on()
{
	local before now tries
	before=$(cut -d ' ' -f 1-8 "/sys/block/${disk##*/}/stat")
	for ((tries = 0; tries < 50; tries++)); do
		kill -0 "$fio" 2>/dev/null || return
		sleep 0.02
		now=$(cut -d ' ' -f 1-8 "/sys/block/${disk##*/}/stat")
		[ "$before" = "$now" ] || return 0
	done
	return 1
}

fio_is_well()
{
	kill -0 "$fio" 2>/dev/null && return
	echo "fio ended:"
	tail -n 30 "$work/fio"
	return 1
}

end_fio()
{
	fio_is_well || return
	kill -INT "$fio"
	wait "$fio"
	! grep -E 'verify:|err= *[1-9]|error' "$work/fio"
}

no_kernel_complaint()
{
	! dmesg | grep -E 'I/O error|blocked for more than|WARNING:|BUG:|Oops'
}
