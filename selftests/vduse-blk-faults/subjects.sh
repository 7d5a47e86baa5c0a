# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What stands between the disk and the server: ours, and its peers, each with
# the same calls. SUBJECT in the environment chooses:
#
#   vduse-blk   vduse-blk on vduse.ko
#   qsd         qemu-storage-daemon's vduse-blk export (VDUSE_KO=in-tree: on the
#               kernel's own vduse)
#   nbd         the kernel's NBD client, set up by nbd-client -persist
#   fuse        qemu-storage-daemon's FUSE export below a loop device: needs no
#               kernel module, so this driver can be tried on a host
#
#   subject_start QUEUES RING    serves 10.77.0.2:$port; the disk is in $disk
#   subject_kill                 kill -9; then it is started again
#   subject_term                 SIGTERM; then likewise
#   subject_upgrade              another process takes over (ours only)
#   subject_stop                 the ordinary end; nothing is left
#   subject_abandon              kill -9, and the disk goes: what waits for it fails
#   subject_version              what is tested, a line
#   subject_options              what it is told, in each cell
#   subject_features             words of what it survives; "all": unknown
#
# They print what went wrong and return 1. The peers get the options that their
# documentation recommends for a server that may be lost.

# shellcheck source-path=SCRIPTDIR source=faults.sh
. "$(dirname "${BASH_SOURCE[0]}")/faults.sh"

subject=${SUBJECT:-vduse-blk}
subject_pid=0
subject_args=()

# ---- ours ----

own_options=()
# Not one that an upgrade has started.
subject_is_child=

vduse_blk_version() { "$daemon" --version | head -n 1; }
vduse_blk_features() { "$daemon" --version | sed -n 's/^features://p'; }

# Short timeouts, so that a cell does not take long. An option that this build
# does not have is left out.
vduse_blk_options()
{
	local help name value
	help=$("$daemon" serve --help)
	while read -r name value; do
		grep -q -- "$name" <<<"$help" && echo "$name" "$value"
	done <<-'END'
		--request-timeout 5
		--keep-alive 5
		--reconnect-min 100ms
		--reconnect-max 1
		--fence-timeout 2
	END
}

vduse_blk_start()
{
	local packed=off
	[ "$2" = packed ] && packed=on
	[ ${#own_options[@]} -gt 0 ] ||
		mapfile -t own_options < <(vduse_blk_options | tr ' ' '\n')
	subject_args=("$@")
	serve fault "nbd://10.77.0.2:$port/" --queues "$1" --packed $packed "${own_options[@]}" \
		"${extra_options[@]}" || return
	subject_pid=$pid subject_is_child=1
	started_pids=()
}

vduse_blk_kill()
{
	end_job "$subject_pid" KILL
	server_is_well
	vduse_blk_start "${subject_args[@]}"
}

# Its end has a limit, and a status.
vduse_blk_end()
{
	local status
	[ -n "$subject_is_child" ] || {
		vduse_blk_end_of_other
		return
	}
	kill -TERM "$subject_pid"
	until_true 30 gone "$subject_pid" || {
		echo "the daemon has not ended 30 s after SIGTERM"
		end_job "$subject_pid"
		return 1
	}
	wait "$subject_pid"
	status=$?
	subject_pid=0
	[ $status -eq 0 ] || echo "the daemon ended with status $status"
	return $status
}

# The end of a process that an upgrade has started: its status is somebody else's, so
# it is asked through its socket.
vduse_blk_end_of_other()
{
	if limited 30 "$daemon" stop fault && until_true 10 gone "$subject_pid"; then
		subject_pid=0
		return
	fi
	echo "the daemon has not ended after 'stop'"
	end_job "$subject_pid"
	return 1
}

# It says which process serves now, and how long the disk stood still; the old one
# is gone, and ended well.
vduse_blk_upgrade()
{
	local old new text
	text=$work/upgrade
	limited 60 "$daemon" upgrade fault >"$text" 2>&1 || {
		cat "$text"
		return 1
	}
	cat "$text"
	read -r old new < <(sed -n \
		's/^fault: process \([0-9]*\) .* handed over to process \([0-9]*\) .*/\1 \2/p' "$text")
	if [ "$old" != "$subject_pid" ] || [ -z "$new" ] || [ "$new" = "$old" ] ||
		! grep -qE '^fault: longest stall: [0-9]+\.[0-9]{3} ms$' "$text"; then
		echo "it does not name the processes and the stall"
		return 1
	fi
	until_true 10 gone "$old" || {
		echo "process $old is still there"
		return 1
	}
	wait "$old" || return
	subject_pid=$new subject_is_child=''
	! gone "$new"
}

vduse_blk_term() { vduse_blk_end && vduse_blk_start "${subject_args[@]}"; }

vduse_blk_stop()
{
	local status=0
	if [ "$subject_pid" -gt 0 ] && ! gone "$subject_pid"; then
		vduse_blk_end || status=1
	fi
	[ ! -e /sys/bus/vdpa/devices/fault ] || limited 20 vdpa dev del fault
	[ ! -e /sys/bus/vdpa/devices/fault ] || make_dirty "the vDPA device is still there"
	[ ! -e /dev/vduse/fault ] || limited 10 "$here/../vduse/testd" fault destroy
	used_devices=()
	return $status
}

vduse_blk_abandon()
{
	end_job "$subject_pid" KILL
	subject_pid=0
	limited 20 vdpa dev del fault
}

# ---- qemu-storage-daemon on VDUSE ----

qsd_options() { echo "reconnect-delay=3600"; }
qsd_version() { qemu-storage-daemon --version | sed -n 's/^\([^(]*[^( ]\).*/\1/p; q'; }
qsd_features() { echo all; }

qsd_daemon()
{
	qemu-storage-daemon --blockdev \
		"driver=nbd,node-name=n,server.type=inet,server.host=10.77.0.2,server.port=$port,reconnect-delay=3600" \
		--export "type=vduse-blk,id=e,name=fault,node-name=n,num-queues=$1,queue-size=256,writable=on" \
		>>"$work/subject.log" 2>&1 &
	subject_pid=$!
	until_true 20 qsd_is_up_or_dead && ! gone "$subject_pid" && return
	tail -n 5 "$work/subject.log"
	return 1
}

qsd_is_up_or_dead() { [ -e /dev/vduse/fault ] || gone "$subject_pid"; }

qsd_start()
{
	subject_args=("$@")
	qsd_daemon "$1" || return
	# The node exists a little before the virtqueues are set up.
	sleep 0.5
	add fault
}

qsd_again() { qsd_daemon "${subject_args[0]}"; }

qsd_kill()
{
	end_job "$subject_pid" KILL
	qsd_again
}

qsd_term()
{
	end_job "$subject_pid" TERM
	qsd_again
}

qsd_stop()
{
	used_devices=()
	[ ! -e /sys/bus/vdpa/devices/fault ] || limited 20 vdpa dev del fault
	end_job "$subject_pid" TERM
	subject_pid=0
	[ ! -e /sys/bus/vdpa/devices/fault ] || make_dirty "vdpa dev del does not end"
}

qsd_abandon()
{
	end_job "$subject_pid" KILL
	subject_pid=0
	limited 20 vdpa dev del fault
}

# ---- the kernel's NBD client ----

nbd_options() { echo "-persist"; }
nbd_version() { nbd-client -V 2>&1 | head -n 1; }
nbd_features() { echo all; }

nbd_start()
{
	subject_args=("$@")
	disk=/dev/nbd0
	modprobe nbd nbds_max=1 max_part=0 || return
	# -nonetlink: the process stays, which -persist needs.
	nbd-client 10.77.0.2 "$port" $disk -nonetlink -persist -connections "$1" -nofork \
		>>"$work/subject.log" 2>&1 &
	subject_pid=$!
	until_true 20 nbd_is_up_or_dead && nbd_is_up && return
	tail -n 5 "$work/subject.log"
	return 1
}

nbd_is_up() { [ "$(cat /sys/block/nbd0/size)" -gt 0 ]; }
nbd_is_down() { ! nbd_is_up; }
nbd_is_up_or_dead() { nbd_is_up || gone "$subject_pid"; }

nbd_kill()
{
	end_job "$subject_pid" KILL
	nbd_start "${subject_args[@]}"
}

nbd_term()
{
	end_job "$subject_pid" TERM
	nbd_start "${subject_args[@]}"
}

nbd_stop()
{
	limited 20 nbd-client -nonetlink -d "$disk" >>"$work/subject.log" 2>&1
	end_job "$subject_pid" TERM
	subject_pid=0
	until_true 10 nbd_is_down || make_dirty "/dev/nbd0 is still connected"
}

nbd_abandon()
{
	limited 20 nbd-client -nonetlink -d "$disk"
	end_job "$subject_pid" KILL
	subject_pid=0
}

# ---- qemu-storage-daemon on FUSE ----

fuse_options() { qsd_options; }
fuse_version() { qsd_version; }
fuse_features() { echo all; }

fuse_start()
{
	subject_args=("$@")
	: >"$work/fuse"
	qemu-storage-daemon --blockdev \
		"driver=nbd,node-name=n,server.type=inet,server.host=10.77.0.2,server.port=$port,reconnect-delay=3600" \
		--export "type=fuse,id=e,node-name=n,mountpoint=$work/fuse,writable=on" \
		>>"$work/subject.log" 2>&1 &
	subject_pid=$!
	if until_true 20 fuse_is_up_or_dead && [ -s "$work/fuse" ]; then
		disk=$(losetup -f --show --direct-io=on "$work/fuse")
		return
	fi
	tail -n 5 "$work/subject.log"
	return 1
}

fuse_is_up_or_dead() { [ -s "$work/fuse" ] || gone "$subject_pid"; }

fuse_stop()
{
	[ -z "$disk" ] || limited 10 losetup -d "$disk"
	end_job "$subject_pid" TERM
	subject_pid=0 disk=''
	umount -l "$work/fuse" 2>/dev/null
	return 0
}

fuse_abandon()
{
	end_job "$subject_pid" KILL
	subject_pid=0
}

# ---- the one that was chosen ----

case $subject in
vduse-blk | qsd | nbd | fuse) ;;
*)
	echo "1..0 # SKIP unknown subject '$subject'"
	exit 1
	;;
esac
extra_options=()
subject_start() { "${subject//-/_}_start" "$@"; }
subject_kill() { "${subject//-/_}_kill"; }
subject_term() { "${subject//-/_}_term"; }
subject_upgrade() { "${subject//-/_}_upgrade"; }
subject_stop() { "${subject//-/_}_stop"; }
subject_abandon() { "${subject//-/_}_abandon"; }
subject_options() { "${subject//-/_}_options"; }
subject_version() { "${subject//-/_}_version"; }
subject_features() { "${subject//-/_}_features"; }
