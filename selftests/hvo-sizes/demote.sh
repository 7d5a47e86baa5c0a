#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Demotion of pages into smaller ones: the same with hvo as without. What comes
# out is optimized like any page that enters a pool.

# shellcheck source-path=SCRIPTDIR/../hvo source=lib.sh
. "$(dirname "$0")/lib.sh"

# demote FROM TO N: that many pages, by the kernel's file
demote()
{
	local dir=$pools/hugepages-$1kB
	if [ -e "$dir/demote_size" ]; then
		echo "$2kB" >"$dir/demote_size" || return
	fi
	echo "$3" >"$dir/demote"
}

# demoted FROM TO BEFORE DURING: the pool is filled with hvo in one state
# (0 or 1), demoted in another, and emptied
demoted()
{
	local from=$1 to=$2 count=2 parts=$(($1 / $2))

	[ "$from" -lt 1048576 ] || count=1
	hvo_switch "$3" || return
	pool_set "$from" "$count" || return
	figure_is "hugepages-${from}kB/optimized" $(($3 * count)) || return
	hvo_switch "$4" || return
	demote "$from" "$to" 1 || return
	equal "pages left" "$(pool_get "$from" nr_hugepages)" $((count - 1)) || return
	equal "pages made" "$(pool_get "$to" nr_hugepages)" "$parts" || return
	# A pass after the demotion may be what brings them there.
	wait_for_figure "hugepages-${from}kB/optimized" $(($4 * (count - 1))) || return
	wait_for_figure "hugepages-${to}kB/optimized" $(($4 * parts)) || return

	# They are good pages: used, and given back.
	hold "$to" 3 && release || return
	pool_set "$to" 0 && pool_set "$from" 0 || return
	figure_is saved_kB 0 || return
	equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap"
}

# A pool with both kinds: in_use=0 leaves what is in use then plain.
mixed()
{
	local to=2048 from=$1
	hvo_switch 0 || return
	pool_set "$from" 3 || return
	hold "$from" 1 || return
	write 0 "$hvo_sysctl/in_use"
	hvo_switch 1 || return
	write 1 "$hvo_sysctl/in_use"
	release || return
	figure_is "hugepages-${from}kB/optimized" 2 || return
	demote "$from" "$to" 3 || return
	equal "pages left" "$(pool_get "$from" nr_hugepages)" 0 || return
	wait_for_figure "hugepages-${to}kB/optimized" $((3 * from / to)) || return
	pool_set "$to" 0
}

# A node's own file demotes pages of that node.
on_a_node()
{
	local dir=/sys/devices/system/node/node1/hugepages
	hvo_switch 1 || return
	echo 1 >"$dir"/hugepages-1048576kB/nr_hugepages || return
	equal "pages of node 1" "$(<"$dir"/hugepages-1048576kB/nr_hugepages)" 1 || return
	echo 2048kB >"$pools/hugepages-1048576kB/demote_size" || return
	echo 1 >"$dir"/hugepages-1048576kB/demote || return
	equal "pages of node 1" "$(<"$dir"/hugepages-2048kB/nr_hugepages)" 512 || return
	wait_for_figure hugepages-2048kB/node1/optimized 512 || return
	pool_set 2048 0
}

begin 14
for states in "0 0" "1 1" "0 1" "1 0"; do
	for pair in "1048576 2048" "1048576 32768" "32768 2048"; do
		# shellcheck disable=SC2086 # two words each
		set -- $pair $states
		name="$1 kB to $2 kB pages, filled with enabled=$3, demoted with enabled=$4"
		if [ -d "$pools/hugepages-$1kB" ] && [ -d "$pools/hugepages-$2kB" ]; then
			check "$name" demoted "$@"
		else
			skip "$name" "no pages of one of the sizes on this architecture"
		fi
	done
done
if [ -d "$pools/hugepages-32768kB" ]; then
	check "optimized and plain pages at once" mixed 32768
else
	skip "optimized and plain pages at once" "there is no memory for several 1 GiB pages"
fi
if [ -d /sys/devices/system/node/node1/hugepages ]; then
	check "the file of a node" on_a_node
else
	skip "the file of a node" "one NUMA node only"
fi
end
