#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The trace events, one for each thing that happened. (hvo_split: see boot.c; it
# needs a block mapping that nobody has split yet.)

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

tracing=/sys/kernel/tracing
pages=16

# recorded COMMAND...: with all events on, into $work/trace
recorded()
{
	local status
	echo >"$tracing/trace"
	echo 1 >"$tracing"/events/hvo/enable || return
	"$@"
	status=$?
	echo 0 >"$tracing"/events/hvo/enable
	cat "$tracing/trace" >"$work/trace"
	return "$status"
}

# events PATTERN N
events()
{
	equal "events that match \"$1\"" "$(grep -cE "$1" "$work/trace")" "$2" && return
	head -n 40 "$work/trace"
	return 1
}

convert_and_restore()
{
	pool_set 2048 "$pages" || return
	hold 2048 4 || return
	recorded hvo_switch 1 || return
	events 'hvo_convert: pfn=0x[0-9a-f]+ order=9 nid=[01] in_use=0' $((pages - 4)) || return
	events 'hvo_convert: pfn=0x[0-9a-f]+ order=9 nid=[01] in_use=1' 4 || return
	events 'hvo_(restore|skip)' 0 || return
	# Each folio once.
	equal "different folios" "$(grep -o 'pfn=0x[0-9a-f]*' "$work/trace" | sort -u | wc -l)" \
		"$pages" || return
	recorded hvo_switch 0 || return
	events 'hvo_restore: pfn=0x[0-9a-f]+ order=9 nid=[01] result=0' "$pages" || return
	events hvo_convert 0 || return
	release
}

entering_and_leaving()
{
	pool_set 2048 0 || return
	hvo_switch 1 || return
	recorded pool_set 2048 "$pages" || return
	events hvo_convert "$pages" || return
	recorded pool_set 2048 0 || return
	events 'hvo_restore.*result=0' "$pages" || return
	hvo_switch 0
}

failures()
{
	local status=0
	[ -e "$parameters/fail_alloc" ] || return
	pool_set 2048 2 && hvo_switch 1 || return
	echo 1 >"$parameters/fail_reserve"
	echo 0 >"$parameters/fail_alloc"
	recorded fails_with "Cannot allocate memory" write 0 "$hvo_sysctl/enabled" &&
		at_least "failed restores" "$(grep -c 'hvo_restore.*result=-12' "$work/trace")" 1 ||
		status=1
	echo -1 >"$parameters/fail_alloc"
	echo 0 >"$parameters/fail_reserve"
	hvo_switch 0 && return "$status"
}

# Pages that enter a pool and are too small to save anything.
skip_too_small()
{
	hvo_switch 1 || return
	recorded pool_set 64 8 || return
	events 'hvo_skip: pfn=0x[0-9a-f]+ order=4 nid=[01] reason=skipped_too_small' 8 || return
	hvo_switch 0 && pool_set 64 0
}

# Pages that the kernel has optimized.
skip_native()
{
	pool_set 2048 0 || return
	write 1 /proc/sys/vm/hugetlb_optimize_vmemmap || return
	pool_set 2048 8 || return
	write 0 /proc/sys/vm/hugetlb_optimize_vmemmap || return
	recorded hvo_switch 1 || return
	events 'hvo_skip: pfn=0x[0-9a-f]+ order=9 nid=[01] reason=skipped_native' 8 || return
	hvo_switch 0 && pool_set 2048 0
}

# The format files are what tools decode the events by.
formats()
{
	local e
	for e in convert restore skip split; do
		grep -q '^print fmt:' "$tracing/events/hvo/hvo_$e/format" || return
	done
}

begin 5
check "all four events are there" formats
check "hvo_convert and hvo_restore" convert_and_restore
check "for pages that enter and leave a pool" entering_and_leaving
check "hvo_restore of a failure" failures
if [ -d "$pools/hugepages-64kB" ]; then
	check "hvo_skip" skip_too_small
else
	check "hvo_skip" skip_native
fi
end
