#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# No memory for struct pages. The failure points are hvo.ko's own, in the build
# that is tested: fail_alloc and fail_reserve. A debug kernel with failslab and
# fail_page_alloc adds its own.

# shellcheck source-path=SCRIPTDIR/../hvo source=lib.sh
. "$(dirname "$0")/lib.sh"

pool=hugepages-2048kB
nr=$pools/$pool/nr_hugepages
pages=24

# allow N: so many pages of vmemmap can be had, -1 is no limit
allow() { echo "$1" >"$parameters"/fail_alloc; }
reserve_fails() { echo "$1" >"$parameters"/fail_reserve; }

# with_failures COMMAND...: they never outlast a test
with_failures()
{
	local status
	"$@"
	status=$?
	allow -1
	reserve_fails 0
	hvo_switch 0 || status=1
	pool_set 2048 0 || status=1
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap" || status=1
	return "$status"
}

full_pool() { pool_set 2048 "$pages" && hvo_switch 1 && hvo_whole_pool 2048; }

# frames N: pages of vmemmap that so many folios need when they are restored
frames() { echo $(($1 * $(saving 2048) / 4)); }

# Freeing a folio needs its vmemmap: that of the reserve, if there is no other.
# The folio that was freed pays it back before the next one is restored.
shrink_by_the_reserve()
{
	full_pool || return
	equal reserve_kB "$(hvo_get reserve_kB)" "$(saving 2048)" || return
	allow 0
	write $((pages - 1)) "$nr" || return
	equal nr_hugepages "$(pool_get 2048 nr_hugepages)" $((pages - 1)) || return
	allow "$(frames 1)"
	write $((pages - 2)) "$nr" || return
	equal nr_hugepages "$(pool_get 2048 nr_hugepages)" $((pages - 2)) || return
	figure_is "$pool/optimized" $((pages - 2)) || return
	figure_is "$pool/restore_failures" 0
}

# Many at once: the memory is short for one of them.
shrink_to_nothing()
{
	full_pool || return
	allow "$(frames $((pages - 1)))"
	write 0 "$nr" || return
	equal nr_hugepages "$(pool_get 2048 nr_hugepages)" 0 || return
	figure_is "$pool/optimized" 0 || return
	figure_is "$pool/restore_failures" 0
}

# So does each page that is released as surplus, one at a time.
surplus_by_the_reserve()
{
	full_pool || return
	hold 2048 "$pages" || return
	write 0 "$nr" || return
	allow "$(frames $((pages - 1)))"
	release || return
	wait_for pool_is_empty || return
	figure_is "$pool/restore_failures" 0
}

pool_is_empty() { [ "$(pool_get 2048 nr_hugepages)" -eq 0 ]; }

# Without it the folio stays: in the pool, as surplus, still optimized, usable.
shrink_without_the_reserve()
{
	local failures left
	failures=$(hvo_get "$pool/restore_failures")
	full_pool || return
	reserve_fails 1
	allow 0
	write 0 "$nr"
	left=$(pool_get 2048 nr_hugepages)
	equal nr_hugepages "$left" "$pages" || return
	equal surplus_hugepages "$(pool_get 2048 surplus_hugepages)" "$pages" || return
	equal free_hugepages "$(pool_get 2048 free_hugepages)" "$pages" || return
	figure_is "$pool/optimized" "$pages" || return
	at_least restore_failures "$(hvo_get "$pool/restore_failures")" $((failures + pages)) || return
	allow -1
	reserve_fails 0
	# They are in the pool: it takes them over when it grows, and they work.
	pool_set 2048 "$pages" || return
	equal surplus_hugepages "$(pool_get 2048 surplus_hugepages)" 0 || return
	hold 2048 "$pages" && release || return
	pool_set 2048 0
}

# 0 restores what it can, says so, and can be asked again.
disable_with_too_little()
{
	local optimized
	full_pool || return
	reserve_fails 1
	# Enough for four folios.
	allow 24
	fails_with "Cannot allocate memory" write 0 "$hvo_sysctl/enabled" || return
	equal enabled "$(<"$hvo_sysctl/enabled")" 0 || return
	optimized=$(hvo_get "$pool/optimized")
	at_least "folios still optimized" "$optimized" 1 || return
	at_least "folios restored" $((pages - optimized)) 1 || return
	figure_is saved_kB $((optimized * $(saving 2048))) || return
	# The module stays with them.
	fails_with "in use" rmmod hvo || return
	allow -1
	reserve_fails 0
	hvo_switch 0 && hvo_nothing
}

# The same for pages in use, whose data has to survive.
disable_in_use_with_too_little()
{
	full_pool || return
	hold 2048 "$pages" || return
	reserve_fails 1
	allow 12
	fails_with "Cannot allocate memory" write 0 "$hvo_sysctl/enabled" || return
	[ "$(hvo_get "$pool/optimized")" -gt 0 ] || return
	hvo_switch 1 || return
	allow -1
	reserve_fails 0
	hvo_switch 1 && hvo_whole_pool 2048 || return
	hvo_switch 0 && hvo_nothing && release
}

# A gigantic page needs 4094 pages at once.
gigantic()
{
	pool_set 1048576 1 && hvo_switch 1 && hvo_whole_pool 1048576 || return
	equal reserve_kB "$(hvo_get reserve_kB)" "$(saving 1048576)" || return
	reserve_fails 1
	allow 4000
	fails_with "Cannot allocate memory" write 0 "$hvo_sysctl/enabled" || return
	hvo_whole_pool 1048576 || return
	reserve_fails 0
	hvo_switch 1 || return
	allow 0
	write 0 "$pools/hugepages-1048576kB/nr_hugepages" || return
	equal nr_hugepages "$(pool_get 1048576 nr_hugepages)" 0
}

# Every single allocation of a pass fails once: whatever was half done is undone.
each_allocation()
{
	local i optimized
	for ((i = 0; i < 20; i++)); do
		pool_set 2048 3 && hvo_switch 1 && hvo_whole_pool 2048 || return
		reserve_fails 1
		allow "$i"
		echo 0 2>/dev/null >"$hvo_sysctl/enabled"
		optimized=$(hvo_get "$pool/optimized")
		figure_is saved_kB $((optimized * $(saving 2048))) || return
		allow -1
		reserve_fails 0
		hvo_switch 0 && hvo_nothing || return
	done
}

# fault FOLDER: a fault injection folder of debugfs fails one in five allocations
# of tasks that ask for it, those that may wait included
fault()
{
	local dir=/sys/kernel/debug/$1
	[ ! -e "$dir/min-order" ] || echo 0 >"$dir/min-order"
	echo N >"$dir/ignore-gfp-wait" && echo Y >"$dir/task-filter" && echo 0 >"$dir/verbose" &&
		echo -1 >"$dir/times" && echo 20 >"$dir/probability"
}

no_fault() { echo 0 >"/sys/kernel/debug/$1/probability"; }

# Only the write to the switch is hit, in a process of its own.
kernels_failures()
{
	local i switch
	pool_set 2048 "$pages" || return
	hold 2048 8 || return
	fault "$1" || return
	for ((i = 0; i < 20; i++)); do
		for switch in 1 0; do
			# shellcheck disable=SC2016 # for the inner shell
			bash -c 'exec 3>"$2"; echo 1 >/proc/self/make-it-fail; echo "$1" >&3' \
				bash "$switch" "$hvo_sysctl/enabled" 2>/dev/null
		done
	done
	no_fault "$1"
	hvo_switch 1 && hvo_whole_pool 2048 && hvo_switch 0 && hvo_nothing && release
}

begin 10
for f in fail_alloc fail_reserve; do
	[ -e $parameters/$f ] || {
		result 1 "the module is the test build (it has no parameter $f)"
		exit 1
	}
done
check "shrinking lives on the reserve" with_failures shrink_by_the_reserve
check "shrinking by many at once, too" with_failures shrink_to_nothing
check "releasing surplus pages does, too" with_failures surplus_by_the_reserve
check "with no reserve the pages stay" with_failures shrink_without_the_reserve
check "enabled=0 with too little memory" with_failures disable_with_too_little
check "the same for pages in use" with_failures disable_in_use_with_too_little
check "a gigantic page" with_failures gigantic
check "each allocation fails once" with_failures each_allocation
for f in failslab fail_page_alloc; do
	if [ -d /sys/kernel/debug/$f ]; then
		check "$f" with_failures kernels_failures $f
	else
		skip "$f" "a kernel without fault injection (make check-debug has it)"
	fi
done
end
