#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Loading and unloading. Runs last: it begins with what the other tests left
# behind, which has to be nothing.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

refcount() { cat /sys/module/vduse/refcnt; }

nothing_left()
{
	ls /sys/class/vduse /sys/bus/vdpa/devices
	[ "$(ls /sys/class/vduse)" = control ] &&
		[ -z "$(ls /sys/bus/vdpa/devices)" ] && [ "$(refcount)" = 0 ]
}

it_is_ours()
{
	# /sys/module/NAME/taint: O is out of tree.
	grep -q O /sys/module/vduse/taint
}

cycles()
{
	for _ in 1 2 3 4 5; do
		rmmod vduse || return
		[ ! -e /dev/vduse ] || [ -z "$(ls /dev/vduse)" ] || return
		sh "$here/load.sh" || return
	done
}

cycles_with_use()
{
	for _ in 1 2 3; do
		testd m-use size=8 || return
		add m-use || return
		dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
		reap
		rmmod vduse || return
		sh "$here/load.sh" || return
	done
}

busy_device()
{
	"$here/testd" m-dev create || return
	used_devices+=(m-dev)
	! rmmod vduse
}

busy_control()
{
	exec 5<>/dev/vduse/control
	! rmmod vduse
	local ret=$?
	exec 5>&-
	return "$ret"
}

# A mapping of the IOVA space outlives the device; the module stays for it.
busy_mapping()
{
	testd m-map size=8 || return
	add m-map || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	grep -q vduse "/proc/$pid/maps" || return
	vdpa dev del m-map || return
	! rmmod vduse
}

node_matches_sysfs()
{
	[ "$(cat /sys/class/vduse/control/dev)" = \
		"$(printf '%d:%d' "0x$(stat -c %t /dev/vduse/control)" "0x$(stat -c %T /dev/vduse/control)")" ]
}

plan 8
check "nothing is left of the other tests" nothing_left
if [ "${VDUSE_KO-}" = in-tree ]; then
	skip "the module is not the in-tree one" "VDUSE_KO=in-tree asks for that one"
else
	check "the module is not the in-tree one" it_is_ours
fi
check "the control node matches sysfs" node_matches_sysfs
check "unload and load repeatedly" cycles
check "unload and load with use in between" cycles_with_use
check "a device keeps the module" busy_device
check "an open control device keeps the module" busy_control
check "a mapping keeps the module" busy_mapping
finish
