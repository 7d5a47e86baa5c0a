#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: mm.sh [off] [on]        both by default
#
# The kernel's own selftests of HugeTLB (tools/testing/selftests/mm), each set
# up as the kernel's run_vmtests.sh does it: first on the stock kernel, then
# with hvo.ko loaded and on. A test passes in either state only if it succeeds,
# and the two runs must tell the same. With hvo on, every page of the pool is
# optimized before and after each test, so that it ran on nothing else.
#
# HUGETLB_LONG=1 runs the one test that takes minutes in full.

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$here/tap.sh"
# shellcheck source-path=SCRIPTDIR source=pool.sh
. "$here/pool.sh"
# shellcheck source-path=SCRIPTDIR source=hvo.sh
. "$here/hvo.sh"

fault_after_madv=hugetlb_fault_after_madv_1000
[ -z "${HUGETLB_LONG-}" ] || fault_after_madv=hugetlb_fault_after_madv

# Those that poison memory are last: what cannot be undone disturbs no other.
tests=(hugepage-vmemmap hugepage-mmap hugepage-mremap hugepage-shm hugetlb-madvise
	map_hugetlb thuge-gen hugetlb_dio gup_test gup_longterm cow
	uffd-stress-hugetlb uffd-stress-hugetlb-private
	"$fault_after_madv" hugetlb_madv_vs_map
	hugetlb-soft-offline hugetlb-read-hwpoison hugetlb-read-hwpoison-handled)

default_kB=$(meminfo Hugepagesize)
hang_seconds=400

# expected TEST: the exit status that counts as a pass
#
# hugetlb-read-hwpoison: since 6.11 MADV_HWPOISON is an "action required" event,
# which sends SIGBUS (128 + 7) to the caller that has the page mapped dirty;
# the test has no handler for it. It must die of the same, with hvo as without,
# and its variant with a handler must pass.
expected()
{
	case $1 in
	hugetlb-read-hwpoison) echo 135 ;;
	*) echo 0 ;;
	esac
}

# cannot_run TEST: prints why this machine cannot run it
cannot_run()
{
	case $1 in
	gup_test)
		[ -e /sys/kernel/debug/gup_test ] && return 1
		insmod "$here/gup_test.ko" 2>"$work/insmod" && return 1
		echo "the kernel has no CONFIG_GUP_TEST, gup_test.ko: $(<"$work/insmod")"
		;;
	*) return 1 ;;
	esac
}

# make_pools TEST: sizes each pool as the test wants it
make_pools()
{
	local kB

	for kB in $(sizes); do
		if [ "$kB" -eq "$default_kB" ]; then
			case $1 in
			hugetlb_fault_after_madv* | hugetlb_madv_vs_map) pool_set "$kB" 1 ;;
			*) pool_set "$kB" $((256 * 1024 / kB)) ;;
			esac
		elif [ "$1" = thuge-gen ] && [ "$kB" -lt 1048576 ]; then
			# It takes four of each size, where there are so many; of
			# 1 GiB pages this guest has no room for four.
			pool_set "$kB" 4
		else
			pool_set "$kB" 0
		fi || return
	done
}

# pools_in_use: succeeds if a page of any size is taken
pools_in_use()
{
	local kB

	for kB in $(sizes); do
		pool_is_free "$kB" || return 0
	done
	return 1
}

# pools_optimized: of every size that hvo can optimize, all there are. A page
# of 64 kB has one page of vmemmap: nothing to save.
pools_optimized()
{
	local kB

	for kB in $(sizes); do
		if [ "$kB" -gt 64 ] && [ "$(pool_get "$kB" nr_hugepages)" -gt 0 ]; then
			hvo_whole_pool "$kB" || return
		fi
	done
}

# with_shm_limits COMMAND...
with_shm_limits()
{
	local max all status

	read -r max </proc/sys/kernel/shmmax
	read -r all </proc/sys/kernel/shmall
	echo 268435456 >/proc/sys/kernel/shmmax
	echo 4194304 >/proc/sys/kernel/shmall
	"$@"
	status=$?
	echo "$max" >/proc/sys/kernel/shmmax
	echo "$all" >/proc/sys/kernel/shmall
	return "$status"
}

# with_disk COMMAND...: with a file system on a disk as /tmp. That of a guest
# is a tmpfs, where O_DIRECT pins nothing.
with_disk()
{
	local status

	[ -b /dev/ram0 ] || modprobe brd rd_nr=1 rd_size=32768 || return 125
	mke2fs -q -F -t ext4 /dev/ram0 || return 125
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount sh -c 'mount /dev/ram0 /tmp || exit 125; exec "$@"' sh "$@"
	status=$?
	blockdev --flushbufs /dev/ram0
	return "$status"
}

# with_soft_offline COMMAND...: the test turns it off
with_soft_offline()
{
	local enabled status

	read -r enabled </proc/sys/vm/enable_soft_offline
	"$@"
	status=$?
	echo "$enabled" >/proc/sys/vm/enable_soft_offline
	return "$status"
}

# gup_matrix: every way to take pages, for reading and for writing, private and
# shared, by one page, by 123 and by a huge page
gup_matrix()
{
	local how write share number

	for how in -u -U -a -b -L; do
		for write in -w -W; do
			for share in -S ""; do
				for number in 1 123 512; do
					echo "# gup_test $how $write $share -n $number"
					# shellcheck disable=SC2086 # $share may be empty
					./gup_test -H -m 256 $how $write $share -n $number || return
				done
			done
		done
	done
}

# execute TEST
execute()
{
	local limit=(timeout --kill-after=10 "$hang_seconds")
	local program=("${limit[@]}" "$here/$1") stress=("${limit[@]}" "$here/uffd-stress")

	case $1 in
	hugepage-shm) with_shm_limits "${program[@]}" ;;
	hugetlb_dio) with_disk "${program[@]}" ;;
	hugetlb-soft-offline) with_soft_offline "${program[@]}" ;;
	gup_longterm) cd "$work" && "${program[@]}" ;;
	uffd-stress-*) "${stress[@]}" "${1#uffd-stress-}" 64 8 ;;
	gup_test) gup_matrix ;;
	fixture) bash -c "$fixture" ;;
	*) "${program[@]}" ;;
	esac
}

# poisoned: the page frame number of every poisoned page or huge page
poisoned()
{
	python3 - <<-'END'
		import struct
		TAIL, HWPOISON = 1 << 16, 1 << 19
		pfn = 0
		with open("/proc/kpageflags", "rb", buffering=0) as f:
		    while chunk := f.read(1 << 16):
		        for (flags,) in struct.iter_unpack("=Q", chunk):
		            if flags & HWPOISON and not flags & TAIL:
		                print(hex(pfn))
		            pfn += 1
	END
}

# clean_up: what a test leaves on purpose (poison), or because it failed
# (a segment)
clean_up()
{
	local pfn

	ipcrm -M 2 2>/dev/null
	[ "$(meminfo HardwareCorrupted)" -eq 0 ] && return
	[ -e /sys/kernel/debug/hwpoison ] || modprobe hwpoison-inject || return
	for pfn in $(poisoned); do
		echo "unpoison $pfn"
		echo "$pfn" >/sys/kernel/debug/hwpoison/unpoison-pfn || return
	done
	[ "$(meminfo HardwareCorrupted)" -eq 0 ] || {
		echo "HardwareCorrupted: $(meminfo HardwareCorrupted) kB are left"
		return 1
	}
}

# run STATE TEST: leaves status and output in $work/TEST.STATE.*
run()
{
	(cd "$here" && execute "$2") >"$work/$2.$1.output" 2>&1
	echo $? >"$work/$2.$1.status"
}

# judge STATE TEST: not every program's exit status tells of its results
judge()
{
	local status output=$work/$2.$1.output

	read -r status <"$work/$2.$1.status"
	[ "$status" -eq "$(expected "$2")" ] && ! grep -qE '^not ok|TEST_(FAILED|SKIPPED)' "$output" &&
		return
	echo "exit status $status, its last lines:"
	tail -n 20 "$output"
	return 1
}

# tells STATE TEST: what a run told, without addresses and times
tells()
{
	cat "$work/$2.$1.status"
	grep -E '^(not )?ok |TEST_[A-Z]+$|^# [0-9]+MB: ' "$work/$2.$1.output"
}

# same TEST
same() { diff <(tells off "$1") <(tells on "$1"); }

# test_in STATE TEST: all of one test
test_in()
{
	make_pools "$2" || return
	[ "$1" = off ] || pools_optimized || return
	run "$1" "$2"
	judge "$1" "$2" || {
		clean_up
		return 1
	}
	clean_up || return
	! pools_in_use || return
	[ "$1" = off ] || pools_optimized
}

# run_all STATE
run_all()
{
	local t reason

	for t in "${tests[@]}"; do
		if reason=$(cannot_run "$t"); then
			skip "$1: $t" "$reason"
			continue
		fi
		check "$1: $t" test_in "$1" "$t"
		[ "$(expected "$t")" -eq 0 ] || say "$t is expected to end with" \
			"exit status $(expected "$t"): see expected() in mm.sh"
	done
}

compare_all()
{
	local t

	for t in "${tests[@]}"; do
		if [ -e "$work/$t.off.status" ] && [ -e "$work/$t.on.status" ]; then
			check "on as off: $t" same "$t"
		elif [ -e "$work/$t.off.status" ] || [ -e "$work/$t.on.status" ]; then
			result 1 "on as off: $t (only one of the two was run)"
		else
			skip "on as off: $t" "it was run in neither state"
		fi
	done
}

# noticed: failing programs, judged as the tests are, are found to fail
noticed()
{
	local fixture missed=0

	for fixture in "exit 1" "exit 4" "kill -SEGV \$\$" "kill -BUS \$\$" "echo not ok 1 x" \
		"echo ' ... HugeTLB read HWPOISON test...TEST_FAILED'"; do
		run off fixture
		judge off fixture >/dev/null && echo "passes: $fixture" && missed=1
	done
	fixture="echo ok 1 x; echo '# not ok'"
	run off fixture
	judge off fixture || missed=1

	fixture="echo ok 1 x; echo 0x12345"
	run off fixture
	fixture="echo ok 1 x; echo 0x6789a"
	run on fixture
	same fixture || missed=1
	for fixture in "echo ok 1 x; exit 3" "echo not ok 1 x" "echo ok 1 x; echo ok 2 y"; do
		run on fixture
		same fixture >/dev/null && echo "taken for the same: $fixture" && missed=1
	done
	return "$missed"
}

hvo_on() { hvo_load && hvo_switch 1; }

# Pages that are in the pool are restored where they lie, optimized or not.
hvo_off()
{
	make_pools hugepage-mmap && pools_optimized && hvo_switch 0 && hvo_nothing && rmmod hvo
}

# empty_pools
empty_pools()
{
	local kB

	for kB in $(sizes); do
		pool_set "$kB" 0 || return
	done
	if [ -b /dev/ram0 ]; then
		rmmod brd
	fi
}

pools_given_back() { empty_pools && memory_is_back; }

[ $# -gt 0 ] || set -- off on
case $* in
off | on) plan $((2 + ${#tests[@]} + ($# == 1 && ${#1} == 2 ? 2 : 0))) ;;
"off on") plan $((4 + 3 * ${#tests[@]})) ;;
*)
	echo "usage: mm.sh [off] [on]" >&2
	exit 2
	;;
esac

check "a failing test is noticed" noticed
empty_pools
memory_remember
for state; do
	[ "$state" = off ] || check "hvo is loaded and turned on" hvo_on
	run_all "$state"
	[ "$state" = off ] || check "hvo is turned off and unloaded" hvo_off
done
[ $# -eq 1 ] || compare_all
check "the memory is back" pools_given_back
finish
