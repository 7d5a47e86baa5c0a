# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The faults. For each name in matrix.py there are
#
#   server_NAME   starts the server (and the proxy) that it needs; by default
#                 nbdkit's file plugin on $image
#   fault_NAME    makes it happen and takes it back; 1 and a line of text if it
#                 could not be made to happen
#
# The misdeeds of nbd_proxy.py share one function each.

# shellcheck source-path=SCRIPTDIR source=loads.sh
. "$(dirname "${BASH_SOURCE[0]}")/loads.sh"

# ---- servers ----

server_plain() { server_start file "$image"; }

server_behind_proxy() # KIND
{
	server_plain && proxy_start "$1"
}

# Its disk is on a file system of its own, which will be too small.
server_server_full()
{
	mkdir -p "$cell/small"
	mount -t tmpfs -o size=256M tmpfs "$cell/small" || return
	image=$cell/small/disk.img
	truncate -s "$disk_size" "$image"
	server_plain
}

server_read_errors()
{
	server_start --filter=error file "$image" error-pread-rate=100% error=EIO \
		"error-file=$cell/fail"
}

# Acknowledged writes are in its cache until they are flushed, and die with it.
server_cache_lost()
{
	server_start --filter=cache file "$image" cache=writeback
}

# server_for FAULT
server_for()
{
	case $1 in
	server-full | read-errors | cache-lost) "server_${1//-/_}" ;;
	close | silent | late-write | option-reply | greeting | reply-* | chunk-*)
		server_behind_proxy "$1"
		;;
	*) server_plain ;;
	esac
}

# ---- faults ----

fault_daemon_kill() { subject_kill; }
fault_daemon_term() { subject_term; }
fault_daemon_keep() { subject_term; }

fault_upgrade() { subject_upgrade; }

fault_server_restart()
{
	server_kill && sleep 1 && server_plain
}

# What is lost has to be noticed: so let there be writes that nobody has flushed.
fault_cache_lost()
{
	[ "$load_kind" != raw ] || kill -USR1 "$load_pid" || return
	sleep 1
	server_kill || return
	[ "$load_kind" != raw ] || kill -USR1 "$load_pid" || return
	sleep 1 && sleep 1 && server_cache_lost
}

fault_server_pause()
{
	kill -STOP "$server_pid" || return
	sleep 10
	kill -CONT "$server_pid"
}

fault_link_down()
{
	ip -n storage link set veth1 down || return
	sleep 3
	ip -n storage link set veth1 up
}

fault_link_lossy()
{
	lossy || return
	sleep 8
	not_lossy
}

fault_export_grown()
{
	local want=$((disk_size * 2 / 512))
	server_kill || return
	truncate -s $((disk_size * 2)) "$image"
	server_plain || return
	# The driver has to see it. (The peers do not claim that.)
	[ "$subject" != vduse-blk ] || until_true 20 disk_has "$want" && return
	echo "the disk has not grown"
	return 1
}

disk_has() { [ "$(<"/sys/block/${disk##*/}/size")" -eq "$1" ]; } # SECTORS

fault_export_shrunk()
{
	server_kill || return
	truncate -s $((disk_size * 3 / 4)) "$image"
	server_plain || return
	[ "$subject" != vduse-blk ] || shrink_is_noticed
}

# What is not there any more fails, at once, and the rest does not.
shrink_is_noticed()
{
	until_true 20 storage_is shrunk || {
		echo "the daemon has not noticed"
		return 1
	}
	read_at $((disk_size * 7 / 8)) 2>/dev/null && echo "what has gone can be read" && return 1
	read_at $((disk_size / 2))
}

storage_is() { [ "$(field fault storage)" = "$1" ]; }

read_at() # BYTES
{
	limited 20 dd if="$disk" of=/dev/null bs=4k skip=$(($1 / 4096)) count=1 iflag=direct \
		status=none
}

# No page more than there is now; what is overwritten in place still works.
fault_server_full()
{
	local status
	# It takes pages while they are counted, if nobody stops it.
	kill -STOP "$server_pid" || return
	until_true 10 shrink_small
	status=$?
	kill -CONT "$server_pid" && [ $status -eq 0 ] || return
	sleep 3
	mount -o remount,size=256M "$cell/small"
}

# Less than what is in use cannot be; a write that had begun may still take some.
shrink_small()
{
	local used
	used=$(df --output=used -B 4096 "$cell/small" | tail -n 1)
	mount -o "remount,size=$(((used + 16) * 4096))" "$cell/small"
}

fault_read_errors()
{
	touch "$cell/fail"
	read_some
	sleep 2
	rm "$cell/fail"
}

# read_some: reads past the page cache, for loads that hardly read
read_some()
{
	dd if="$disk" of=/dev/null bs=4k skip=$((RANDOM % 4096)) count=8 iflag=direct status=none \
		2>>"$cell/reads" &
	readers+=($!)
}

# The proxy does it once; a read makes sure that there is a reply to spoil.
fault_of_the_proxy()
{
	local want
	want=$(($(misdeeds) + 1))
	kill -USR1 "$proxy_pid" || return
	sleep 0.2
	case $fault in
	reply-* | chunk-*) read_some ;;
	esac
	[ "$fault" != late-write ] || want=$((want + 1))
	until_true 15 misdeed_done $want && return
	cat "$work/proxy.log"
	echo "there was nothing to spoil: no such reply or request"
	return 1
}

# inject FAULT
inject()
{
	case $1 in
	close | silent | late-write | option-reply | greeting | reply-* | chunk-*)
		fault_of_the_proxy
		;;
	*) "fault_${1//-/_}" ;;
	esac
}
