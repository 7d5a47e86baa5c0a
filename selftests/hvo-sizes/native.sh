#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Kernels that have HVO themselves (amd64): folios that the kernel optimized
# before hvo.ko came are restored when they are freed, and both work together.
#
# Debian's 6.12.117 loses such folios without the module, and says "Bad page
# state": nothing here frees one while it is unloaded.

# shellcheck source-path=SCRIPTDIR/../hvo source=lib.sh
. "$(dirname "$0")/lib.sh"

native=/proc/sys/vm/hugetlb_optimize_vmemmap
pool=hugepages-2048kB
pages=64
# Vmemmap pages that the kernel gives back for a 2 MiB page: it keeps one.
native_freed=7

[ -e $native ] || {
	echo "TAP version 13"
	echo "1..0 # SKIP this kernel has no HVO of its own"
	exit 4
}

# natively COMMAND...: with the kernel's own HVO switched on. It must not stay
# on, whatever happens: a broken restore would hit who comes after us.
natively()
{
	local status
	write 1 "$native" || return
	"$@"
	status=$?
	write 0 "$native"
	return "$status"
}

# fill: the pool, by the kernel, before the module is loaded
fill()
{
	natively pool_set 2048 "$pages" || return
	equal "pages of vmemmap" "$(memmap_pages)" $((first_memmap - pages * native_freed))
}

self_test()
{
	local text
	text=$(hvo_get self_test)
	echo "self_test: $text"
	case $(uname -r) in
	# The restore is known to be broken there (and so may be later ones).
	6.12.117*) [[ $text == *broken* ]] ;;
	*) [[ $text == *broken* || $text == *ok* ]] ;;
	esac
}

# They are the kernel's: hvo does not count them as its own.
left_alone()
{
	hvo_switch 1 || return
	figure_is "$pool/optimized" 0 || return
	figure_is "$pool/skipped_native" "$pages" || return
	equal "pages of vmemmap" "$(memmap_pages)" $((first_memmap - pages * native_freed))
}

together()
{
	hold 2048 8 || return
	# Ours come to theirs: the kernel's own switch is off.
	pool_set 2048 $((2 * pages)) || return
	figure_is "$pool/optimized" "$pages" || return
	natively pool_set 2048 $((3 * pages)) || return
	figure_is "$pool/optimized" "$pages" || return
	equal "pages of vmemmap" "$(memmap_pages)" \
		$((first_memmap - 2 * pages * native_freed - pages * 6)) || return
	hvo_switch 0 && hvo_nothing && hvo_switch 1 || return
	release
}

# What was free, what was in use, in all orders.
freed()
{
	hold 2048 12 || return
	pool_set 2048 100 || return
	pool_set 2048 40 || return
	release || return
	pool_set 2048 0 || return
	figure_is saved_kB 0 || return
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap"
}

# The folios that were freed are memory like any other: all of it is written.
usable()
{
	local kB
	kB=$(meminfo MemFree)
	pool_set 2048 $((kB / 2048 / 2)) || return
	hold 2048 128 && release || return
	pool_set 2048 0
}

demoted()
{
	natively pool_set 1048576 1 || return
	echo 1 >"$pools/hugepages-1048576kB/demote" || return
	equal nr_hugepages "$(pool_get 2048 nr_hugepages)" 512 || return
	pool_set 2048 0 || return
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap"
}

plan 9
remember
check "the kernel optimizes pages" fill
check "hvo is loaded" load || exit 1
check "the self-test tells about the kernel's restore" self_test
check "the kernel's pages are left alone" left_alone
check "theirs and ours together" together
check "they are freed" freed
check "the memory can be used" usable
check "a gigantic page of the kernel's is demoted" demoted
end
