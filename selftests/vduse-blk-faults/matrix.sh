#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The fault matrix: a line of TAP a cell, and before it a line "cell:" of
# key=value, from which tools/check-long makes its result files.
#
# In the environment:
#   SUBJECT   vduse-blk (default), qsd, nbd or fuse (subjects.sh)
#   CELLS     pairwise (default on amd64), smoke (elsewhere), all, or a file of
#             lines as matrix.py prints them
#
# A cell of ours passes if its outcome is ok. A cell of a peer passes if it has
# an outcome: hanging is a result. What a build of ours cannot do yet is
# skipped as a known gap, with the reason.

# shellcheck source-path=SCRIPTDIR source=cell.sh
. "$(dirname "$0")/cell.sh"

cells()
{
	local what=${CELLS:-$([ "$arch" = amd64 ] && echo pairwise || echo smoke)}
	case $what in
	/*) cat "$what" ;;
	*) python3 "$here/matrix.py" --subject "$subject" "$what" ;;
	esac
}

# report FAULT QUEUES RING LOAD SECONDS
report()
{
	local name="$subject: $1, $2 queues, $3, $4"
	echo "# cell: subject=$subject arch=$arch fault=$1 queues=$2 ring=$3 load=$4" \
		"outcome=$outcome errors=$errors stall_ms=$stall_ms seconds=$5 note=$note"
	case $outcome in
	gap) skip "$name" "known gap: $note" ;;
	n/a) skip "$name" "$note" ;;
	ok) result 0 "$name" ;;
	broken) result 1 "$name: $note" ;;
	*)
		[ "$subject" != vduse-blk ]
		result $? "$name: $outcome: $note"
		;;
	esac
}

# What is tested, and with what: for the report.
say_run()
{
	local words accelerator=KVM
	# What QEMU calls the processors that it emulates.
	grep -q 'QEMU TCG\|^CPU implementer.*0x00' /proc/cpuinfo && accelerator=TCG
	words=("kernel=$(uname -r)" "tested=$(subject_version)"
		"server=$(nbdkit --version | head -n 1)"
		"guest=$(nproc) processors, $accelerator"
		"options=$(subject_options | tr '\n' ' ')")
	# A word has no spaces.
	words=("${words[@]% }")
	printf '# run:'
	printf ' %s' "${words[@]// /_}"
	echo
}

one_cell() # FAULT QUEUES RING LOAD NEEDS ERRORS
{
	local begin
	begin=$(now_ms)
	echo "# cell begins: subject=$subject arch=$arch fault=$1 queues=$2 ring=$3 load=$4"
	if feature_missing "$5"; then
		outcome='' errors=0 stall_ms=0
		end_with gap "this vduse-blk does not have '$5' among its features (--version)"
	else
		cell_run "$1" "$2" "$3" "$4" "$6" >"$work/output" 2>&1
		cell_clean >>"$work/output" 2>&1
		[ "$outcome" = ok ] || sed 's/^/#   /' "$work/output" "$work"/fault.log \
			"$work/subject.log" 2>/dev/null | tail -n 60
	fi
	report "$1" "$2" "$3" "$4" $((($(now_ms) - begin + 500) / 1000))
}

# The clean-up of lib.sh might wait for what cannot end.
trap '' EXIT
mapfile -t list < <(cells)
[ ${#list[@]} -gt 0 ] || {
	plan 1
	result 1 "there are cells to run"
	exit 1
}
modprobe -a veth loop sch_netem 2>/dev/null
plan ${#list[@]}
say_run
network_up >"$work/output" 2>&1 || {
	sed 's/^/#   /' "$work/output"
	echo "Bail out! no network namespace"
	exit 1
}
for line in "${list[@]}"; do
	if [ -n "$dirty" ]; then
		# The plan announced them; they are failures, unless run in another boot.
		echo "# not run, the guest is dirty ($dirty): $line"
		continue
	fi
	# shellcheck disable=SC2086 # words
	one_cell $line
done
if [ -n "$dirty" ]; then
	echo "# dirty: $dirty"
	exit 1
fi
network_down
rm -rf "$work"
exit $tap_failed
