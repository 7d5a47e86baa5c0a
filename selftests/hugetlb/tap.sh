# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# TAP for the shell tests of HugeTLB: sourced, needs nothing. A test is a
# command; it passes when it returns 0, and what it printed is shown when it
# did not.

tap_number=0 tap_failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "# $*"; }

# plan N: how many results there will be
plan()
{
	echo "TAP version 13"
	echo "1..$1"
}

# result STATUS NAME
result()
{
	tap_number=$((tap_number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $tap_number $2"
	else
		echo "not ok $tap_number $2"
		tap_failed=1
	fi
}

# check NAME COMMAND...: runs it in this shell
check()
{
	local name=$1 status
	shift
	"$@" >"$work/check" 2>&1
	status=$?
	[ $status -eq 0 ] || sed 's/^/#   /' "$work/check"
	result $status "$name"
	return "$status"
}

# skip NAME REASON
skip()
{
	tap_number=$((tap_number + 1))
	echo "ok $tap_number $1 # SKIP $2"
}

finish() { exit $tap_failed; }
