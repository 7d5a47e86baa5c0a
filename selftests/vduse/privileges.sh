#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Who may do what: a daemon that gives up root, users without rights, and
# netlink from another network namespace.

# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

user=65534

as_user() { setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; }
without_net_admin() { setpriv --bounding-set -net_admin --inh-caps -net_admin "$@"; }

daemon_that_dropped_root()
{
	testd p-drop size=16 drop || return
	[ "$(stat -c %u "/proc/$pid")" = "$user" ] || return
	add p-drop || return
	fio_verify "$disk" --size=2m || return
	vdpa dev del p-drop
}

user_cannot_open_control()
{
	! as_user "$here/testd" p-user 2>"$work/err" || return
	cat "$work/err"
	grep -q 'Permission denied' "$work/err"
}

node_of_a_user()
{
	"$here/testd" p-own create || return
	used_devices+=(p-own)
	! as_user sh -c 'exec 3<>/dev/vduse/p-own' || return
	chown "$user" /dev/vduse/p-own
	start "$work/p-own.log" setpriv --reuid "$user" --regid "$user" --clear-groups \
		"$here/testd" p-own keep
	wait_for 5000 grep -qs ready "$work/p-own.log" || {
		cat "$work/p-own.log"
		return 1
	}
	add p-own || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	vdpa dev del p-own
}

vdpa_needs_net_admin()
{
	testd p-cap || return
	used_devices+=(p-cap)
	! without_net_admin vdpa dev add name p-cap mgmtdev vduse 2>"$work/err" || return
	cat "$work/err"
	grep -qi 'not permitted' "$work/err" || return
	[ ! -e /sys/bus/vdpa/devices/p-cap ]
}

other_network_namespace()
{
	testd p-netns || return
	used_devices+=(p-netns)
	! unshare -n vdpa dev add name p-netns mgmtdev vduse 2>"$work/err" || return
	cat "$work/err"
	[ -s "$work/err" ] || return
	[ ! -e /sys/bus/vdpa/devices/p-netns ] || return
	# It did no harm.
	add p-netns
}

plan 5
check "a daemon that dropped root serves" daemon_that_dropped_root
check "a user cannot open the control device" user_cannot_open_control
check "a user can serve a node that was given to him" node_of_a_user
check "vdpa dev add needs CAP_NET_ADMIN" vdpa_needs_net_admin
check "vdpa dev add from another network namespace" other_network_namespace
finish
