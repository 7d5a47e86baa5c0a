# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The pools of HugeTLB pages and the memory that they take. A size is named as
# in sysfs, by its kB.

pools=/sys/kernel/mm/hugepages

# sizes: every size that this machine has
sizes()
{
	local dir
	for dir in "$pools"/hugepages-*kB; do
		dir=${dir##*-}
		echo "${dir%kB}"
	done
}

# pool_get KB FILE: such as nr_hugepages, free_hugepages
pool_get() { cat "$pools/hugepages-$1kB/$2"; }

# pool_set KB N: makes the pool exactly that large. Fragmentation is no fault
# of a test: the kernel is asked again after compaction.
pool_set()
{
	local try

	for try in 1 2 3; do
		echo "$2" >"$pools/hugepages-$1kB/nr_hugepages" || return
		[ "$(pool_get "$1" nr_hugepages)" -eq "$2" ] && return
		echo "pool of $1 kB pages, try $try: $(pool_get "$1" nr_hugepages) of $2"
		drain
		echo 1 >/proc/sys/vm/compact_memory
	done
	return 1
}

# pool_is_free KB: nobody has or reserves a page of it
pool_is_free()
{
	local nr free reserved

	nr=$(pool_get "$1" nr_hugepages)
	free=$(pool_get "$1" free_hugepages)
	reserved=$(pool_get "$1" resv_hugepages)
	[ "$free" -eq "$nr" ] && [ "$reserved" -eq 0 ] && return
	echo "pool of $1 kB pages: $free of $nr free, $reserved reserved"
	return 1
}

# drain: what the kernel keeps for quick reuse goes back to the allocator
drain()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# meminfo FIELD: in kB
meminfo() { sed -n "s/^$1: *\([0-9]*\).*/\1/p" /proc/meminfo; }

# free_kB: free memory, that in the processors' own lists included, which MemFree
# is not (tens of MiB)
free_kB()
{
	local lists

	lists=$(awk '$1 == "count:" { n += $2 } END { print n + 0 }' /proc/zoneinfo)
	echo $(($(meminfo MemFree) + lists * $(getconf PAGESIZE) / 1024))
}

# quarantine_kB: what KASAN may keep of what was freed, a 32nd of memory; 0 without
quarantine_kB()
{
	local part=0

	! grep -q ' kasan_quarantine_reduce$' /proc/kallsyms || part=$(($(meminfo MemTotal) / 32))
	echo "$part"
}

# vmstat NAME
vmstat() { sed -n "s/^$1 //p" /proc/vmstat; }

# memory_remember: how things are before a test
memory_remember()
{
	drain
	first_total=$(meminfo MemTotal)
	first_free=$(free_kB)
	first_boot=$(vmstat nr_memmap_boot_pages)
	first_memmap=$(($(vmstat nr_memmap_pages) + first_boot))
}

# memory_is_back: as much is free as when it was remembered, but for what the
# kernel's caches may have grown by, and as many pages hold struct pages. Those
# that memblock gave out at boot do not count in MemTotal; one that was freed,
# and replaced later, does from then on, and for no other reason may it grow.
memory_is_back()
{
	local total free boot memmap page_kB=$(($(getconf PAGESIZE) / 1024))

	drain
	total=$(meminfo MemTotal)
	free=$(free_kB)
	boot=$(vmstat nr_memmap_boot_pages)
	memmap=$(($(vmstat nr_memmap_pages) + boot))
	echo "MemTotal $first_total kB, now $total kB; free $first_free kB, now $free kB"
	echo "pages of struct pages: $first_memmap, of these $first_boot of the boot;" \
		"now $memmap, $boot"
	[ "$memmap" -eq "$first_memmap" ] &&
		[ "$total" -eq $((first_total + (first_boot - boot) * page_kB)) ] &&
		[ "$free" -ge $((first_free - 8 * 1024 - $(quarantine_kB))) ]
}
