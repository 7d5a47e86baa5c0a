#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Loading and unloading, and the build that is shipped: this program takes that,
# and only what needs the test build takes that.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

test_ko=$HVO_KO
HVO_KO=$here/../../../modules/$arch/hvo.ko
pool=hugepages-2048kB
cycles=${HVO_CYCLES:-50}

# The shipped build has no failure points and no checks.
shipped_build()
{
	local f
	for f in violations verify_self_test fail_alloc fail_reserve; do
		[ ! -e "$parameters/$f" ] || {
			echo "it has the parameter $f"
			return 1
		}
	done
	echo "self_test: $(hvo_get self_test)"
	echo "backend: $(hvo_get backend)"
	[[ $(hvo_get self_test) == *ok* || $(hvo_get self_test) == *broken* ]]
}

smoke()
{
	pool_set 2048 32 || return
	hold 2048 4 || return
	hvo_switch 1 && hvo_whole_pool 2048 || return
	figure_is "$pool/optimized_in_use" 4 || return
	hvo_switch 0 && hvo_nothing || return
	rmmod hvo && load enabled=1 && hvo_whole_pool 2048 || return
	release || return
	hvo_switch 0 && hvo_nothing
}

bound_while_on()
{
	hvo_switch 1 || return
	fails_with "in use" rmmod hvo || return
	# So it is with an empty pool: pages may come.
	pool_set 2048 0 || return
	fails_with "in use" rmmod hvo || return
	hvo_switch 0 && rmmod hvo && load
}

twice() { fails_with "File exists" insmod "$HVO_KO"; }

# The hooks are permanent: what would switch them off is refused. Without them
# it would load and be useless.
ftrace_off_while_loaded()
{
	pool_set 2048 16 && hvo_switch 1 || return
	fails_with "busy" write 0 /proc/sys/kernel/ftrace_enabled || return
	equal ftrace_enabled "$(</proc/sys/kernel/ftrace_enabled)" 1 || return
	pool_set 2048 0 && hvo_switch 0
}

ftrace_off_before()
{
	local status
	rmmod hvo || return
	write 0 /proc/sys/kernel/ftrace_enabled || return
	! insmod "$HVO_KO" && [ ! -e /sys/module/hvo ]
	status=$?
	write 1 /proc/sys/kernel/ftrace_enabled
	load && return "$status"
}

# With pages in the pool and in use, hvo on in each second cycle. (Two processes
# a cycle: an emulated machine starts them slowly.)
load_and_unload()
{
	local i free optimized
	pool_set 2048 64 || return
	hold 2048 8 || return
	rmmod hvo || return
	drain
	free=$(free_kB)
	for ((i = 0; i < cycles; i++)); do
		insmod "$HVO_KO" enabled=$((i % 2)) || return
		read -r optimized <"$hvo_figures/$pool/optimized" || return
		equal optimized "$optimized" $((i % 2 * 64)) || return
		write 0 "$hvo_sysctl/enabled" && rmmod hvo || return
	done
	release || return
	drain
	at_least "free kB after $cycles cycles" "$(free_kB)" $((free - memory_slack)) || return
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap" || return
	pool_set 2048 0 && load
}

# refused PARAMETER MESSAGE LOG: the test build does not load; LOG is in the
# kernel's log
refused()
{
	dmesg -C
	fails_with "$2" insmod "$test_ko" "$1" || return
	[ ! -e /sys/module/hvo ] || return
	dmesg | grep -E "hvo: .*$3" && return
	dmesg
	return 1
}

# A symbol or a structure is not what it expects. insmod has its own words for
# ENOENT, EEXIST and EINVAL.
refusals()
{
	local status=0
	rmmod hvo || return
	refused break_symbol=missing "Unknown symbol" hvo_no_such_symbol &&
		refused break_symbol=ambiguous "File exists" type_show &&
		refused break_struct=1 "Invalid parameters" "struct .*was built for" || status=1
	load && return "$status"
}

# What the test build checks about itself.
checks_are_checked()
{
	local status=0
	rmmod hvo || return
	insmod "$test_ko" || return
	equal verify_self_test "$(<"$parameters/verify_self_test")" ok &&
		equal violations "$(<"$parameters/violations")" 0 || status=1
	rmmod hvo && load && return "$status"
}

begin 9
check "this is what is shipped" shipped_build
check "convert, restore, and by the parameter" smoke
check "the module stays while it is on" bound_while_on
check "a second one" twice
check "ftrace cannot be turned off while it is loaded" ftrace_off_while_loaded
check "it does not load without ftrace" ftrace_off_before
check "the test build sees each wrong page table step" checks_are_checked
check "unknown symbols and structures are refused" refusals
check "loaded and unloaded $cycles times" load_and_unload
end
