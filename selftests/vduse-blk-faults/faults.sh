# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the programs of this suite share: time limits, the network, the server
# and its disk. The server is in a network namespace of its own, behind a pair
# of Ethernet devices that can be pulled or made lossy:
#
#   disk ── subject ── veth0 ══ veth1 [── nbd_proxy.py] ── nbdkit ── $image
#           10.77.0.1          10.77.0.2:10810           :10809
#
# Whatever can hang has a limit here. What cannot even be killed (a process
# that the kernel lets wait for a disk) is in $stuck; if it is still there when
# the disk is gone, or that does not go, the guest is dirty: $dirty says why, and
# nothing else is tried in this boot.

# shellcheck source-path=SCRIPTDIR source=../vduse-blk/blk.sh
. "$(dirname "${BASH_SOURCE[0]}")/blk.sh"

# What the files of this suite share: the server's disk, where clients connect,
# the cell's folder and fault, options of the raw load. Set by cell.sh.
# shellcheck disable=SC2034
{
	disk_size=$((64 << 20))
	image='' port=10809
	cell='' fault='' load_options=()
}
dirty=
stuck=()
server_pid=0 proxy_pid=0
server_args=() server_aborts=0

# gone PID: it is a zombie or not there, with all of its threads: one that waits
# in the kernel lets the first one become a zombie, and a wait would wait for
# it. No process is started for asking.
gone()
{
	local stat
	local -a field
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
	read -ra field <<<"${stat##*) }"
	[[ ${field[0]} == [ZX] && ${field[17]} -le 1 ]]
}

# until_true SECONDS COMMAND...: until it succeeds, asking every tenth of one
until_true()
{
	local end=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt "$end" ] || return 1
		[ "$server_pid" -eq 0 ] || ! gone "$server_pid" || server_revive
		sleep 0.1
	done
}

# make_dirty REASON: the first one is the one that matters
make_dirty()
{
	[ -n "$dirty" ] || dirty=$1
	echo "guest is dirty: $1"
}

# limited SECONDS COMMAND...: its status, or 124 if that is not enough
limited()
{
	local limit=$1 job
	shift
	"$@" &
	job=$!
	if until_true "$limit" gone $job; then
		wait $job
		return
	fi
	kill -KILL $job
	if until_true 3 gone $job; then
		wait $job 2>/dev/null
	else
		stuck+=("$job")
	fi
	echo "not done in $limit s: $*"
	return 124
}

# end_job PID [SIGNAL]: it has to be gone soon
end_job()
{
	[ "$1" -gt 0 ] || return 0
	kill "-${2:-KILL}" "$1" 2>/dev/null
	until_true 10 gone "$1" || kill -KILL "$1"
	until_true 5 gone "$1" || {
		stuck+=("$1")
		return 1
	}
	wait "$1" 2>/dev/null
	return 0
}

# unstick: what could not be killed has come to its end, or the guest is dirty
unstick()
{
	local p
	for p in "${stuck[@]}"; do
		until_true 10 gone "$p" || make_dirty "cannot be killed: $(tr '\0' ' ' <"/proc/$p/cmdline")"
	done
	stuck=()
	[ -z "$dirty" ]
}

# ---- network ----

in_storage() { ip netns exec storage "$@"; }

network_up()
{
	ip netns add storage || return
	ip link add veth0 type veth peer name veth1 netns storage || return
	ip addr add 10.77.0.1/24 dev veth0 && ip link set veth0 up || return
	ip -n storage addr add 10.77.0.2/24 dev veth1 &&
		ip -n storage link set veth1 up && ip -n storage link set lo up
}

network_down()
{
	ip link del veth0 2>/dev/null
	ip netns del storage 2>/dev/null
}

# lossy: 30 % of the packets are lost each way, and a round trip takes 200 ms
lossy()
{
	tc qdisc add dev veth0 root netem loss 30% delay 100ms &&
		in_storage tc qdisc add dev veth1 root netem loss 30% delay 100ms
}

not_lossy()
{
	tc qdisc del dev veth0 root
	in_storage tc qdisc del dev veth1 root
}

# ---- server ----

# server_start ARGUMENT... of nbdkit; its process is in $server_pid
server_start()
{
	local pid
	server_args=("$@")
	rm -f "$work/nbdkit.pid"
	# Not through a function: the process has to be nbdkit itself.
	TMPDIR=$work ip netns exec storage nbdkit -f -p 10809 -P "$work/nbdkit.pid" "$@" \
		>>"$work/nbdkit.log" 2>&1 &
	pid=$!
	# It writes the file when it listens.
	until_true 20 server_is_up_or_dead "$pid"
	if [ -s "$work/nbdkit.pid" ]; then
		server_pid=$pid
		return
	fi
	end_job "$pid" KILL
	cat "$work/nbdkit.log"
	return 1
}

server_is_up_or_dead() { [ -s "$work/nbdkit.pid" ] || gone "$1"; }

# nbdkit 1.32 may abort when a client is cut off with requests in flight. It is
# started again, as a service manager would do.
server_revive()
{
	local pid=$server_pid status
	server_pid=0
	wait "$pid"
	status=$?
	[ "$status" -eq 134 ] || {
		echo "the server has ended with status $status"
		return
	}
	server_aborts=$((server_aborts + 1))
	server_start "${server_args[@]}"
}

# server_is_well: a client that was cut off may have made it abort just now
server_is_well()
{
	sleep 0.3
	[ "$server_pid" -eq 0 ] || ! gone "$server_pid" || server_revive
}

server_kill()
{
	local pid=$server_pid
	server_pid=0
	end_job "$pid" KILL
}

# proxy_start KIND [HOLD]: clients are to use $port from now on
proxy_start()
{
	rm -f "$work/proxy.log"
	ip netns exec storage python3 "$here/nbd_proxy.py" 0.0.0.0:10810 10.77.0.2:10809 "$@" \
		>"$work/proxy.log" 2>&1 &
	proxy_pid=$!
	port=10810
	until_true 20 grep -qs '^ready' "$work/proxy.log" && return
	cat "$work/proxy.log"
	return 1
}

# How often the proxy has misbehaved.
misdeeds() { grep -c '^done:' "$work/proxy.log"; }

misdeed_done() { [ "$(misdeeds)" -ge "$1" ]; }

servers_end()
{
	end_job "$proxy_pid"
	server_kill
	# shellcheck disable=SC2034 # for the subjects
	proxy_pid=0 port=10809
}

# kernel_complaints: how many lines of the log are warnings or worse
kernel_complaints()
{
	dmesg | grep -cE 'BUG:|WARNING:|Oops|Call Trace:|general protection|blocked for more'
}
