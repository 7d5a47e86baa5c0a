#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Pools that change while hvo is on: pages are optimized as they enter and
# whole again when they leave, with nobody asking for it.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

pool=hugepages-2048kB
overcommit=$pools/$pool/nr_overcommit_hugepages

# all_optimized N: the pool has N pages, and they are
all_optimized()
{
	equal nr_hugepages "$(pool_get 2048 nr_hugepages)" "$1" &&
		figure_is "$pool/optimized" "$1" &&
		figure_is saved_kB $(($1 * $(saving 2048)))
}

# drained: all vmemmap is there, without hvo's help
drained() { equal "pages of vmemmap" "$(memmap_pages)" "$first_memmap"; }

grow_and_shrink()
{
	local n
	hvo_switch 1 || return
	for n in 1 64 256 255 100 300 0; do
		pool_set 2048 "$n" && all_optimized "$n" || return
	done
	drained
}

# Off means off: pages that come stay plain.
grow_while_off()
{
	hvo_switch 0 || return
	pool_set 2048 32 || return
	figure_is "$pool/optimized" 0 || return
	pool_set 2048 0
}

# node_pool NODE N
node_pool()
{
	local file=/sys/devices/system/node/node$1/hugepages/$pool/nr_hugepages
	echo "$2" >"$file" && equal "pool of node $1" "$(<"$file")" "$2" &&
		figure_is "$pool/node$1/optimized" "$2" &&
		figure_is "$pool/node$1/saved_kB" $(($2 * $(saving 2048)))
}

per_node()
{
	hvo_switch 1 || return
	node_pool 0 24 && node_pool 1 8 && all_optimized 32 || return
	node_pool 0 0 && all_optimized 8 || return
	node_pool 0 16 && node_pool 1 0 && all_optimized 16 || return
	hold 2048 5 0 || return
	figure_is "$pool"/node0/optimized_in_use 5 || return
	figure_is "$pool"/node1/optimized_in_use 0 || return
	release || return
	node_pool 0 0 && drained
}

surplus()
{
	local status
	hvo_switch 1 || return
	pool_set 2048 4 || return
	write 8 "$overcommit" || return
	hold 2048 10 && equal surplus "$(pool_get 2048 surplus_hugepages)" 6 &&
		all_optimized 10 && figure_is "$pool/optimized_in_use" 10
	status=$?
	release || status=1
	write 0 "$overcommit"
	[ "$status" -eq 0 ] || return
	# Surplus pages go when nobody needs them.
	wait_for pool_is 4 && all_optimized 4 || return
	pool_set 2048 0 && drained
}

pool_is() { [ "$(pool_get 2048 nr_hugepages)" -eq "$1" ]; }

# The pool is made smaller while all of it is in use: the pages turn surplus,
# and each goes when it is released.
shrink_in_use()
{
	hvo_switch 1 || return
	pool_set 2048 12 || return
	hold 2048 12 || return
	write 0 "$pools/$pool/nr_hugepages" || return
	equal surplus "$(pool_get 2048 surplus_hugepages)" 12 || return
	all_optimized 12 || return
	hvo_switch 0 && figure_is "$pool/optimized" 0 && hvo_switch 1 && all_optimized 12 || return
	release || return
	wait_for pool_is 0 && all_optimized 0 && drained
}

# in_cgroup COMMAND...: a limit of eight 2 MiB pages; sets $group
in_cgroup()
{
	local status
	group=/sys/fs/cgroup/hvo-test
	echo +hugetlb >/sys/fs/cgroup/cgroup.subtree_control || return
	mkdir "$group" || return
	echo $((8 << 21)) >"$group/hugetlb.2MB.max" || return
	"$@"
	status=$?
	release || status=1
	rmdir "$group" || status=1
	echo -hugetlb >/sys/fs/cgroup/cgroup.subtree_control
	return "$status"
}

# hold_in_group COUNT: as hold, charged to the group
hold_in_group()
{
	local status
	echo "$BASHPID" >"$group/cgroup.procs" || return
	hold 2048 "$1"
	status=$?
	echo "$BASHPID" >/sys/fs/cgroup/cgroup.procs
	return "$status"
}

charge() { cat "$group/hugetlb.2MB.current"; }

limits()
{
	pool_set 2048 16 && hvo_switch 1 || return
	hold_in_group 8 || return
	equal charge "$(charge)" $((8 << 21)) || return
	# What is charged survives both changes.
	hvo_switch 0 && equal charge "$(charge)" $((8 << 21)) || return
	hvo_switch 1 && equal charge "$(charge)" $((8 << 21)) || return
	# The ninth page is refused: its user dies of SIGBUS.
	if hold_in_group 1; then
		echo "the limit is passed"
		return 1
	fi
	kill -TERM "${holders[0]}" && wait "${holders[0]}" || return
	holders=()
	equal charge "$(charge)" 0 || return
	all_optimized 16
}

cgroup_limits()
{
	in_cgroup limits || return
	pool_set 2048 0 && drained
}

# Page faults into holes of the pool, many pages, several times.
churn()
{
	local i
	hvo_switch 1 || return
	for ((i = 0; i < 5; i++)); do
		pool_set 2048 64 || return
		hold 2048 32 && hold 2048 32 || return
		all_optimized 64 && figure_is "$pool/optimized_in_use" 64 || return
		release || return
		figure_is "$pool/optimized_in_use" 0 || return
		pool_set 2048 0 && drained || return
	done
}

begin 7
check "grow and shrink" grow_and_shrink
check "pages that come while it is off" grow_while_off
if [ -d /sys/devices/system/node/node1/hugepages ]; then
	check "pools per node" per_node
else
	skip "pools per node" "one NUMA node only"
fi
check "surplus pages" surplus
check "shrinking a pool that is in use" shrink_in_use
if grep -qw hugetlb /sys/fs/cgroup/cgroup.controllers; then
	check "cgroup limits" cgroup_limits
else
	skip "cgroup limits" "no hugetlb controller (CONFIG_CGROUP_HUGETLB)"
fi
check "grow, use, shrink, repeatedly" churn
end
