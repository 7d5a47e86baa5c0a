#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What arrives at the server, and what the server does to the daemon: nbdkit
# with its log, error, delay, blocksize-policy and multi-conn filters, and a
# server that is killed.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

log_server() # ARGUMENT... of nbdkit
{
	rm -f "$work/nbd.log"
	nbd_server "$work/s" --filter=log "$@" "logfile=$work/nbd.log"
}

logged() # PATTERN
{
	grep -Eq "$1" "$work/nbd.log" && return
	echo "the server did not see: $1"
	tail -n 20 "$work/nbd.log"
	return 1
}

requests_reach_the_server()
{
	log_server memory 64M || return
	serve s-log "nbd+unix:///?socket=$work/s" || return
	dd if=/dev/zero of="$disk" bs=4k seek=3 count=1 oflag=direct status=none || return
	logged 'Write .*offset=0x3000 count=0x1000' || return
	dd if="$disk" of=/dev/null bs=8k skip=2 count=1 iflag=direct status=none || return
	logged 'Read .*offset=0x4000 count=0x2000' || return
	! grep -q 'Flush ' "$work/nbd.log" || return
	dd if=/dev/zero of="$disk" bs=4k count=1 oflag=direct conv=fsync status=none || return
	logged 'Flush ' || return
	blkdiscard -o 1M -l 64k "$disk" || return
	logged 'Trim .*offset=0x100000 count=0x10000' || return
	blkdiscard -z -o 2M -l 64k "$disk" || return
	logged 'Zero .*offset=0x200000 count=0x10000' || return
	stop "$pid"
}

# A driver that does not accept VIRTIO_BLK_F_FLUSH takes the disk for one
# without a cache: its writes have to be FUA.
fua_for_a_driver_without_flush()
{
	log_server memory 64M || return
	used_devices+=(s-fua)
	start "$work/s-fua.log" "$daemon" serve --name s-fua --bind vhost \
		--uri "nbd+unix:///?socket=$work/s"
	wait_for 20000 grep -q ^/dev/vhost-vdpa- "$work/s-fua.log" || {
		cat "$work/s-fua.log"
		return 1
	}
	"$here/vhost_io" s-fua write 64 || return
	logged 'Write .*offset=0x8000 .*fua=0' || return
	"$here/vhost_io" s-fua write 128 no-flush || return
	logged 'Write .*offset=0x10000 .*fua=1' || return
	"$here/vhost_io" s-fua read 64 || return
	"$here/vhost_io" s-fua read 128 no-flush || return
	stop "$pid"
}

connections() # COUNT FILTER-AND-PLUGIN...: COUNT connections for four queues
{
	local want=$1 got
	shift
	log_server "$@" || return
	serve s-conn "nbd+unix:///?socket=$work/s" --queues 4 || return
	fio_verify "$disk" --size=2m --numjobs=4 --offset_increment=8m --group_reporting || return
	got=$(grep -c ' Connect ' "$work/nbd.log")
	local closed
	closed=$(grep -c ' Disconnect ' "$work/nbd.log")
	echo "$got connections were made, $closed of them are closed again"
	[ $((got - closed)) = "$want" ] || return
	stop "$pid"
}

# All four queues' requests use their own connections, each of them.
every_connection_is_used()
{
	local c cpus used
	cpus=$(nproc)
	log_server memory 64M || return
	serve s-used "nbd+unix:///?socket=$work/s" --queues 4 || return
	for ((c = 0; c < cpus; c++)); do
		taskset -c "$c" dd if="$disk" of=/dev/null bs=4k count=64 iflag=direct status=none
	done
	used=$(grep ' Read ' "$work/nbd.log" | grep -o 'connection=[0-9]*' | sort -u | wc -l)
	echo "reads from $cpus processors came on $used connections"
	[ "$used" -eq $((cpus < 4 ? cpus : 4)) ] || return
	stop "$pid"
}

# Errors of the server are errors of the requests, with the right meaning, and
# nothing else.
server_errors()
{
	touch "$work/fail"
	nbd_server "$work/s" --filter=error memory 64M error-pread-rate=100% \
		error=EIO "error-file=$work/fail" || return
	# The disk is scanned for partitions when it appears.
	rm "$work/fail"
	serve s-error "nbd+unix:///?socket=$work/s" || return
	dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct status=none || return
	touch "$work/fail"
	! dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct status=none 2>"$work/err" || return
	grep -q 'Input/output error' "$work/err" || return
	dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none || return
	rm "$work/fail"
	dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct status=none || return
	stop "$pid"
}

no_space()
{
	touch "$work/fail"
	nbd_server "$work/s" --filter=error memory 64M error-pwrite-rate=100% \
		error=ENOSPC "error-file=$work/fail" || return
	serve s-space "nbd+unix:///?socket=$work/s" || return
	! dd if=/dev/zero of="$disk" bs=4k count=4 oflag=direct status=none 2>"$work/err" || return
	cat "$work/err"
	stop "$pid"
}

# writes_of NAME: how many there were, how many failed, what is in flight
writes_of()
{
	"$daemon" stats "$1" --json | python3 -c '
import json, sys
s = json.load(sys.stdin)
w = s["requests"]["write"]
print(w["requests"], w["errors"], sum(q["in_flight"] for q in s["queues"]))'
}

# Some of the requests fail, others do not, and nothing is left over.
some_errors()
{
	local writes failed in_flight
	nbd_server "$work/s" --filter=error memory 64M error-pwrite-rate=30% error=EIO || return
	serve s-some "nbd+unix:///?socket=$work/s" --queues 2 || return
	fio --name=some --filename="$disk" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k \
		--size=4m --iodepth=16 --continue_on_error=all --output="$work/fio.out" \
		--exitall_on_error=0 >/dev/null 2>&1
	dd if="$disk" of=/dev/null bs=64k count=16 iflag=direct status=none || return
	read -r writes failed in_flight < <(writes_of s-some)
	echo "$writes writes, $failed of them failed, $in_flight in flight"
	[ "$failed" -gt 0 ] && [ "$failed" -lt "$writes" ] && [ "$in_flight" = 0 ] || return
	stop "$pid"
}

delay()
{
	local begin
	nbd_server "$work/s" --filter=delay memory 64M rdelay=300ms || return
	serve s-delay "nbd+unix:///?socket=$work/s" || return
	begin=$(now_ms)
	# 16 reads at a time: they wait together, not one after another.
	fio --name=delay --filename="$disk" --direct=1 --ioengine=libaio --rw=randread --bs=4k \
		--iodepth=16 --number_ios=32 --size=4m --output="$work/fio.out" || return
	took=$(($(now_ms) - begin))
	echo "32 reads took $took ms"
	[ "$took" -ge 500 ] && [ "$took" -lt 6000 ] || return
	stop "$pid"
}

blocksize() # MINIMUM PREFERRED MAXIMUM
{
	nbd_server "$work/s" --filter=blocksize-policy --filter=log memory 64M "logfile=$work/nbd.log" \
		blocksize-minimum="$1" blocksize-preferred="$2" blocksize-maximum="$3" \
		blocksize-error-policy=error || return
	serve s-bs "nbd+unix:///?socket=$work/s" || return
	[ "$(blockdev --getss "$disk")" -ge "$1" ] || [ "$1" -lt 512 ] || return
	dd if=/dev/urandom of="$work/data" bs=1M count=4 status=none
	dd if="$work/data" of="$disk" bs=1M oflag=direct status=none || return
	dd if="$disk" bs=1M count=4 iflag=direct status=none | cmp - "$work/data" || return
	python3 - "$work/nbd.log" "$1" "$3" <<-'END' || return
		import re, sys
		lo, hi = int(sys.argv[2]), int(sys.argv[3])
		n = 0
		for m in re.finditer(r'(?:Read|Write) .*offset=(0x\w+) count=(0x\w+)', open(sys.argv[1]).read()):
		    o, c = int(m[1], 16), int(m[2], 16)
		    n += 1
		    assert c <= hi and c % lo == 0 and o % lo == 0, (o, c)
		assert n > 8, n
	END
	stop "$pid"
}

# The server is killed with reads in flight, and comes back: they have waited for
# it, and the data is what it was.
server_comes_back()
{
	local reader me
	dd if=/dev/urandom of="$work/image" bs=1M count=64 status=none
	nbd_server "$work/s" --filter=delay file "$work/image" rdelay=2 || return
	serve s-back "nbd+unix:///?socket=$work/s" --queues 2 || return
	me=$pid
	start "$work/dd.log" dd if="$disk" "of=$work/data" bs=4k count=4 iflag=direct
	reader=$pid
	sleep 0.5
	end_pid "$server" KILL
	! wait_for 2000 ended "$reader" || return
	nbd_server "$work/s" file "$work/image" || return
	wait_for 20000 ended "$reader" || return
	cat "$work/dd.log"
	[ "$(stat -c %s "$work/data")" = 16384 ] || return
	cmp -n 16384 "$work/data" "$work/image" || return
	grep 'is back' "$work/s-back.log" || return
	stop "$me"
}

# It does not come back. Who does not want to wait says for how long.
server_dies()
{
	nbd_server "$work/s" --filter=delay memory 64M rdelay=2 || return
	serve s-dies "nbd+unix:///?socket=$work/s" --queues 2 --io-timeout 8 || return
	start "$work/dd.log" dd if="$disk" of=/dev/null bs=4k count=4 iflag=direct
	local reader=$pid begin
	pid=${started_pids[-2]}
	sleep 0.5
	end_pid "$server" KILL
	# Its requests fail; it does not wait for ever and does not die.
	wait_for 40000 ended "$reader" || return
	grep -q 'Input/output error' "$work/dd.log" || return
	kill -0 "$pid" || return
	! dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	begin=$(now_ms)
	stop "$pid" || return
	[ $(($(now_ms) - begin)) -lt 5000 ]
}

# A server that breaks the protocol, once, while serving: the connection is given
# up, the log says why, and the request is sent again on another.
bad_replies() # MODE TEXT
{
	bad_server "$1" || return
	serve s-bad "nbd+unix:///?socket=$work/s" || return
	timeout 20 dd if="$disk" "of=$work/data" bs=4k skip=1024 count=1 iflag=direct status=none || return
	timeout 20 dd if="$disk" of=/dev/null bs=4k count=1 iflag=direct status=none || return
	cmp -n 4096 "$work/data" /dev/zero || return
	grep -q "$2" "$work/s-bad.log" || {
		cat "$work/s-bad.log"
		return 1
	}
	[ "$(grep -c ^connection "$work/bad.log")" -ge 2 ] || return
	stop "$pid"
}

# A link that is down and a request that may take for ever: what is left is the peer's
# kernel, which is asked as soon as --keep-alive says so, also after the request was sent.
keep_alive()
{
	local reader
	ip netns add s-alive && ip link add s-alive0 type veth peer name s-alive1 netns s-alive &&
		ip addr add 10.78.0.1/24 dev s-alive0 && ip link set s-alive0 up &&
		ip -n s-alive addr add 10.78.0.2/24 dev s-alive1 &&
		ip -n s-alive link set s-alive1 up || return
	start "$work/nbdkit.log" ip netns exec s-alive nbdkit -f -p 10810 memory 64M
	wait_for 20000 listening_in s-alive 10810 || return
	serve s-alive nbd://10.78.0.2:10810/ --request-timeout off --keep-alive off || return
	local me=$pid
	ip -n s-alive link set s-alive1 down || return
	start "$work/reader" dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
	reader=$pid
	sleep 4
	[ "$(losses s-alive)" = '{}' ] || return
	"$daemon" set s-alive keep-alive=1 || return
	wait_for 20000 is_lost s-alive || return
	! ended "$reader" || return
	ip -n s-alive link set s-alive1 up || return
	wait "$reader" || return
	losses s-alive
	stop "$me" || return
	ip link del s-alive0 && ip netns del s-alive
}

listening_in() { ip netns exec "$1" ss -Hltn "sport = :$2" | grep -q .; } # NETNS PORT

# losses NAME: of its first connection
losses()
{
	"$daemon" stats "$1" --json |
		python3 -c 'import json,sys; print(json.load(sys.stdin)["connections"][0]["losses"])'
}

is_lost() { [ "$(losses "$1")" = "{'network': 1}" ]; }

plan 21
check "requests reach the server: read, write, flush, trim, zero" requests_reach_the_server
check "vhost: FUA for a driver without flush" fua_for_a_driver_without_flush
check "multi-conn: four connections for four queues" connections 4 memory 64M
check "no multi-conn: one connection for four queues" connections 1 --filter=multi-conn memory 64M multi-conn-mode=disable
check "every queue uses its own connection" every_connection_is_used
check "server errors fail the requests only" server_errors
check "no space left" no_space
check "some requests fail" some_errors
check "slow server: requests wait together" delay
check "blocksize-policy 512 4096 65536" blocksize 512 4096 65536
check "blocksize-policy 4096 65536 131072" blocksize 4096 65536 131072
check "blocksize-policy 1 512 4096" blocksize 1 512 4096
check "the server is killed, and comes back" server_comes_back
check "the server is killed, with --io-timeout" server_dies
check "keep-alive finds out that the link is down" keep_alive
check "reply with wrong magic" bad_replies magic "magic"
check "reply with unknown cookie" bad_replies cookie "cookie"
check "reply shorter than the read" bad_replies short "closed"
check "reply chunk behind the end of the read" bad_replies chunk "chunk"
check "reply twice" bad_replies twice "cookie"
check "server that closes while serving" bad_replies close "closed"
finish
