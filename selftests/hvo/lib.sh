# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the shell programs of the suite share; util.c is the same for the C
# programs. A program calls begin, its tests, and end, which is a test, too:
# hvo is turned off and unloaded, the pools are emptied, and nothing is missing.
#
# They test the build of hvo.ko that checks its own page table steps
# (modules-test/); with HVO_KO in the environment another one.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR/../hugetlb source=tap.sh
. "$here/tap.sh"
# shellcheck source-path=SCRIPTDIR/../hugetlb source=pool.sh
. "$here/pool.sh"
# shellcheck source-path=SCRIPTDIR/../hugetlb source=hvo.sh
. "$here/hvo.sh"

case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac
export HVO_KO=${HVO_KO:-$here/../../../modules-test/$arch/hvo.ko}

# hvo_sysctl, hvo_figures, pools: from the files above.
# shellcheck disable=SC2154
parameters=/sys/module/hvo/parameters
quarantine=$(quarantine_kB)
# What the kernel's own caches may have grown by while a program ran, in kB.
memory_slack=$((24 * 1024 + quarantine))
holders=()

# vmstat FIELD...: the sum of lines of /proc/vmstat
vmstat()
{
	local field sum=0 n
	for field; do
		n=$(sed -n "s/^$field //p" /proc/vmstat)
		sum=$((sum + n))
	done
	echo "$sum"
}

# memmap_pages: pages that hold struct pages, from boot or later
memmap_pages() { vmstat nr_memmap_pages nr_memmap_boot_pages; }

# free_kB: free memory, and what lies on the processors' own lists (MemFree has
# no part of that, and there is no way to drain all of them)
free_kB() { awk '/pages free/ { n += $3 } / count:/ { n += $2 } END { print n * 4 }' /proc/zoneinfo; }

# saving KB: what one folio gives back, in kB; 64-byte struct pages, two kept
saving() { echo $((($1 * 64 / 4 / 4096 - 2) * 4)); }

# optimizable_sizes: those of which there is something to give back
optimizable_sizes()
{
	local kB
	for kB in $(sizes); do
		[ "$kB" -le 512 ] || echo "$kB"
	done
}

# equal WHAT SEEN EXPECTED
equal()
{
	[ "$2" = "$3" ] && return
	echo "$1: $2 instead of $3"
	return 1
}

# at_least WHAT SEEN EXPECTED
at_least()
{
	[ "$2" -ge "$3" ] && return
	echo "$1: $2, expected at least $3"
	return 1
}

# figure_is FILE EXPECTED
figure_is() { equal "$1" "$(hvo_get "$1")" "$2"; }

# write VALUE FILE
write() { echo "$1" >"$2"; }

# fails_with MESSAGE COMMAND...: it fails, and says why; MESSAGE is the text of
# an errno
fails_with()
{
	local message=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "it succeeded: $*"
		return 1
	fi
	[[ $output == *"$message"* ]] && return
	echo "$*: \"$output\" instead of \"$message\""
	return 1
}

# wait_for COMMAND...: until it succeeds, a minute at most
wait_for()
{
	local i
	for ((i = 0; i < 600; i++)); do
		"$@" && return
		sleep 0.1
	done
	echo "a minute is over: $*"
	return 1
}

# figure_equals FILE N: as figure_is, without a word
figure_equals() { [ "$(hvo_get "$1")" -eq "$2" ]; }

# wait_for_figure FILE EXPECTED: for what the module does in the background
wait_for_figure() { wait_for figure_equals "$@" || figure_is "$@"; }

# hold KB COUNT [NODE]: pages in use, until release. The holder verifies what
# is in them.
hold()
{
	local log
	log=$work/hold.${#holders[@]}
	"$here/hold" "$@" >"$log" 2>&1 &
	holders+=($!)
	wait_for held_or_failed "$log" $!
	grep -q ready "$log" && return
	cat "$log"
	return 1
}

# Its log has "ready", or it is gone.
held_or_failed() { grep -q ready "$1" || ! kill -0 "$2" 2>/dev/null; }

# release: all pages that are held
release()
{
	local p status=0
	for p in "${holders[@]}"; do
		kill -TERM "$p" 2>/dev/null
		wait "$p" || status=1
	done
	[ $status -eq 0 ] || cat "$work"/hold.*
	holders=()
	return $status
}

# empty_pools
empty_pools()
{
	local kB
	for kB in $(sizes); do
		pool_set "$kB" 0 || return
	done
}

# load [PARAMETER...]
load()
{
	insmod "$HVO_KO" "$@" || return
	[ -e "$hvo_sysctl/enabled" ] && [ -d "$hvo_figures" ] && return
	echo "hvo is loaded without $hvo_sysctl or $hvo_figures"
	return 1
}

# remember: the memory there is without hvo
remember()
{
	empty_pools
	drain
	first_free=$(free_kB)
	first_memmap=$(memmap_pages)
}

# begin COUNT [PARAMETER...]: of tests; loads the module
begin()
{
	plan $(($1 + 2))
	shift
	remember
	check "hvo is loaded" load "$@" && return
	echo "Bail out! without hvo"
	exit 1
}

everything_is_back()
{
	local kB wrong=0

	release || wrong=1
	hvo_switch 0 || wrong=1
	hvo_nothing || wrong=1
	for kB in $(sizes); do
		figure_is "hugepages-${kB}kB/optimized" 0 || wrong=1
	done
	if [ -e "$parameters/violations" ]; then
		equal "page table steps that broke a rule" "$(<"$parameters/violations")" 0 || wrong=1
	fi
	rmmod hvo || wrong=1
	# shellcheck disable=SC2154
	if [ -e "$hvo_sysctl" ] || [ -e "$hvo_figures" ]; then
		echo "the module left its files"
		wrong=1
	fi
	memory_is_back || wrong=1
	return $wrong
}

memory_is_back()
{
	empty_pools || return
	drain
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap" || return
	equal HardwareCorrupted "$(meminfo HardwareCorrupted)" 0 || return
	at_least "free kB" "$(free_kB)" $((first_free - memory_slack))
}

end()
{
	check "everything is back" everything_is_back
	finish
}
