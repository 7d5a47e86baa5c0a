#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Another process takes a disk over while it is used: its user sees a delay, no error,
# and every byte where it was written. When that fails, the old process goes on.

# shellcheck source-path=SCRIPTDIR source=load_fio.sh
. "$(dirname "$0")/load_fio.sh"

many=${UPGRADE_ROUNDS:-$([ "$arch" = amd64 ] && echo 10 || echo 3)}
few=${UPGRADE_ROUNDS:-3}

server() { nbd_server "$work/s" --threads 1 memory 64M; }

# serve_mine NAME URI OPTION...: as serve; the daemon's process ID is in $me
serve_mine()
{
	serve "$@" || return
	me=$pid
}

# upgraded NAME OPTION...: it works, and another process serves; its number is in $me
upgraded()
{
	local name=$1 before=$me
	shift
	"$daemon" upgrade "$name" --json "$@" >"$work/up" 2>"$work/up.err" || {
		cat "$work/up.err" "$work/$name.log"
		return 1
	}
	me=$(python3 -c '
import json, sys
d = json.load(open(sys.argv[1]))
assert d["ok"] and d["old_pid"] == int(sys.argv[2]) and d["new_pid"] != d["old_pid"], d
assert d["longest_stall_us"] == max(d["stall_us"]), d
print(d["new_pid"], file=sys.stdout)
print("stall", d["stall_us"], file=sys.stderr)' "$work/up" "$before") || return
	started_pids+=("$me")
	wait_for 10000 ended "$before" || {
		echo "process $before did not end"
		return 1
	}
}

children() { ps -o pid= --ppid "$1"; }

# refused_upgrade NAME TEXT OPTION...: it says so, and the same process goes on
refused_upgrade()
{
	local name=$1 text=$2
	shift 2
	"$daemon" upgrade "$name" "$@" >"$work/up" 2>"$work/up.err" && return 1
	grep -q "$text.*process $me goes on" "$work/up.err" || {
		echo "wanted: $text"
		cat "$work/up.err" "$work/$name.log"
		return 1
	}
	[ "$(field "$name" pid)" = "$me" ] && [ "$(field "$name" upgrade)" = none ] || return
	# No child is left.
	[ -z "$(children "$me")" ] || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
}

# ended_well NAME
ended_well()
{
	"$daemon" stop "$1" || return
	# The lock goes first, the folder a moment later.
	wait_for 10000 test ! -e "/run/vduse-blk/$1"
}

descriptors() { find "/proc/$1/fd" -type l | wc -l; }

upgrades_under_load() # ROUNDS QUEUES OPTION...
{
	local rounds=$1 queues=$2 i fds kb
	shift 2
	dmesg -C
	server || return
	serve_mine u-load "nbd+unix:///?socket=$work/s" --queues "$queues" "$@" || return
	start_fio "$queues"
	wait_for 30000 moves_on || return
	upgraded u-load || return
	wait_for 30000 moves_on || return
	fds=$(descriptors "$me") kb=$(memory_kb "$me")
	for ((i = 1; i < rounds; i++)); do
		upgraded u-load || return
		wait_for 30000 moves_on || return
	done
	[ "$(field u-load upgrades)" = "$rounds" ] || return
	echo "descriptors: $fds, $(descriptors "$me"); kB: $kb, $(memory_kb "$me")"
	[ "$(descriptors "$me")" -le "$fds" ] || return
	[ "$(memory_kb "$me")" -le $((kb + 1024)) ] || return
	end_fio || return
	fio_verify "$disk" --size=6m --numjobs=2 --offset_increment=8m --group_reporting || return
	ended_well u-load || return
	no_kernel_complaint
}

# program NAME COMMAND: prints the path of a shell script that carries it out
program()
{
	printf '#!/bin/sh\n%s\n' "$2" >"$work/$1"
	chmod +x "$work/$1"
	echo "$work/$1"
}

# successor MODE: prints the path of a program that behaves like that
successor() { program successor "exec python3 $here/fake_successor.py $1"; }

# Under load: each time the old one goes on, and nobody notices.
failed_starts()
{
	local fds
	dmesg -C
	server || return
	serve_mine u-fail "nbd+unix:///?socket=$work/s" --queues 2 || return
	start_fio 2
	wait_for 30000 moves_on || return
	refused_upgrade u-fail 'start /nowhere/vduse-blk: No such file' \
		--binary /nowhere/vduse-blk || return
	fds=$(descriptors "$me")
	! "$daemon" upgrade u-fail --binary vduse-blk 2>"$work/up.err" || return
	grep 'absolute path' "$work/up.err" || return
	refused_upgrade u-fail 'Permission denied' --binary /etc/passwd || return
	refused_upgrade u-fail 'ended with exit status 1' --binary /bin/false || return
	refused_upgrade u-fail 'did not understand its command line' \
		--binary "$(exits 2)" || return
	refused_upgrade u-fail 'killed by signal 9' --binary "$(dies_by KILL)" || return
	refused_upgrade u-fail 'ended with exit status 7' --binary "$(successor leaves)" || return
	refused_upgrade u-fail 'a message of 5 bytes' --binary "$(successor garbage)" || return
	refused_upgrade u-fail 'said DONE out of turn' --binary "$(successor early)" || return
	refused_upgrade u-fail 'it is not to my liking' --binary "$(successor refuses)" || return
	refused_upgrade u-fail 'hands over by version 2' --binary "$(successor newer)" || return
	refused_upgrade u-fail 'closed its connection and did not end' \
		--binary "$(successor closes)" || return
	wait_for 30000 moves_on || return
	echo "descriptors: $fds before, $(descriptors "$me") after"
	[ "$(descriptors "$me")" = "$fds" ] || return
	# And then it works.
	upgraded u-fail || return
	wait_for 30000 moves_on || return
	end_fio || return
	ended_well u-fail || return
	no_kernel_complaint
}

exits() { program exits "exit $1"; }

dies_by() { program dies "kill -$1 \$\$"; }

# It never gets ready. A second upgrade, and "set", have to wait meanwhile.
sleeper()
{
	local up
	serve_mine u-sleep null:64M || return
	printf '#!/bin/sh\nexec sleep 1000\n' >"$work/sleeper"
	chmod +x "$work/sleeper"
	"$daemon" upgrade u-sleep --binary "$work/sleeper" >"$work/first" 2>&1 &
	up=$!
	started_pids+=("$up")
	wait_for 10000 phase_is u-sleep starting || return
	! "$daemon" upgrade u-sleep 2>"$work/second" || return
	grep 'an upgrade is under way' "$work/second" || return
	! "$daemon" set u-sleep stop-timeout=1 2>"$work/second" || return
	grep 'an upgrade is under way' "$work/second" || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	! wait "$up" || return
	grep "was not ready within 30 s; process $me goes on" "$work/first" || return
	upgraded u-sleep || return
	ended_well u-sleep
}

phase_is() { [ "$(field "$1" upgrade)" = "$2" ]; }

# An end comes first: the successor is given up, the answer says so.
ended_meanwhile() # TEXT COMMAND...
{
	local expected=$1 up
	shift
	serve_mine u-end null:64M || return
	printf '#!/bin/sh\nexec sleep 1000\n' >"$work/sleeper"
	chmod +x "$work/sleeper"
	"$daemon" upgrade u-end --binary "$work/sleeper" >"$work/first" 2>&1 &
	up=$!
	started_pids+=("$up")
	wait_for 10000 phase_is u-end starting || return
	"$@" || return
	! wait "$up" || return
	grep "$expected" "$work/first"
}

signal_and_wait()
{
	kill -TERM "$me" || return
	wait "$me" || return
	[ ! -e /run/vduse-blk/u-end ]
}

stop_and_wait() { ended_well u-end; }

remove_and_stop()
{
	vdpa dev del u-end || return
	ended_well u-end
}

ends()
{
	ended_meanwhile 'the daemon is to end' signal_and_wait || return
	ended_meanwhile 'the daemon is to end' stop_and_wait || return
	ended_meanwhile 'somebody removes the device\|the daemon is to end' remove_and_stop
}

# traced STRACE-OPTION...: prints the path of a program that is the daemon, tampered with
traced() { program traced "exec strace -D -qq -o /dev/null $* $daemon \"\$@\""; }

# Given the device, it dies or fails: the old process goes on by recovery.
dies_with_device() # BINARY MESSAGE
{
	dmesg -C
	server || return
	serve_mine u-dies "nbd+unix:///?socket=$work/s" --queues 2 --fence-timeout 200ms || return
	start_fio 2
	wait_for 30000 moves_on || return
	! "$daemon" upgrade u-dies --binary "$1" 2>"$work/up.err" || return
	cat "$work/up.err"
	grep -q "$2.*process $me recovers the device" "$work/up.err" || return
	wait_for 30000 moves_on || {
		cat "$work/u-dies.log"
		return 1
	}
	wait_for 10000 answers u-dies || return
	[ "$(field u-dies pid)" = "$me" ] || return
	grep "going on as process $me" "$work/u-dies.log" || return
	# It is as good as before.
	upgraded u-dies || return
	wait_for 30000 moves_on || return
	end_fio || return
	ended_well u-dies || return
	no_kernel_complaint
}

# Sets $next to the process that is to take over from $me.
has_successor()
{
	read -r next < <(children "$me") && [ "$next" ]
}

# The successor has written its number, and has been held there: after GO, before it serves.
holds_lock() { [ "$(cat "/run/vduse-blk/$1/lock")" = "$2" ]; }

# begin_held_upgrade NAME: one that stands still after GO, for a while; sets $next
begin_held_upgrade()
{
	start "$work/up" "$daemon" upgrade "$1" \
		--binary "$(traced -e trace=ftruncate -e inject=ftruncate:delay_enter=8000000)"
	upgrade=$pid
	wait_for 30000 has_successor || return
	started_pids+=("$next")
	wait_for 30000 holds_lock "$1" "$next"
}

# The old process is killed when it has let go of the device.
killed_after_go()
{
	dmesg -C
	server || return
	serve_mine u-go "nbd+unix:///?socket=$work/s" --queues 2 || return
	start_fio 2
	wait_for 30000 moves_on || return
	begin_held_upgrade u-go || return
	end_pid "$me" KILL
	wait "$upgrade"
	me=$next
	wait_for 20000 answers u-go || {
		cat "$work/u-go.log"
		return 1
	}
	[ "$(field u-go pid)" = "$me" ] || return
	wait_for 30000 moves_on || return
	end_fio || return
	ended_well u-go || return
	no_kernel_complaint
}

# Both are told to end while the device changes hands: it is detached, nothing is given up.
both_told()
{
	server || return
	serve_mine u-both "nbd+unix:///?socket=$work/s" || return
	begin_held_upgrade u-both || return
	kill -TERM "$me" "$next" || return
	wait_for 20000 ended "$me" || return
	wait_for 20000 ended "$next" || return
	cat "$work/u-both.log"
	grep -q 'detaching' "$work/u-both.log" || return
	! grep 'giving up' "$work/u-both.log" || return
	[ ! -e /dev/vduse/u-both ] && [ ! -e /run/vduse-blk/u-both ]
}

# Told to end before the device is its own, the successor does, and nothing else happens.
successor_told()
{
	nbd_server "$work/s" --filter=delay memory 64M wdelay=10 || return
	serve_mine u-told "nbd+unix:///?socket=$work/s" --queues 2 || return
	start "$work/writes" dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct
	local writer=$pid
	wait_for 10000 waiting "$disk" 1 || return
	start "$work/up" "$daemon" upgrade u-told --max-stall 60s
	upgrade=$pid
	wait_for 30000 pausing u-told || return
	has_successor && kill -TERM "$next" || return
	! wait "$upgrade" || return
	cat "$work/up"
	grep "it was told to end; process $me goes on" "$work/up" || return
	wait "$writer" || return
	upgraded u-told || return
	ended_well u-told
}

pausing() { [ "$(field "$1" upgrade)" = pausing ]; }

# Storage whose first flush fails, and says so once: the driver hears of it, once, whoever
# serves it then. $1: upgrade or keep
owed_flush_error()
{
	rm -f "$work/flushed"
	nbd_server "$work/s" eval get_size='echo 64M' pread="head -c \$3 /dev/zero" \
		pwrite='cat >/dev/null' can_write='exit 0' can_flush='exit 0' \
		flush="[ -e $work/flushed ] || { touch $work/flushed; echo EIO >&2; exit 1; }" ||
		return
	serve_mine u-owed "nbd+unix:///?socket=$work/s" --handshake-timeout 60 || return
	dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct status=none || return
	if [ "$1" = upgrade ]; then
		refused_upgrade u-owed 'did not flush' || return
		grep 'a flush failed' "$work/u-owed.log" || return
		upgraded u-owed || return
	else
		"$daemon" stop u-owed --keep || return
		wait_for 10000 ended "$me" || return
		grep 'a flush failed' "$work/u-owed.log" || return
		serve_mine u-owed "nbd+unix:///?socket=$work/s" --handshake-timeout 60 || return
	fi
	python3 - "$disk" <<-'END' || return
		import errno, os, sys
		fd = os.open(sys.argv[1], os.O_RDWR)
		try:
		    os.fsync(fd)
		    sys.exit('the error was lost')
		except OSError as e:
		    assert e.errno == errno.EIO, e
		os.fsync(fd)
	END
	ended_well u-owed
}

answers() { "$daemon" status "$1" >/dev/null 2>&1; }

# What the configuration file says counts, where it fits; what "set" said, in any case.
configuration()
{
	printf 'queues = 2\nio-timeout = 60\nrequest-timeout = 20\n' >"$work/conf"
	serve_mine u-conf null:64M --config "$work/conf" || return
	"$daemon" set u-conf request-timeout=7 || return
	printf 'queues = 4\n' >"$work/conf"
	refused_upgrade u-conf 'the device has 2 queues, --queues says 4' || return
	printf 'nonsense\n' >"$work/conf"
	refused_upgrade u-conf 'did not understand its command line' || return
	printf 'queues = 2\nuser = nobody\n' >"$work/conf"
	refused_upgrade u-conf 'cannot become "nobody" in an upgrade' || return
	printf 'queues = 2\ncontrol-group = nogroup\n' >"$work/conf"
	refused_upgrade u-conf 'control-group: cannot be changed' || return
	printf 'queues = 2\nio-timeout = 90\nrequest-timeout = 21\n' >"$work/conf"
	upgraded u-conf || return
	"$daemon" status u-conf | tee "$work/status"
	grep -q '^io-timeout *90s' "$work/status" || return
	grep -q '^request-timeout *7s' "$work/status" || return
	grep -q '^upgrades *1$' "$work/status" || return
	# A path that was replaced on disk: what is there now is executed.
	cp "$daemon" "$work/new"
	upgraded u-conf --binary "$work/new" || return
	mv "$work/new" "$work/newer" && cp "$daemon" "$work/new" && rm "$work/newer" || return
	upgraded u-conf || return
	[ "$(readlink "/proc/$me/exe")" = "$work/new" ] || return
	ended_well u-conf
}

# With storage that hangs, an upgrade is refused.
hanging_server()
{
	server || return
	serve_mine u-hang "nbd+unix:///?socket=$work/s" --request-timeout off \
		--handshake-timeout 2 || return
	start_fio 1
	wait_for 30000 moves_on || return
	kill -STOP "$server"
	wait_for 10000 waiting "$disk" 1 || return
	! "$daemon" upgrade u-hang --max-stall 200ms >"$work/up" 2>&1 || return
	kill -CONT "$server"
	cat "$work/up"
	grep "process $me goes on" "$work/up" || return
	wait_for 30000 moves_on || return
	upgraded u-hang || return
	wait_for 30000 moves_on || return
	end_fio || return
	ended_well u-hang
}

# A server so slow that what is in flight outlasts --max-stall: the queues go on, all
# of them, and the requests end when they end.
slow_server()
{
	nbd_server "$work/s" --filter=delay memory 64M rdelay=1 || return
	serve_mine u-slow "nbd+unix:///?socket=$work/s" --queues 2 || return
	start "$work/reads" dd if="$disk" of="$work/read" bs=4k count=8 iflag=direct
	local reader=$pid
	wait_for 10000 waiting "$disk" 1 || return
	! "$daemon" upgrade u-slow --max-stall 100ms >"$work/up" 2>&1 || return
	cat "$work/up"
	grep "requests in flight did not end within 100 ms; process $me goes on" "$work/up" ||
		return
	wait "$reader" || return
	cmp -n 32768 "$work/read" /dev/zero || return
	upgraded u-slow || return
	ended_well u-slow
}

# A file, which only one process may open: its descriptor is handed over.
file_system()
{
	local mnt=$work/mnt i
	rm -f "$work/image"
	truncate -s 128M "$work/image"
	serve_mine u-fs "file://$work/image" || return
	mkfs.ext4 -q "$disk" || return
	mkdir -p "$mnt"
	mount "$disk" "$mnt" || return
	for i in 1 2 3; do
		start "$work/dd" dd if=/dev/urandom of="$mnt/file$i" bs=64k count=64 conv=fsync
		local writer=$pid
		sleep 0.1
		upgraded u-fs || return
		wait "$writer" || return
		cksum <"$mnt/file$i" >"$work/sum$i"
	done
	# The lock went along.
	! "$daemon" serve --name u-other --uri "file://$work/image" 2>"$work/err" || return
	grep 'another process uses it' "$work/err" || return
	umount "$mnt" || return
	ended_well u-fs || return
	serve_mine u-fs "file://$work/image" || return
	fsck.ext4 -nf "$disk" || return
	mount "$disk" "$mnt" || return
	for i in 1 2 3; do
		cksum <"$mnt/file$i" | cmp - "$work/sum$i" || {
			umount "$mnt"
			return 1
		}
	done
	umount "$mnt"
	ended_well u-fs
}

# An account without rights, which still can detach the device in the end. Only root
# may upgrade it, and a successor that dies leaves it what it needs.
account()
{
	chmod 711 "$work"
	serve_mine u-user null:64M --user nobody || return
	upgraded u-user || return
	upgraded u-user || return
	[ "$(stat -c %U "/proc/$me")" = nobody ] || return
	caps "$me" CapPrm 0000000000001000 && caps "$me" CapEff 0000000000000000 || return
	caps "$me" CapInh 0000000000000000 && caps "$me" CapAmb 0000000000000000 || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	! setpriv --reuid nobody --regid nogroup --clear-groups "$daemon" upgrade u-user \
		2>"$work/err" || return
	grep 'only root may upgrade' "$work/err" || return
	! "$daemon" upgrade u-user --binary "$(successor dies)" 2>"$work/err" || return
	grep "process $me recovers the device" "$work/err" || return
	wait_for 10000 answers u-user || return
	[ "$(field u-user pid)" = "$me" ] || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	caps "$me" CapPrm 0000000000001000 || return
	# The folder is left behind, locked by nobody, as ever with --user.
	"$daemon" stop u-user || return
	[ ! -e /sys/class/vduse/u-user ]
}

caps()
{
	grep "^$2:[[:space:]]*$3\$" "/proc/$1/status" && return
	grep ^Cap "/proc/$1/status"
	return 1
}

# Nobody has bound it yet, and a driver comes afterwards.
unattached()
{
	start "$work/u-none.log" "$daemon" serve --name u-none --uri null:64M --bind none
	me=$pid
	used_devices+=(u-none)
	wait_for 10000 answers u-none || return
	upgraded u-none || return
	add u-none || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	upgraded u-none || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	vdpa dev del u-none || return
	upgraded u-none || return
	ended_well u-none
}

vhost_user()
{
	start "$work/u-vu.log" "$daemon" serve --name u-vu --uri null:64M \
		--transport vhost-user --socket "$work/vu"
	me=$pid
	wait_for 10000 answers u-vu || return
	! "$daemon" upgrade u-vu 2>"$work/err" || return
	grep 'a vhost-user device cannot be handed over' "$work/err" || return
	ended_well u-vu
}

# systemd follows the main process only if it is told of the new one.
service_manager()
{
	start "$work/told" python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True:
    print(s.recv(4096).decode(), flush=True)' "$work/notify"
	wait_for 10000 test -S "$work/notify" || return
	local -x NOTIFY_SOCKET=$work/notify
	serve_mine u-sd null:64M || return
	wait_for 10000 grep -qx READY=1 "$work/told" || return
	! grep MAINPID "$work/told" || return
	refused_upgrade u-sd 'No such file' --binary /nowhere/vduse-blk || return
	! grep MAINPID "$work/told" || return
	upgraded u-sd || return
	wait_for 10000 grep -qx "MAINPID=$me" "$work/told" || return
	! grep STOPPING "$work/told" || return
	ended_well u-sd || return
	wait_for 10000 grep -qx STOPPING=1 "$work/told"
}

plan 23
check "upgrades under fio, 1 queue, split" upgrades_under_load "$few" 1
if [ "$arch" = amd64 ]; then
	check "upgrades under fio, 1 queue, packed" upgrades_under_load "$few" 1 --packed on
	check "upgrades under fio, 4 queues, split" upgrades_under_load "$few" 4
else
	skip "upgrades under fio, 1 queue, packed" "takes too long on $arch"
	skip "upgrades under fio, 4 queues, split" "takes too long on $arch"
fi
check "upgrades under fio, 4 queues, packed" upgrades_under_load "$many" 4 --packed on
check "successors that fail to start" failed_starts
check "a successor that is never ready" sleeper
check "an end during an upgrade" ends
check "a successor that dies with the device" dies_with_device "$(successor dies)" ''
check "a daemon that dies with the device" dies_with_device \
	"$(traced -e trace=sendmsg -e inject=sendmsg:signal=KILL:when=2)" 'killed by signal 9'
check "a take-over that fails" dies_with_device \
	"$(traced -e trace=ftruncate -e inject=ftruncate:error=EIO)" 'write the lock file'
check "the old process is killed after GO" killed_after_go
check "a successor that is told to end" successor_told
check "both are told to end" both_told
check "a flush error is owed, after an upgrade" owed_flush_error upgrade
check "a flush error is owed, after stop --keep" owed_flush_error keep
check "a changed configuration, a replaced program" configuration
check "a server that hangs" hanging_server
check "requests that outlast --max-stall" slow_server
check "a file system on a file" file_system
check "--user" account
check "a device without a driver" unattached
check "vhost-user is refused" vhost_user
check "systemd hears of the new process" service_manager
finish
