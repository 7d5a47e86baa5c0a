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

# SIGTERM while fio runs: the disk goes away in order, what was acknowledged
# is at the server, and the daemon ends with status 0.
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

plan 20
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
check "nothing is left" test -z "$(ls /sys/bus/vdpa/devices)"
finish
