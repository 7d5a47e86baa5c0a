# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# shellcheck disable=SC2154 # $here: set by who sources this
#
# hvo.ko: loading, switching, and its figures, through the names that
# Documentation/admin-guide/hvo.rst promises. HVO_KO names another module than
# the one of this build.

hvo_sysctl=/proc/sys/vm/hvo
hvo_figures=/sys/kernel/mm/hvo

# hvo_ko: prints the module's path
hvo_ko()
{
	local arch ko

	case $(uname -m) in
	x86_64) arch=amd64 ;;
	aarch64) arch=arm64 ;;
	*) arch=$(uname -m) ;;
	esac
	ko=${HVO_KO:-$here/../../../modules/$arch/hvo.ko}
	[ -f "$ko" ] || {
		echo "no hvo.ko for $arch at $ko: build it or set HVO_KO" >&2
		return 1
	}
	echo "$ko"
}

# hvo_load
hvo_load()
{
	local ko

	ko=$(hvo_ko) || return
	insmod "$ko" || return
	if [ ! -e $hvo_sysctl/enabled ] || [ ! -d $hvo_figures ]; then
		echo "hvo is loaded without $hvo_sysctl or $hvo_figures"
		return 1
	fi
}

# hvo_switch 0|1: and the switch reads back so
hvo_switch()
{
	echo "$1" >$hvo_sysctl/enabled || return
	[ "$(cat $hvo_sysctl/enabled)" = "$1" ]
}

# hvo_get FILE: a figure, such as saved_kB or hugepages-2048kB/optimized
hvo_get() { cat "$hvo_figures/$1"; }

# hvo_whole_pool KB: every page of the pool is optimized, and there are some
hvo_whole_pool()
{
	local nr optimized

	nr=$(pool_get "$1" nr_hugepages)
	optimized=$(hvo_get "hugepages-$1kB/optimized") || return
	[ "$nr" -gt 0 ] && [ "$optimized" -eq "$nr" ] && return
	echo "pool of $1 kB pages: $optimized of $nr optimized"
	grep -H . "$hvo_figures/hugepages-$1kB"/*
	return 1
}

# hvo_nothing: no page is optimized any more
hvo_nothing()
{
	[ "$(hvo_get saved_kB)" -eq 0 ] && return
	grep -rH . "$hvo_figures"
	return 1
}
