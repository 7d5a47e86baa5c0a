#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The switches: values, permissions, what they do alone and together.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

native=/proc/sys/vm/hugetlb_optimize_vmemmap
pages=32
pool=hugepages-2048kB

defaults()
{
	equal enabled "$(<"$hvo_sysctl/enabled")" 0 &&
		equal in_use "$(<"$hvo_sysctl/in_use")" 1 &&
		equal batch "$(<"$hvo_sysctl/batch")" 64
}

# refused FILE VALUE...: and the old value stays
refused()
{
	local file=$1 before value
	shift
	before=$(<"$file")
	for value; do
		fails_with "Invalid argument" write "$value" "$file" || return
		equal "$file after \"$value\"" "$(<"$file")" "$before" || return
	done
}

bad_switches()
{
	local name
	for name in enabled in_use; do
		refused "$hvo_sysctl/$name" 2 -1 x 1x 0x 99999999999 18446744073709551616 "1;0" || return
	done
}

bad_batches() { refused "$hvo_sysctl/batch" 0 513 -1 -64 x 64k 4294967360 18446744073709551617; }

batch_range()
{
	local value
	for value in 1 512 64; do
		write "$value" "$hvo_sysctl/batch" || return
		equal batch "$(<"$hvo_sysctl/batch")" "$value" || return
	done
}

# Every size of a step converts everything.
batches_convert()
{
	local value status=0
	pool_set 2048 "$pages" || return
	for value in 1 3 31 32 33 512; do
		write "$value" "$hvo_sysctl/batch" &&
			hvo_switch 1 && hvo_whole_pool 2048 && hvo_switch 0 && hvo_nothing || status=1
	done
	write 64 "$hvo_sysctl/batch"
	return "$status"
}

# as_nobody COMMAND...
as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }

permissions()
{
	local f
	for f in enabled in_use batch; do
		equal "mode of $f" "$(stat -c %a "$hvo_sysctl/$f")" 644 || return
		# shellcheck disable=SC2016 # for the inner shell
		fails_with "Permission denied" as_nobody sh -c 'echo 1 >"$1"' sh "$hvo_sysctl/$f" || return
		as_nobody cat "$hvo_sysctl/$f" >/dev/null || return
	done
	equal enabled "$(<"$hvo_sysctl/enabled")" 0
}

# Everybody may read all of them, nobody may write; none is empty.
figures_are_read_only()
{
	local f
	equal "figures of another mode" "$(find "$hvo_figures" -type f ! -perm 444)" "" || return
	equal "figures that are empty" "$(as_nobody grep -rL . "$hvo_figures")" "" || return
	for f in "$hvo_figures"/* "$hvo_figures"/hugepages-2048kB/{,node0/}*; do
		[ -f "$f" ] || continue
		fails_with "Permission denied" write 1 "$f" || return
	done
}

# Each promised file, for each size, in all and for each node.
figures_exist()
{
	local names="optimized optimized_in_use saved_kB skipped_not_power_of_two skipped_too_small
		skipped_self_hosted skipped_contiguous skipped_contents skipped_busy restore_failures
		pmd_splits"
	local kB node name

	for name in backend self_test saved_kB stop_machine_max_us reserve_kB; do
		[ -f "$hvo_figures/$name" ] || {
			echo "no $name"
			return 1
		}
	done
	for kB in $(sizes); do
		for node in . $(cd /sys/devices/system/node && echo node[0-9]*); do
			for name in $names; do
				[ -f "$hvo_figures/hugepages-${kB}kB/$node/$name" ] || {
					echo "no hugepages-${kB}kB/$node/$name"
					return 1
				}
			done
		done
	done
}

in_use_is_left_alone()
{
	pool_set 2048 "$pages" || return
	hold 2048 8 || return
	write 0 "$hvo_sysctl/in_use" || return
	hvo_switch 1 || return
	figure_is "$pool/optimized" $((pages - 8)) || return
	figure_is "$pool/optimized_in_use" 0 || return
	# They are no failure: what is asked for is done.
	write 1 "$hvo_sysctl/in_use" || return
	hvo_switch 1 || return
	figure_is "$pool/optimized" "$pages" || return
	figure_is "$pool/optimized_in_use" 8 || return
	release || return
	hvo_switch 0 && hvo_nothing
}

twice_is_once()
{
	pool_set 2048 "$pages" || return
	hvo_switch 0 && hvo_switch 1 && hvo_switch 1 && hvo_whole_pool 2048 || return
	figure_is saved_kB $((pages * $(saving 2048))) || return
	hvo_switch 0 && hvo_switch 0 && hvo_nothing
}

# Two writers at a time: the last word is the one's that came last.
racing_writers()
{
	local i p writers=()
	pool_set 2048 "$pages" || return
	for i in 1 2 3 4; do
		for ((n = 0; n < 10; n++)); do
			write $(((i + n) % 2)) "$hvo_sysctl/enabled" || exit 1
		done &
		writers+=($!)
	done
	for p in "${writers[@]}"; do
		wait "$p" || return
	done
	hvo_switch 1 && hvo_whole_pool 2048 && hvo_switch 0 && hvo_nothing
}

# The kernel's own name, where the kernel has none: only new pages follow it.
kernels_name()
{
	pool_set 2048 8 || return
	equal "$native" "$(<"$native")" 0 || return
	write 1 "$native" || return
	figure_is saved_kB 0 || return
	pool_set 2048 24 || return
	figure_is "$pool/optimized" 16 || return
	write 0 "$native" || return
	pool_set 2048 32 || return
	figure_is "$pool/optimized" 16 || return
	hvo_switch 1 || return
	equal "$native" "$(<"$native")" 1 || return
	figure_is "$pool/optimized" 32 || return
	hvo_switch 0 || return
	equal "$native" "$(<"$native")" 0 || return
	refused "$native" 2 -1 x || return
	hvo_nothing
}

reload() { rmmod hvo && load "$@"; }

parameter()
{
	pool_set 2048 "$pages" || return
	reload enabled=1 || return
	equal enabled "$(<"$hvo_sysctl/enabled")" 1 || return
	equal parameter "$(<"$parameters/enabled")" Y || return
	hvo_whole_pool 2048 || return
	hvo_switch 0 && hvo_nothing && reload
}

bad_parameters()
{
	rmmod hvo || return
	fails_with "Invalid parameters" insmod "$HVO_KO" enabled=maybe || return
	[ ! -e /sys/module/hvo ] || return
	load
}

begin 15
check "defaults" defaults
check "bad values of the switches" bad_switches
check "bad batches" bad_batches
check "the range of the batch" batch_range
check "every batch converts everything" batches_convert
check "only root may switch" permissions
check "figures are there for each size and node" figures_exist
check "figures are read-only" figures_are_read_only
check "in_use=0 leaves pages in use alone" in_use_is_left_alone
check "writing the same twice" twice_is_once
check "several writers at once" racing_writers
if [ "$arch" = arm64 ]; then
	check "vm.hugetlb_optimize_vmemmap" kernels_name
else
	skip "vm.hugetlb_optimize_vmemmap" "this kernel has its own (see native.sh)"
fi
check "the parameter" parameter
check "a bad parameter" bad_parameters
check "defaults after that" defaults
end
