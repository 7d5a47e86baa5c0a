#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What ends the daemon before it serves: each with one line that says why, a
# status that is not 0, and nothing left behind.

# shellcheck source-path=SCRIPTDIR source=blk.sh
. "$(dirname "$0")/blk.sh"

ip link set lo up

# refused TEXT OPTION...: serve with these fails, TEXT is in its one line
refused()
{
	local text=$1 status
	shift
	timeout 60 "$daemon" serve --log-level error "$@" >"$work/out" 2>"$work/err"
	status=$?
	cat "$work/out" "$work/err"
	if [ "$status" -eq 0 ] || [ "$status" -ge 124 ]; then
		echo "status $status"
		return 1
	fi
	[ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" = 1 ] || return
	grep -Eqi -- "$text" "$work/err" || {
		echo "expected: $text"
		return 1
	}
	[ ! -e /dev/vduse/e ] && [ ! -e /sys/bus/vdpa/devices/e ] || return
	[ -z "$(ls -A /run/vduse-blk/e 2>/dev/null)" ]
}

with_uri() # TEXT URI OPTION...
{
	local text=$1 uri=$2
	shift 2
	refused "$text" --name e --uri "$uri" "$@"
}

from_nbdkit() # TEXT EXPORT ARGUMENT... of nbdkit
{
	local text=$1 export=$2
	shift 2
	nbd_server "$work/s" "$@" || return
	with_uri "$text" "nbd+unix:///$export?socket=$work/s"
}

from_bad_server() # TEXT MODE
{
	bad_server "$2" || return
	with_uri "$1" "nbd+unix:///?socket=$work/s"
}

config() # TEXT CONTENT
{
	printf '%s\n' "$2" >"$work/config"
	refused "$1" --name e --uri null:64M --config "$work/config"
}

in_other_namespace()
{
	unshare -n "$daemon" serve --log-level error --name e --uri null:64M \
		>"$work/out" 2>"$work/err" && return 1
	cat "$work/err"
	[ "$(wc -l <"$work/err")" = 1 ] && grep -qi 'namespace' "$work/err" || return
	[ ! -e /dev/vduse/e ]
}

without_root()
{
	setpriv --reuid 65534 --regid 65534 --clear-groups "$daemon" serve --log-level error \
		--name e --uri null:64M >"$work/out" 2>"$work/err" && return 1
	cat "$work/err"
	[ "$(wc -l <"$work/err")" = 1 ] && grep -qi 'root\|permission' "$work/err"
}

without_module()
{
	rmmod vduse || return
	with_uri "vduse" null:64M
	local ret=$?
	sh "$here/load.sh" || return
	return "$ret"
}

mkdir -p "$work/exports"
truncate -s 16M "$work/exports/one"
truncate -s 1000 "$work/odd"
truncate -s 0 "$work/empty"
echo user:0123456789abcdef0123456789abcdef >"$work/psk"

plan 51
# Servers.
check "refused connection, TCP" with_uri "refused" nbd://127.0.0.1:9/
check "refused connection, IPv6" with_uri "refused" "nbd://[::1]:9/"
check "no such socket" with_uri "no such file" "nbd+unix:///?socket=$work/nosuchsocket"
check "socket is a plain file" with_uri "connect" "nbd+unix:///?socket=$work/odd"
check "unknown host" with_uri "nosuchhost.invalid" nbd://nosuchhost.invalid/
check "unknown export" from_nbdkit "export" nosuchexport file "dir=$work/exports"
check "read-only export" from_nbdkit "read-only" "" -r memory 64M
check "size zero" from_nbdkit "zero" "" memory 0
check "size not a multiple of the block size" from_nbdkit "multiple" "" memory 1000
check "minimum block size above 4096" from_nbdkit "block" "" --filter=blocksize-policy memory 64M \
	blocksize-minimum=8192 blocksize-preferred=8192
check "wrong magic" from_bad_server "magic|nbd" garbage
check "oldstyle server" from_bad_server "oldstyle" oldstyle
check "closes at once" from_bad_server "closed" hang-up
check "closes in the handshake" from_bad_server "closed" hang-up-go
check "garbage for a reply" from_bad_server "server" bad-reply
check "size zero, by the protocol" from_bad_server "zero" zero-size
check "odd size, by the protocol" from_bad_server "multiple" odd-size
check "TLS only" from_nbdkit "TLS" "" --tls=require --tls-psk="$work/psk" memory 64M
# Files.
check "file: missing" with_uri "no such file" "file://$work/nosuchfile"
check "file: empty" with_uri "zero" "file://$work/empty"
check "file: odd size" with_uri "multiple" "file://$work/odd"
check "file: a folder" with_uri "directory" "file://$work"
# URIs.
check "URI: empty" with_uri "uri" ""
check "URI: unknown scheme" with_uri "scheme|gopher" gopher://host/
check "URI: no scheme" with_uri "uri" just-text
check "URI: no host" with_uri "host" nbd:///export
check "URI: port out of range" with_uri "port" nbd://localhost:70000/
check "URI: port is text" with_uri "port" nbd://localhost:http/
check "URI: bad percent encoding" with_uri "%" "nbd://localhost/%zz"
check "URI: unknown parameter" with_uri "parameter|colour" "nbd+unix:///?socket=/x&colour=red"
check "URI: socket is missing" with_uri "socket" nbd+unix:///export
check "URI: socket path too long" with_uri "long" \
	"nbd+unix:///?socket=/$(head -c 200 /dev/zero | tr '\0' x)"
check "URI: export name too long" with_uri "long" \
	"nbd://localhost/$(head -c 5000 /dev/zero | tr '\0' x)"
check "URI: null without size" with_uri "null|size" "null:"
check "URI: null with a bad size" with_uri "size|null" null:many
check "URI: null of an odd size" with_uri "multiple|block" null:1000
# Options.
check "option: name is missing" refused "name" --uri null:64M
check "option: URI is missing" refused "uri" --name e
check "option: name with a slash" refused "name" --name a/b --uri null:64M
check "option: name \"control\"" refused "control" --name control --uri null:64M
check "option: no queues" with_uri "queues" null:64M --queues 0
check "option: queues are text" with_uri "queues" null:64M --queues many
check "option: queue size not a power of two" with_uri "queue-size" null:64M --queue-size 100
check "option: packed is neither" with_uri "packed" null:64M --packed maybe
check "option: bind to something else" with_uri "bind" null:64M --bind both
check "option: serial too long" with_uri "serial" null:64M --serial 123456789012345678901
check "option: unknown user" with_uri "nosuchuser" null:64M --user nosuchuser
check "config: unknown name" config "colour" "colour = red"
# The system.
check "another network namespace" in_other_namespace
check "without root" without_root
check "without the module" without_module
finish
