#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The daemon's life: what it shows, its options, ending and starting again.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

list_and_status()
{
	serve c-one "null:64M" --queues 2 || return
	local one=$disk
	serve c-two "null:128M" --read-only --serial two || return
	"$daemon" list | tee "$work/list"
	grep -q '^c-one .*64M\|^c-one ' "$work/list" && grep -q '^c-two ' "$work/list" || return
	"$daemon" list --json | python3 -c '
import json, sys
l = {d["name"]: d for d in json.load(sys.stdin)}
assert set(l) == {"c-one", "c-two"}, l
assert l["c-one"]["size"] == 64 << 20 and l["c-one"]["path"] == sys.argv[1], l
assert l["c-one"]["queues"] == 2 and not l["c-one"]["read_only"], l
assert l["c-two"]["read_only"] and l["c-two"]["serial"] == "two", l
assert all(d["state"] == "serving" and d["driver_ready"] for d in l.values()), l
' "$one" || return
	dd if="$one" of=/dev/null bs=4k count=10 iflag=direct status=none || return
	"$daemon" status c-one | tee "$work/status"
	grep -q "^path *$one" "$work/status" || return
	"$daemon" status c-one --json | python3 -c '
import json, sys
s = json.load(sys.stdin)
assert len(s["virtqueues"]) == 2, s
assert sum(q["reads"] for q in s["virtqueues"]) >= 10, s
assert all(q["in_flight"] == 0 and not q["broken"] for q in s["virtqueues"]), s
'
}

status_of_nobody()
{
	! "$daemon" status nobody 2>"$work/err" || return
	cat "$work/err"
	[ "$(wc -l <"$work/err")" = 1 ] && grep -q nobody "$work/err" || return
	[ "$("$daemon" list --json | tr -d ' \n')" = "[]" ]
}

read_only()
{
	nbd_server "$work/s" -r memory 64M || return
	serve c-ro "nbd+unix:///?socket=$work/s" --read-only || return
	[ "$(blockdev --getro "$disk")" = 1 ] || return
	! dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct status=none || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	stop "$pid"
}

# A writable export can be served read-only, too.
read_only_of_writable()
{
	rm -f "$work/nbd.log"
	nbd_server "$work/s" --filter=log memory 64M "logfile=$work/nbd.log" || return
	serve c-ro2 "nbd+unix:///?socket=$work/s" --read-only || return
	[ "$(blockdev --getro "$disk")" = 1 ] || return
	blockdev --setrw "$disk"
	dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct status=none
	! grep -q 'Write ' "$work/nbd.log"
}

serial()
{
	serve c-serial "null:64M" --serial ABC-12345_67890.abcd || return
	[ "$(cat "/sys/block/${disk##*/}/serial")" = ABC-12345_67890.abcd ] || return
	stop "$pid"
}

topology() # BLOCK-SIZE
{
	local queue
	nbd_server "$work/s" --filter=blocksize-policy memory 64M blocksize-minimum=512 \
		blocksize-preferred=16384 blocksize-maximum=1M || return
	serve c-topology "nbd+unix:///?socket=$work/s" --block-size "$1" --queues 3 \
		--queue-size 128 || return
	queue=/sys/block/${disk##*/}/queue
	grep . "$queue"/{logical_block_size,physical_block_size,minimum_io_size,optimal_io_size,nr_requests}
	[ "$(cat "$queue/logical_block_size")" = "$1" ] || return
	[ "$(cat "$queue/physical_block_size")" -le 16384 ] || return
	[ "$(cat "$queue/minimum_io_size")" -ge "$1" ] || return
	[ "$(blockdev --getsize64 "$disk")" = $((64 << 20)) ] || return
	grep -q 'max_vqs 3 max_vq_size 128' <(vdpa dev show c-topology) || return
	stop "$pid"
}

config_file()
{
	cat >"$work/config" <<-END
		# all but the name
		uri = null:32M
		queues = 3
		packed = on
		serial = from-file
	END
	used_devices+=(c-config)
	start "$work/c-config.out" "$daemon" serve --config "$work/config" --name c-config \
		--serial from-command-line
	wait_for 20000 grep -q ^/dev/vd "$work/c-config.out" || {
		cat "$work/c-config.out"
		return 1
	}
	[ "$(field c-config queues)" = 3 ] || return
	[ "$(field c-config packed)" = True ] || return
	# The command line wins.
	[ "$(field c-config serial)" = from-command-line ] || return
	stop "$pid"
}

second_daemon_is_refused()
{
	local first
	serve c-twice "null:64M" || return
	first=$pid
	! timeout 20 "$daemon" serve --name c-twice --uri null:64M 2>"$work/err" || return
	cat "$work/err"
	[ "$(wc -l <"$work/err")" = 1 ] && grep -q "c-twice" "$work/err" || return
	# The first one did not notice.
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	stop "$first"
}

# SIGTERM while fio runs: the disk goes away in order, and the daemon ends with status 0.
# (That what was acknowledged is at the server: "a clean end flushes", and the matrix.)
sigterm_under_io()
{
	local fio
	nbd_server "$work/s" memory 64M || return
	serve c-term "nbd+unix:///?socket=$work/s" --queues 2 "$@" || return
	local me=$pid
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randrw --bs=4k --iodepth=16 --numjobs=2 --size=8m --time_based --runtime=60
	fio=$pid
	wait_for 20000 busy "$disk" || return
	stop "$me" || return
	[ ! -e /dev/vduse/c-term ] && [ ! -e /sys/bus/vdpa/devices/c-term ] || return
	wait_for 15000 ended "$fio"
}

sigterm_at_once()
{
	local i p
	for i in 1 2 3 4 5; do
		used_devices+=(c-soon)
		start "$work/c-soon.log" "$daemon" serve --name c-soon --uri null:64M
		p=$pid
		sleep "0.$((i * 5))"
		kill -TERM "$p"
		wait_for 20000 ended "$p" || return
		[ ! -e /dev/vduse/c-soon ] || return
	done
}

restart()
{
	local i
	truncate -s 64M "$work/image"
	for i in 1 2 3; do
		serve c-again "file://$work/image" || return
		printf 'round %s' "$i" | dd of="$disk" bs=4k seek="$i" conv=sync oflag=direct status=none || return
		stop "$pid" || return
	done
	for i in 1 2 3; do
		dd if="$work/image" bs=4k skip="$i" count=1 status=none | grep -aq "^round $i" || return
	done
}

# Killed, then started again under the same name.
restart_after_kill()
{
	truncate -s 64M "$work/image"
	serve c-killed "file://$work/image" || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	end_pid "$pid" KILL
	vdpa dev del c-killed || return
	serve c-killed "file://$work/image" || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	stop "$pid"
}

bind_vhost()
{
	used_devices+=(c-vhost)
	start "$work/c-vhost.out" "$daemon" serve --name c-vhost --uri null:64M --bind vhost
	wait_for 20000 grep -q ^/dev/vhost-vdpa- "$work/c-vhost.out" || {
		cat "$work/c-vhost.out"
		return 1
	}
	[ -c "$(grep -m1 ^/dev/ "$work/c-vhost.out")" ] || return
	stop "$pid"
}

bind_none()
{
	used_devices+=(c-none)
	start "$work/c-none.out" "$daemon" serve --name c-none --uri null:64M --bind none
	local me=$pid
	wait_for 20000 grep -q ready "$work/c-none.out" || return
	[ ! -e /sys/bus/vdpa/devices/c-none ] || return
	add c-none || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	vdpa dev del c-none || return
	stop "$me"
}

# It gives up root and all but CAP_NET_ADMIN, and can still detach.
user()
{
	local caps
	serve c-user "null:64M" --user nobody || return
	[ "$(stat -c %U "/proc/$pid")" = nobody ] || return
	caps=$(awk '/^CapEff/ { print $2 }' "/proc/$pid/status")
	echo "capabilities: $caps"
	[ $((16#$caps & ~(1 << 12))) = 0 ] || return
	dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none || return
	stop "$pid" || return
	[ ! -e /sys/bus/vdpa/devices/c-user ]
}

runtime_folder_is_private()
{
	serve c-run "null:64M" || return
	[ "$(stat -c %a /run/vduse-blk/c-run)" = 700 ] || return
	stop "$pid" || return
	[ -z "$(ls -A /run/vduse-blk/c-run 2>/dev/null)" ]
}

sd_notify()
{
	python3 - "$daemon" "$work/notify" <<-'END' || return
		import os, signal, socket, subprocess, sys
		s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
		s.bind(sys.argv[2])
		s.settimeout(20)
		p = subprocess.Popen([sys.argv[1], 'serve', '--name', 'c-sd', '--uri', 'null:64M'],
		                     env=dict(os.environ, NOTIFY_SOCKET=sys.argv[2]), stdout=subprocess.PIPE)
		path = p.stdout.readline()
		got = s.recv(4096)
		assert b'READY=1' in got.split(b'\n'), got
		assert path.startswith(b'/dev/vd'), path
		p.send_signal(signal.SIGTERM)
		got = s.recv(4096)
		assert b'STOPPING=1' in got.split(b'\n'), got
		assert p.wait(20) == 0
	END
}

# Requests, bytes and latencies of what was just done; errors by kind.
stats()
{
	nbd_server "$work/s" memory 64M || return
	serve c-stats "nbd+unix:///?socket=$work/s" --queues 2 || return
	dd if=/dev/zero of="$disk" bs=64k count=8 oflag=direct conv=fsync status=none || return
	dd if="$disk" of=/dev/null bs=64k count=8 iflag=direct status=none || return
	"$daemon" stats c-stats | tee "$work/stats"
	grep -q '^all  *write ' "$work/stats" && grep -q '^CONN ' "$work/stats" || return
	"$daemon" stats c-stats --json | python3 -c '
import json, sys
s = json.load(sys.stdin)
r = s["requests"]
assert r["write"]["bytes"] == 8 << 16 and r["write"]["requests"] >= 8, r
assert r["read"]["bytes"] >= 8 << 16 and r["flush"]["requests"] >= 1, r
assert all(k["errors"] == 0 for k in r.values()), r
l = r["read"]["latency_ns"]
assert 0 < l["p50"] <= l["p90"] <= l["p99"] <= l["p99.9"] <= l["max"], l
assert len(s["queues"]) == 2 and all(q["in_flight"] == 0 for q in s["queues"]), s
c = s["connections"]
assert len(c) == 2 and sum(x["bytes_sent"] for x in c) >= 8 << 16, c
assert s["memory"] > 0 and s["state"] == "serving", s
' || return
	"$daemon" stats c-stats | head -n 1
	stop "$pid"
}

option() { field "$1" options | python3 -c 'import ast,sys; print(ast.literal_eval(sys.stdin.read())[sys.argv[1]])' "$2"; }

set_options()
{
	serve c-set "null:64M" || return
	"$daemon" set c-set io-timeout=1.5 on-exit=keep || return
	[ "$(option c-set io-timeout)" = 1500ms ] && [ "$(option c-set on-exit)" = keep ] || return
	# One that is wrong: none is changed.
	! "$daemon" set c-set io-timeout=5 on-exit=maybe 2>"$work/err" || return
	cat "$work/err"
	grep -q maybe "$work/err" && [ "$(wc -l <"$work/err")" = 1 ] || return
	[ "$(option c-set io-timeout)" = 1500ms ] || return
	"$daemon" set c-set on-exit=detach && stop "$pid"
}

# The file behind the server grows; the driver hears of it, and can use what is new.
resize()
{
	truncate -s 64M "$work/image"
	nbd_server "$work/s" file "$work/image" || return
	serve c-resize "nbd+unix:///?socket=$work/s" "$@" || return
	local me=$pid
	[ "$(blockdev --getsize64 "$disk")" = $((64 << 20)) ] || return
	truncate -s 96M "$work/image"
	[ "$("$daemon" resize c-resize)" = $((96 << 20)) ] || return
	wait_for 5000 size_is "$disk" $((96 << 20)) || return
	printf 'at the end' | dd of="$disk" bs=4k seek=$(((96 << 20) / 4096 - 1)) conv=sync \
		oflag=direct status=none || return
	tail -c 4096 "$work/image" | grep -aq '^at the end' || return
	# Not asked: it finds out when it reconnects.
	truncate -s 128M "$work/image"
	end_pid "$server" KILL
	nbd_server "$work/s" file "$work/image" || return
	dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	wait_for 10000 size_is "$disk" $((128 << 20)) || return
	stop "$me"
}

size_is() { [ "$(blockdev --getsize64 "$1")" = "$2" ]; }

shrink()
{
	truncate -s 64M "$work/image"
	nbd_server "$work/s" file "$work/image" || return
	serve c-shrink "nbd+unix:///?socket=$work/s" --on-shrink read-only || return
	local me=$pid
	end_pid "$server" KILL
	truncate -s 32M "$work/image"
	nbd_server "$work/s" file "$work/image" || return
	dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	wait_for 10000 storage_is c-shrink shrunk || return
	grep shrunk "$work/c-shrink.log" || return
	[ "$(blockdev --getsize64 "$disk")" = $((64 << 20)) ] || return
	! dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct status=none || return
	"$daemon" set c-shrink on-shrink=error || return
	dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct status=none || return
	! dd if="$disk" of=/dev/null bs=4k count=1 skip=$((48 << 8)) iflag=direct status=none || return
	stop "$me"
}

storage_is() { [ "$(field "$1" storage)" = "$2" ]; }

in_flight() # NAME N: at least so many
{
	"$daemon" stats "$1" --json | python3 -c '
import json, sys
sys.exit(sum(q["in_flight"] for q in json.load(sys.stdin)["queues"]) < int(sys.argv[1]))' "$2"
}

# hang NAME OPTION...: a disk whose server has stopped, with a reader ($reader) waiting
hang()
{
	local name=$1
	shift
	nbd_server "$work/s" memory 64M || return
	serve "$name" "nbd+unix:///?socket=$work/s" "$@" || return
	daemon_pid=$pid
	kill -STOP "$server"
	start "$work/reader" dd if="$disk" of=/dev/null bs=4k count=1 skip=77 iflag=direct status=none
	reader=$pid
	wait_for 10000 in_flight "$name" 1
}

ended_with() # PID STATUS
{
	local status
	wait "$1"
	status=$?
	[ "$status" = "$2" ] || echo "process $1 ended with $status, not $2"
	[ "$status" = "$2" ]
}

fail_now()
{
	hang c-fail || return
	"$daemon" fail c-fail || return
	wait_for 5000 ended "$reader" || return
	kill -CONT "$server"
	wait_for 20000 dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	stop "$daemon_pid"
}

# Whatever the server does, "stop" returns soon, and the request fails.
stop_hung()
{
	local start
	hang c-hung || return
	start=$(date +%s%N)
	"$daemon" stop c-hung || return
	echo "stopped in $((($(date +%s%N) - start) / 1000000)) ms"
	ended_with "$daemon_pid" 1 || return
	wait_for 5000 ended "$reader" || return
	kill -CONT "$server"
	[ ! -e /dev/vduse/c-hung ] && [ ! -e /sys/bus/vdpa/devices/c-hung ]
}

# Somebody else removes the device: the daemon is told, long before msg_timeout.
removed_hung()
{
	local start ms
	hang c-del || return
	[ "$(cat /sys/class/vduse/c-del/msg_timeout)" = 30 ] || return
	start=$(date +%s%N)
	vdpa dev del c-del || return
	ms=$((($(date +%s%N) - start) / 1000000))
	echo "removed in $ms ms"
	[ "$ms" -lt 20000 ] || return
	wait_for 5000 ended "$reader" || return
	grep 'somebody removes' "$work/c-del.log" || return
	! grep -q 'cut off' <(dmesg | tail -n 20) || return
	# And serves the next driver.
	kill -CONT "$server"
	add c-del || return
	wait_for 20000 dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	stop "$daemon_pid"
}

# The device stays without its daemon, and goes on with the next.
keep()
{
	local first fio
	nbd_server "$work/s" --filter=delay memory 64M wdelay=100ms || return
	serve c-keep "nbd+unix:///?socket=$work/s" "$@" || return
	first=$pid
	start "$work/fio-bg" fio --name=bg --filename="$disk" --direct=1 --ioengine=libaio \
		--rw=randwrite --bs=4k --iodepth=16 --size=8m --verify=crc32c --do_verify=1
	fio=$pid
	wait_for 20000 in_flight c-keep 1 || return
	"$daemon" stop c-keep --keep || return
	ended_with "$first" 0 || return
	[ -b "$disk" ] && [ -e /sys/bus/vdpa/devices/c-keep ] || return
	serve c-keep "nbd+unix:///?socket=$work/s" "$@" || return
	ended_with "$fio" 0 || {
		tail -n 20 "$work/fio-bg"
		return 1
	}
	stop "$pid"
}

# Its members may ask and change, and open nothing else; others may not.
control_group()
{
	local as=(setpriv --reuid=65534 --clear-groups)
	serve c-group "null:64M" --control-group daemon || return
	[ "$(stat -c '%a %G' /run/vduse-blk/c-group)" = "710 daemon" ] || return
	[ "$(stat -c '%a %G' /run/vduse-blk/c-group/control)" = "660 daemon" ] || return
	"${as[@]}" --regid=daemon "$daemon" set c-group io-timeout=7 || return
	grep 'set io-timeout=7, asked by user 65534' "$work/c-group.log" || return
	! "${as[@]}" --regid=daemon cat /run/vduse-blk/c-group/lock || return
	! "${as[@]}" --regid=65534 "$daemon" status c-group || return
	"${as[@]}" --regid=daemon "$daemon" stop c-group || return
	ended_with "$pid" 0
}

plan 32
check "list and status" list_and_status
check "status of nobody" status_of_nobody
check "read-only export" read_only
check "read-only on request" read_only_of_writable
check "serial number" serial
check "topology, 512-byte blocks" topology 512
check "topology, 4096-byte blocks" topology 4096
check "configuration file" config_file
check "a second daemon of the same name is refused" second_daemon_is_refused
check "SIGTERM under I/O, split" sigterm_under_io
check "SIGTERM under I/O, packed" sigterm_under_io --packed on
check "SIGTERM while it starts" sigterm_at_once
check "restart keeps the data" restart
check "restart after kill -9" restart_after_kill
check "--bind vhost" bind_vhost
check "--bind none" bind_none
check "--user" user
check "runtime folder" runtime_folder_is_private
check "tells systemd" sd_notify
check "stats" stats
check "set" set_options
check "resize, split" resize
check "resize, packed" resize --packed on
check "a smaller export" shrink
check "fail" fail_now
check "stop with a server that hangs" stop_hung
check "vdpa dev del with a server that hangs" removed_hung
check "stop --keep, split" keep
check "stop --keep, packed" keep --packed on
check "stop --keep, two queues" keep --queues 2
check "control group" control_group
check "nothing is left" test -z "$(ls /sys/bus/vdpa/devices)"
finish
