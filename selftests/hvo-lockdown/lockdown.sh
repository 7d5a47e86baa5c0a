#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Integrity mode, which Secure Boot sets, wants modules with a signature that
# the kernel trusts, and nothing else of hvo.ko. Confidentiality mode forbids
# what the module begins with: it says so and does not load.
#
# A stock kernel does not trust a module that was built here. The kernel of
# "make check-debug" does: its key signs the modules that are built for it.

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR/../hugetlb source=tap.sh
. "$here/tap.sh"
# shellcheck source-path=SCRIPTDIR/../hugetlb source=pool.sh
. "$here/pool.sh"
# shellcheck source-path=SCRIPTDIR/../hugetlb source=hvo.sh
. "$here/hvo.sh"

switch=/sys/kernel/security/lockdown
refusal='hvo: not with lockdown in confidentiality mode'
ko=$(hvo_ko) || exit 1
[ -e $switch ] || mount -t securityfs securityfs /sys/kernel/security 2>/dev/null

# refused: insmod says that the operation is not permitted
refused()
{
	local output
	if output=$(insmod "$ko" 2>&1); then
		echo "it was loaded"
		return 1
	fi
	[[ $output == *"Operation not permitted"* ]] && return
	echo "insmod says: $output"
	return 1
}

works()
{
	hvo_load && pool_set 2048 16 && hvo_switch 1 && hvo_whole_pool 2048 || return
	hvo_switch 0 && hvo_nothing && pool_set 2048 0 && rmmod hvo
}

refused_with_reason() { refused && dmesg | grep -q "$refusal"; }

plan 3
if modinfo -F signer "$ko" | grep -q .; then
	check "integrity: a signed module works" works
	skip "integrity: an unsigned module is refused" "this one is signed"
	if { echo confidentiality >$switch; } 2>/dev/null; then
		check "confidentiality: refused, and the log says why" refused_with_reason
	else
		skip "confidentiality: refused, and the log says why" "no $switch to switch to it"
	fi
else
	skip "integrity: a signed module works" "this one is not signed; \"make check-debug\" has one"
	check "integrity: an unsigned module is refused" refused
	skip "confidentiality: refused, and the log says why" "the kernel refuses it before"
fi
finish
