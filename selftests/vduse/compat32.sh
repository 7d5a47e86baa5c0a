#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The UAPI and bad-input tests again, as 32-bit programs on the 64-bit kernel:
# i386 aligns 64-bit integers to 4 bytes, so some structures, and with them
# ioctl numbers, differ.

here=$(cd "$(dirname "$0")" && pwd)
status=0

if [ "$(uname -m)" != x86_64 ]; then
	echo "TAP version 13"
	echo "1..0 # SKIP the 32-bit ABI of $(uname -m) lays structures out like the 64-bit one"
	exit 4
fi
for test in uapi_32 bad_input_32; do
	if [ ! -x "$here/$test" ]; then
		echo "not ok $test was not built"
		status=1
		continue
	fi
	"$here/$test" || status=1
done
exit $status
