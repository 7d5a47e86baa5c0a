#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What is saved, by hvo's own figures, by the kernel's counters, and in free
# memory.
#
# Free memory has a tolerance: page tables for the split block mappings, slabs
# and caches of the kernel come and go meanwhile. Everything else is exact.

# shellcheck source-path=SCRIPTDIR/../hvo source=lib.sh
. "$(dirname "$0")/lib.sh"

# shellcheck disable=SC2154 # quarantine: from lib.sh
tolerance=$((2048 + quarantine))

# pages_of KB: enough of them to save several times the tolerance
pages_of()
{
	case $1 in
	2048) echo 512 ;;
	32768) echo 24 ;;
	1048576) echo 1 ;;
	esac
}

# note: sets total, free, memmap, boot and reserve to what there is now
note()
{
	drain
	total=$(meminfo MemTotal)
	free=$(free_kB)
	memmap=$(memmap_pages)
	boot=$(vmstat nr_memmap_boot_pages)
	reserve=$(hvo_get reserve_kB)
}

# per_node KB FILE: summed up over the nodes
per_node() { awk '{ n += $1 } END { print n }' "$hvo_figures/hugepages-$1kB"/node*/"$2"; }

# near WHAT SEEN EXPECTED
near()
{
	echo "$1: $2 kB, expected $3 kB"
	[ $(($2 - $3)) -le "$tolerance" ] && [ $(($3 - $2)) -le "$tolerance" ]
}

# savings KB: from plain to optimized and back
savings()
{
	local kB=$1 nr dir=hugepages-$1kB saved
	local total free memmap boot reserve total_0 free_0 memmap_0 boot_0

	nr=$(pages_of "$kB")
	saved=$((nr * $(saving "$kB")))
	pool_set "$kB" "$nr" || return
	note
	total_0=$total free_0=$free memmap_0=$memmap boot_0=$boot

	hvo_switch 1 || return
	hvo_whole_pool "$kB" || return
	note
	figure_is saved_kB "$saved" || return
	figure_is "$dir/saved_kB" "$saved" || return
	equal "saved_kB of the nodes" "$(per_node "$kB" saved_kB)" "$saved" || return
	equal "optimized of the nodes" "$(per_node "$kB" optimized)" "$nr" || return
	equal "pages of vmemmap" "$memmap" $((memmap_0 - saved / 4)) || return
	# What memblock gave out at boot becomes managed memory.
	equal MemTotal "$total" $((total_0 + (boot_0 - boot) * 4)) || return
	near "free memory" $((free - free_0)) $((saved - reserve)) || return
	# The reserve can restore one of the largest folios.
	equal reserve_kB "$reserve" "$(saving "$kB")" || return

	hvo_switch 0 || return
	note
	hvo_nothing || return
	equal "pages of vmemmap" "$memmap" "$memmap_0" || return
	equal reserve_kB "$reserve" 0 || return
	near "free memory" "$free" "$free_0" || return

	# Again, with vmemmap that comes from the buddy allocator.
	total_0=$total free_0=$free
	hvo_switch 1 || return
	note
	figure_is saved_kB "$saved" || return
	equal MemTotal "$total" "$total_0" || return
	near "free memory" $((free - free_0)) $((saved - reserve)) || return
	hvo_switch 0 || return
	pool_set "$kB" 0
}

# A 64 KiB page has its struct pages in a quarter of a page.
too_small()
{
	pool_set 64 64 || return
	hvo_switch 1 || return
	figure_is hugepages-64kB/skipped_too_small 64 || return
	equal "of the nodes" "$(per_node 64 skipped_too_small)" 64 || return
	figure_is hugepages-64kB/optimized 0 || return
	figure_is saved_kB 0 || return
	hvo_switch 0 || return
	pool_set 64 0
}

# Several sizes at once, and pages that are freed one by one.
all_sizes()
{
	local kB nr expected=0
	for kB in $(optimizable_sizes); do
		nr=$(($(pages_of "$kB") > 8 ? 8 : $(pages_of "$kB")))
		pool_set "$kB" "$nr" || return
		expected=$((expected + nr * $(saving "$kB")))
	done
	hvo_switch 1 || return
	figure_is saved_kB "$expected" || return
	for kB in $(optimizable_sizes); do
		while nr=$(pool_get "$kB" nr_hugepages) && [ "$nr" -gt 0 ]; do
			pool_set "$kB" $((nr - 1)) || return
			expected=$((expected - $(saving "$kB")))
			figure_is saved_kB "$expected" || return
		done
	done
	hvo_switch 0
}

begin 5
for kB in 2048 32768 1048576; do
	if [ -d "$pools/hugepages-${kB}kB" ]; then
		check "savings of $kB kB pages" savings $kB
	else
		skip "savings of $kB kB pages" "none on this architecture"
	fi
done
if [ -d "$pools/hugepages-64kB" ]; then
	check "64 kB pages are left alone" too_small
else
	skip "64 kB pages are left alone" "none on this architecture"
fi
check "all sizes at once" all_sizes
end
