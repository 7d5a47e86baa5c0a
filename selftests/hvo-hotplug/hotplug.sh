#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Memory that comes and goes: hotadd.ko adds the range that the kernel was told
# to leave out (vm-args), as a memory device's driver does, and removes it again.
#
# Self-hosted memory carries its own vmemmap (memmap_on_memory): that must never
# be given to the page allocator, so huge pages there stay as they are. The
# vmemmap of other added memory comes from the page allocator and not from
# memblock as the boot memory's: it goes back another way, and when the memory
# is removed the kernel takes apart and frees what hvo left there.
#
# The range is put into ZONE_MOVABLE, where huge pages are taken from first.

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../hugetlb/tap.sh
. "$here/tap.sh"
# shellcheck source-path=SCRIPTDIR source=../hugetlb/pool.sh
. "$here/pool.sh"
# shellcheck source-path=SCRIPTDIR source=../hugetlb/hvo.sh
. "$here/hvo.sh"

kB=2048
added_kB=$((384 * 1024))
pages_added=$((added_kB / kB))
# Enough to fill the added memory and to reach into the boot memory.
pages_all=$((pages_added + 32))
hotadd=/sys/module/hotadd/parameters
# A page of the pool that is on its way (a hook's work item) gets so long.
patience=100

# first_free_address: behind the last memory that the kernel knows
first_free_address()
{
	local last

	last=$(sed -n 's/^[0-9a-f]*-\([0-9a-f]*\) : System RAM/\1/p' /proc/iomem | tail -n 1)
	echo $((0x$last + 1))
}

# added_pages: how many huge pages lie in the added memory
added_pages()
{
	python3 - "$base" "$added_kB" <<-'END'
		import struct, sys
		first, pages = int(sys.argv[1]) // 4096, int(sys.argv[2]) // 4
		HUGE_HEAD = 1 << 17 | 1 << 15
		with open("/proc/kpageflags", "rb", buffering=0) as f:
		    f.seek(first * 8)
		    flags = f.read(pages * 8)
		print(sum(1 for (f,) in struct.iter_unpack("=Q", flags) if f & HUGE_HEAD == HUGE_HEAD))
	END
}

# add SELF_HOSTED: the memory is there, and carries its vmemmap or not: 1/64 of
# it, 64 bytes a page of 4 KiB
add()
{
	local before gained wanted

	before=$(meminfo MemTotal)
	echo "$1" >"$hotadd/self_hosted" && echo 1 >"$hotadd/present" || return
	gained=$(($(meminfo MemTotal) - before))
	wanted=$((added_kB - $1 * added_kB / 64))
	echo "added $added_kB kB, MemTotal grew by $gained kB, wanted $wanted kB"
	[ "$gained" -eq "$wanted" ]
}

# remove: the kernel frees or moves the huge pages there, and nothing is left
remove()
{
	echo 0 >"$hotadd/present" || return
	grep -i "^ *0*$(printf '%x' "$base")-" /proc/iomem && return 1
	[ "$(added_pages)" -eq 0 ]
}

# optimized_is N: now, or soon
optimized_is()
{
	local try optimized

	for ((try = 0; try < patience; try++)); do
		optimized=$(hvo_get "hugepages-${kB}kB/optimized") || return
		[ "$optimized" -eq "$1" ] && return
		sleep 0.1
	done
	echo "$optimized of $(pool_get "$kB" nr_hugepages) pages are optimized, not $1"
	grep -H . "$hvo_figures/hugepages-${kB}kB"/*
	return 1
}

# fill: a pool in added and boot memory. Sets $inside and $outside.
fill()
{
	pool_set "$kB" "$pages_all" || return
	inside=$(added_pages)
	outside=$((pages_all - inside))
	echo "$inside pages in the added memory, $outside elsewhere"
	[ "$inside" -gt $((pages_added * 9 / 10)) ] && [ "$outside" -ge 32 ]
}

start_afresh()
{
	hvo_switch 0 && hvo_nothing && pool_set "$kB" 0
}

comes_and_goes_without_hvo()
{
	local self_hosted

	for self_hosted in 1 0; do
		add "$self_hosted" && fill && remove && pool_set "$kB" 0 || return
	done
}

self_hosted_is_skipped()
{
	add 1 && fill || return
	hvo_switch 1 && optimized_is "$outside" || return
	[ "$(hvo_get "hugepages-${kB}kB/skipped_self_hosted")" -eq "$inside" ] && return
	grep -H . "$hvo_figures/hugepages-${kB}kB"/*
	return 1
}

# With hvo on, not converted by a pass over the pool.
self_hosted_is_skipped_on_entry()
{
	pool_set "$kB" 0 && optimized_is 0 && fill && optimized_is "$outside"
}

self_hosted_is_removed()
{
	remove && optimized_is "$(pool_get "$kB" nr_hugepages)" && start_afresh
}

# What is reported as saved has to be there.
# memmap_kB: memory that holds struct pages, from boot or later
memmap_kB() { awk '/^nr_memmap(_boot)?_pages / { n += $2 } END { print n * 4 }' /proc/vmstat; }

added_is_converted()
{
	local before memmap saved freed gained

	add 0 && fill || return
	drain
	before=$(free_kB)
	memmap=$(memmap_kB)
	hvo_switch 1 && optimized_is "$pages_all" || return
	saved=$(hvo_get saved_kB)
	freed=$((memmap - $(memmap_kB)))
	drain
	gained=$(($(free_kB) - before))
	echo "saved $saved kB, struct pages take $freed kB less, free memory grew by $gained kB"
	[ "$saved" -gt 0 ] && [ "$freed" -eq "$saved" ] || return
	# What KASAN keeps may be more than is saved here.
	[ "$gained" -ge $((saved / 2 - $(quarantine_kB))) ]
}

added_is_removed_while_on()
{
	remove && optimized_is "$(pool_get "$kB" nr_hugepages)" && start_afresh
}

# The pages that are in use move to other memory, with what is in them. All of
# the pool are: the kernel (6.12, without hvo as well) would move pages to free
# ones of the pool in the memory that is to go, for ever.
pages_in_use_move()
{
	local pages=48 status answer

	add 0 && pool_set "$kB" "$pages" && [ "$(added_pages)" -eq "$pages" ] || return
	coproc HOLDER { exec python3 "$here/hold.py" "$pages"; }
	# shellcheck disable=SC2153 # of coproc
	local pid=$HOLDER_PID out=${HOLDER[0]} in=${HOLDER[1]}
	read -r answer <&"$out"
	[ "$answer" = holding ] && hvo_switch 1 && optimized_is "$pages" &&
		[ "$(hvo_get "hugepages-${kB}kB/optimized_in_use")" -eq "$pages" ] && remove &&
		optimized_is "$(pool_get "$kB" nr_hugepages)"
	status=$?
	eval "exec $in>&-"
	cat <&"$out"
	wait "$pid" || status=1
	[ "$status" -eq 0 ] || grep -H . "$hvo_figures/hugepages-${kB}kB"/*
	return "$status"
}

# The same addresses again: their vmemmap is a new one, nothing of the old may
# be remembered.
restored_and_removed()
{
	start_afresh && add 0 && fill && hvo_switch 1 && optimized_is "$pages_all" &&
		start_afresh && [ "$(added_pages)" -eq 0 ] && remove
}

repeatedly()
{
	local self_hosted

	for self_hosted in 1 0 1 0; do
		add "$self_hosted" && fill && hvo_switch 1 || return
		optimized_is $((self_hosted ? outside : pages_all)) && remove && start_afresh || return
	done
}

all_given_back()
{
	rmmod hvo && rmmod hotadd && pool_set "$kB" 0 && memory_is_back
}

plan 13
if [ "$(cat /sys/module/memory_hotplug/parameters/memmap_on_memory)" != Y ]; then
	say "boot with: tools/vm/vm, options as in selftests/hvo-hotplug/vm-args"
	result 1 "the guest was booted for this suite"
	exit 1
fi
result 0 "the guest was booted for this suite"
base=$(first_free_address)
echo online_movable >/sys/devices/system/memory/auto_online_blocks
memory_remember
check "the memory can be added" \
	insmod "$here/hotadd.ko" "base=$base" "size=$((added_kB * 1024))"
check "memory comes and goes without hvo" comes_and_goes_without_hvo
check "hvo is loaded" hvo_load
check "huge pages in self-hosted memory are skipped and counted" self_hosted_is_skipped
check "they are skipped when they enter the pool" self_hosted_is_skipped_on_entry
check "self-hosted memory is removed while hvo is on" self_hosted_is_removed
check "huge pages in other added memory are converted" added_is_converted
check "that memory is removed while hvo is on" added_is_removed_while_on
check "pages in use there move away with their contents" pages_in_use_move
check "memory is removed after hvo was turned off" restored_and_removed
check "memory comes and goes repeatedly" repeatedly
check "the memory is back" all_given_back
finish
