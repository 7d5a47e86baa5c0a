#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: native.sh DIR
#
# The tools of this suite, tried on the host: built with sanitizers in DIR, run
# on files, and each checker on files that were damaged on purpose. Needs no
# root and no virtual machine.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../hugetlb/tap.sh
. "$here/../hugetlb/tap.sh"

out=$(realpath -m "${1:?usage: native.sh DIR}")

# fails STATUS COMMAND...: it ends with exactly that exit status
fails()
{
	local want=$1 status
	shift
	"$@"
	status=$?
	[ "$status" -eq "$want" ] && return
	echo "exit status $status, wanted $want: $*"
	return 1
}

build()
{
	mkdir -p "$out" &&
		make -C "$here" --no-print-directory SANITIZE=1 "OUTPUT=$out" CC=gcc all
}

units_passed()
{
	grep -q '^# ok' "$work/units" && ! grep '^# not ok' "$work/units"
}

# ---- fsync_check ----

records()
{
	rm -rf "$work/dir" "$work/acks"
	mkdir "$work/dir"
	"$out/fsync_check" run "$work/dir" "$work/acks" seconds=1 threads=2 segments=100 \
		"$@" >"$work/stats" || return
	cat "$work/stats"
	grep -q 'errors=0 first_error=none' "$work/stats" || return
	"$out/fsync_check" verify "$work/dir" "$work/acks"
}

# damaged COMMAND...: after it, verify fails and says what is wrong
damaged()
{
	records || return
	"$@" || return
	fails 1 "$out/fsync_check" verify "$work/dir" "$work/acks" >"$work/verify" || {
		cat "$work/verify"
		return 1
	}
	grep 'was acknowledged and is' "$work/verify"
}

flip_a_byte()
{
	printf 'X' | dd of="$work/dir/t1.000000" bs=1 seek=40 conv=notrunc status=none
}

zero_a_page()
{
	dd if=/dev/zero of="$work/dir/t0.000000" bs=4096 seek=0 count=1 conv=notrunc status=none
}

lose_the_end() { truncate -s 100 "$work/dir/t0.000000"; }
lose_a_file() { rm "$work/dir/t0.000000"; }

# What stands behind the last acknowledged record may be anything.
unacknowledged_tail()
{
	local last
	records || return
	last=$(find "$work/dir" -name 't0.*' | sort | tail -n 1)
	head -c 5000 /dev/urandom >>"$last"
	"$out/fsync_check" verify "$work/dir" "$work/acks"
}

# A thread whose disk is full stops, and what it had before is all right.
disk_full()
{
	rm -rf "$work/dir" "$work/acks"
	mkdir "$work/dir"
	(
		ulimit -f 64
		trap '' XFSZ
		"$out/fsync_check" run "$work/dir" "$work/acks" threads=2 segments=100 \
			seconds=5 >"$work/stats"
	) || return
	grep 'errors=2 first_error=EFBIG' "$work/stats" || {
		cat "$work/stats"
		return 1
	}
	"$out/fsync_check" verify "$work/dir" "$work/acks" | tee "$work/verify"
	grep -q 'errors=2' "$work/verify"
}

# Old segments go, and the list says so in time.
few_segments()
{
	records segments=2 || return
	"$out/fsync_check" verify "$work/dir" "$work/acks"
}

# ---- raw_check ----

blocks()
{
	rm -f "$work/image" "$work/model" "$work/old"
	truncate -s 8M "$work/image"
	"$out/raw_check" run "$work/image" "$work/model" offset=1048576 size=4194304 threads=4 \
		>"$work/stats" &
	local load=$!
	sleep 1
	cp "$work/image" "$work/old"
	sleep 1
	kill "$load"
	wait "$load" || return
	cat "$work/stats"
	[ "$("$out/raw_check" progress "$work/model")" -gt 50 ] || return
	"$out/raw_check" verify "$work/image" "$work/model"
}

# What the disk held a while ago is wrong now.
old_versions()
{
	blocks || return
	fails 1 "$out/raw_check" verify "$work/old" "$work/model"
}

one_old_sector()
{
	local at
	blocks || return
	# The first byte that differs within the load's part.
	at=$(cmp -l -i 1048576 -n 4194304 "$work/image" "$work/old" | awk 'NR == 1 { print $1 }')
	[ -n "$at" ] || return
	at=$(((at - 1) / 512 + 2048))
	dd if="$work/old" of="$work/image" bs=512 skip="$at" seek="$at" count=1 conv=notrunc \
		status=none
	fails 1 "$out/raw_check" verify "$work/image" "$work/model"
}

wrong_place()
{
	local at
	blocks || return
	# The first block of the load's part that is not zeroes, half of the part on.
	at=$(cmp -l -i 1048576:0 -n 4194304 "$work/image" /dev/zero | awk 'NR == 1 { print $1 }')
	[ -n "$at" ] || return
	at=$(((at - 1) / 4096 + 256))
	dd if="$work/image" of="$work/image" bs=4096 skip="$at" seek="$((at + 512))" count=1 \
		conv=notrunc status=none
	fails 1 "$out/raw_check" verify "$work/image" "$work/model"
}

# The model is right even if its process was killed.
load_killed()
{
	rm -f "$work/image" "$work/model"
	truncate -s 4M "$work/image"
	"$out/raw_check" run "$work/image" "$work/model" size=4194304 >"$work/stats" &
	local load=$!
	sleep 1
	kill -KILL "$load"
	wait "$load"
	"$out/raw_check" verify "$work/image" "$work/model"
}

# ---- the matrix and the proxy: they print TAP of their own ----

passed() # COMMAND...
{
	"$@" >"$work/tap" 2>"$work/err"
	local status=$?
	sed 's/^/# /' "$work/tap"
	[ "$status" -eq 0 ] || cat "$work/err"
	return "$status"
}

# ---- what leaks.sh makes of its counts ----

# judged ROUNDS NAME COUNT COUNT COUNT: leaks_in, with one more name that never changes
judged()
{
	local i
	for i in 3 4 5; do
		printf '%s\n' "slab:other 1000" "$2 ${!i}" >"$work/count.$i"
	done
	(
		# shellcheck source-path=SCRIPTDIR source=leaks.sh
		. "$here/leaks.sh"
		leaks_in "$1" "$work"/count.{3,4,5}
	)
}

leaks_are_judged()
{
	# One a round; also if a quarter of it is hidden.
	fails 1 judged 75 slab:filp 500 575 650 && fails 1 judged 75 slab:filp 500 560 620 &&
		fails 1 judged 75 pages 70000 70075 70150 &&
		fails 1 judged 75 threads 90 165 240 || return
	# What fills up once, what goes again, what does not grow.
	judged 75 slab:filp 500 900 900 && judged 75 slab:filp 500 500 900 &&
		judged 75 slab:filp 900 800 700 && judged 75 slab:filp 500 540 580 || return
	# A few rounds, and no more than comes and goes without any; and more.
	judged 4 slab:filp 500 516 530 && judged 4 pages 500 540 590 &&
		fails 1 judged 4 slab:filp 500 520 540 && fails 1 judged 4 threads 90 94 98
}

# ---- tools/check-long, with a guest that is a few lines of shell ----

# A tree in which everything that builds or boots does nothing, except vm: each
# boot runs three cells and dies in the next one.
long_tree()
{
	local top name
	top=$(realpath "$here/../..")
	tree=$work/tree
	rm -rf "$tree"
	mkdir -p "$tree"/tools/{deps,build,vm} "$tree"/selftests/vduse-blk-faults \
		"$tree"/Documentation/design "$tree"/build/{userspace,modules/amd64/kernel/vduse}
	cp "$top"/tools/{check-long,reliability.py} "$tree/tools/"
	cp "$top/tools/deps/common.sh" "$top/tools/deps/guest-packages" "$tree/tools/deps/"
	cp "$here"/{matrix.py,tap.py,vm-args} "$tree/selftests/vduse-blk-faults/"
	mkdir -p "$tree/build/userspace/amd64" "$tree/build/selftests/amd64/vduse-blk-faults"
	for name in a.sh a.py a_check; do
		: >"$tree/build/selftests/amd64/vduse-blk-faults/$name"
	done
	: >"$tree/build/modules/amd64/kernel/vduse/vduse.ko"
	: >"$tree/build/userspace/amd64/vduse-blk"
	for name in deps/host build/modules build/test-modules build/userspace build/selftests \
		vm/images; do
		printf '#!/bin/sh\n' >"$tree/tools/$name"
	done
	cat >"$tree/tools/vm/vm" <<-'END'
		#!/bin/bash
		top=$(cd "$(dirname "$0")/../.." && pwd)
		echo boot >>"$top/boots"
		mkdir "$top/running.$$"
		trap 'rmdir "$top/running.$$"' EXIT
		find "$top" -maxdepth 1 -name 'running.*' | wc -l >>"$top/at_once"
		sleep 0.2
		cells=$(tr ' ' '\n' <<<"$*" | sed -n 's|^CELLS=/src||p')
		n=0
		while read -r fault queues ring load _; do
			words="subject=vduse-blk arch=amd64 fault=$fault queues=$queues ring=$ring load=$load"
			echo "# # cell begins: $words"
			[ $((n++)) -lt 3 ] || exit 125
			echo "# # cell: $words outcome=ok errors=0 stall_ms=5 seconds=1 note="
			echo "# ok $n $fault"
		done <"$top$cells"
	END
	chmod +x "$tree"/tools/*/*
}

long_run() # CELL
{
	ARCH=amd64 SUBJECT=vduse-blk CELL=$1 "$tree/tools/check-long" matrix >"$work/long" 2>&1
	cat "$work/long"
}

# Eight cells: three and the one that ends the guest, twice.
long_resumes()
{
	long_tree || return
	long_run 'close-*'
	[ "$(wc -l <"$tree/boots")" = 2 ] || return
	[ "$(tail -n 1 "$work/long")" = "6 passed, 2 failed, 0 skipped" ] || return
	grep -q 'crash 2, ok 6' "$tree/Documentation/design/reliability.rst" || return
	# Again: nothing is left to do.
	long_run 'close-*'
	[ "$(wc -l <"$tree/boots")" = 2 ] || return
	# Another daemon: everything is.
	echo changed >"$tree/build/userspace/amd64/vduse-blk"
	long_run 'close-q1-*'
	[ "$(wc -l <"$tree/boots")" = 3 ] &&
		[ "$(tail -n 1 "$work/long")" = "6 passed, 2 failed, 0 skipped" ]
}

# A guest that never comes up does not keep it busy for ever.
long_gives_up()
{
	long_tree || return
	printf '#!/bin/sh\necho boot >>%s/boots\nexit 125\n' "$tree" >"$tree/tools/vm/vm"
	long_run 'close-*'
	[ "$(wc -l <"$tree/boots")" = 1 ] &&
		[ "$(tail -n 1 "$work/long")" = "0 passed, 1 failed, 0 skipped" ]
}

# Boots go side by side, and no more than that many.
long_side_by_side()
{
	long_tree || return
	GUESTS=2 long_run 'c[hl]*-q1-*'
	[ "$(sort -n "$tree/at_once" | tail -n 1)" = 2 ] &&
		[ "$(tail -n 1 "$work/long")" = "24 passed, 8 failed, 0 skipped" ]
}

one_result() { [ -n "$(find "$tree/build/check-long/results" -name '*.tap' 2>/dev/null)" ]; }
no_guest() { [ -z "$(find "$tree" -maxdepth 1 -name 'running.*')" ]; }

# Interrupted: the guest ends with it, what had a result keeps it, and the cell that was
# running has none.
long_interrupted()
{
	local pid i
	long_tree || return
	cp "$tree/tools/vm/vm" "$work/vm"
	sed -i 's/-lt 3/-lt 1/; s/exit 125/{ sleep 1000 \& wait; }/
		s/^trap .*/&; trap "kill %1; exit" TERM/' "$tree/tools/vm/vm"
	ARCH=amd64 SUBJECT=vduse-blk CELL='close-*' "$tree/tools/check-long" matrix \
		>"$work/long" 2>&1 &
	pid=$!
	for ((i = 0; i < 200; i++)); do
		one_result && break
		sleep 0.1
	done
	kill -TERM "$pid"
	fails 130 wait "$pid" || return
	no_guest || return
	[ "$(find "$tree/build/check-long/results" -name '*.tap' | wc -l)" = 1 ] || return
	grep -rl 'outcome=ok' "$tree/build/check-long/results" || return
	# It goes on with the other seven.
	cp "$work/vm" "$tree/tools/vm/vm"
	long_run 'close-*'
	grep 'matrix, amd64, vduse-blk: 7 cells to run' "$work/long"
}

# ---- log_replay ----

# A log of three writes of one number each, which the checks below read: the
# first byte of sector 0 is what a server has acknowledged in the mark behind it.
make_log() # HONEST
{
	rm -f "$work/disk"
	truncate -s 64K "$work/disk"
	python3 - "$work/log" "$1" <<-'END'
		import struct, sys
		honest = sys.argv[2] == 'yes'
		entries = []
		def entry(sector, sectors, flags, mark=b'', data=b''):
		    entries.append(struct.pack('<QQQQ', sector, sectors, flags, len(mark)) + mark)
		    entries[-1] = entries[-1].ljust(512, b'\0') + data
		entry(0, 0, 8, b'start')
		for n in range(1, 21):
		    entry(0, 2, 0, data=bytes([n]) * 1024)
		    if honest or n != 13:
		        entry(0, 0, 1)
		    entry(0, 0, 8, b'%d' % n)
		entry(0, 0, 8, b'dm-log-writes-end')
		with open(sys.argv[1], 'wb') as f:
		    f.write(struct.pack('<QQQL', 0x6a736677736872, 1, len(entries), 512).ljust(512, b'\0'))
		    f.write(b''.join(entries))
	END
	cat >"$work/at_least" <<-'END'
		#!/bin/sh
		# COPY MARK: the disk has at least what the mark promises
		have=$(od -An -tu1 -N1 "$1" | tr -d ' ')
		echo run >>"$0.runs"
		case $2 in
		[0-9]*) [ "$have" -ge "$2" ] ;;
		esac
	END
	chmod +x "$work/at_least"
	rm -f "$work/at_least.runs"
}

replay()
{
	"$out/log_replay" "$work/log" "$work/disk" "$work/copy" start "$@" -- "$work/at_least"
}

honest_log()
{
	make_log yes || return
	replay subsets=10 | tee "$work/stats"
	grep -q 'boundaries=20 checked=20 subsets=190$' "$work/stats" || return
	[ "$(wc -l <"$work/at_least.runs")" = 210 ]
}

some_boundaries()
{
	make_log yes || return
	replay boundaries=7 | tee "$work/stats"
	grep -q 'boundaries=20 checked=7 subsets=0$' "$work/stats"
}

# A flush that was acknowledged and never done is found.
lying_flush()
{
	make_log no || return
	fails 1 replay subsets=10
}

no_such_mark()
{
	make_log yes || return
	fails 2 "$out/log_replay" "$work/log" "$work/disk" "$work/copy" nosuchmark -- true
}

plan 27
check "built with sanitizers" build
say "the unit tests of the checkers follow"
"$out/checkers" | sed -n 's/^\(not \)\{0,1\}ok [0-9]* /# &/p' >"$work/units"
cat "$work/units"
check "unit tests of the checkers" units_passed
check "fsync_check: every record is there" records
check "fsync_check: old segments are deleted" few_segments
check "fsync_check: finds one wrong byte" damaged flip_a_byte
check "fsync_check: finds a page of zeroes" damaged zero_a_page
check "fsync_check: finds a file that is too short" damaged lose_the_end
check "fsync_check: finds a lost file" damaged lose_a_file
check "fsync_check: anything may follow the last acknowledged record" unacknowledged_tail
check "fsync_check: errors end a thread and are counted" disk_full
check "raw_check: every block holds what it may" blocks
check "raw_check: finds old versions" old_versions
check "raw_check: finds one old sector" one_old_sector
check "raw_check: finds a block in another's place" wrong_place
check "raw_check: the model outlives its process" load_killed
check "log_replay: every boundary and subset" honest_log
check "log_replay: some boundaries" some_boundaries
check "log_replay: a mark that is not there" no_such_mark
check "log_replay: finds a flush that lied" lying_flush
check "matrix: cells and pairs" passed python3 "$here/matrix.py" test
check "reliability: result files and report" passed python3 \
	"$here/../../tools/reliability.py" test
check "leaks: what grows in both windows" leaks_are_judged
check "check-long: goes on where a guest has ended" long_resumes
check "check-long: two guests side by side" long_side_by_side
check "check-long: interrupted, and goes on" long_interrupted
check "check-long: gives up when no guest comes up" long_gives_up
check "nbd_proxy: each misdeed, once" passed python3 "$here/nbd_proxy_test.py"
finish
