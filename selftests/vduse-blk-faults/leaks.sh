# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Whether something that is done again and again leaves anything behind in the
# kernel. Everything is counted three times, with the same number of rounds
# between: caches that fill up do so once, a leak grows in both windows.
#
#   leaks_prepare        once, when the network is there; 1 if counting is in vain
#   leaks_count FILE     lines of NAME NUMBER
#   leaks_in ROUNDS FILE FILE FILE
#                        prints what grew in both windows; 1 if anything did
#
# What is counted: the objects of each slab cache, which are open files, sockets,
# inodes and so on, too; areas of vmalloc; threads; users of vduse.ko; and pages
# that are neither free nor have another account in /proc/meminfo, such as those
# that a driver has allocated.
#
# Counts have to be exact, or a leak of one object a round is lost in them: a
# processor's own slab counts as full. With slub_debug=F on the kernel's command
# line there are none. Sockets in TIME_WAIT would grow for a minute; there are
# none, either.

leaks_prepare()
{
	grep -q 'slu\?a\?b_debug=F' /proc/cmdline || {
		echo "objects cannot be counted: the kernel wants slub_debug=F (vm-args)"
		return 1
	}
	sysctl -qw net.ipv4.tcp_max_tw_buckets=0 &&
		in_storage sysctl -qw net.ipv4.tcp_max_tw_buckets=0
}

# What is freed later, because of RCU or by a worker, has been freed.
leaks_settle()
{
	local cache
	sync
	sleep 1
	echo 3 >/proc/sys/vm/drop_caches
	for cache in /sys/kernel/slab/*; do
		# Merged caches have one folder and several links.
		[ -L "$cache" ] || echo 1 >"$cache/shrink"
	done
	sleep 0.5
}

# One look: how many there are of each.
leaks_look()
{
	local threads rest users
	read -r rest rest rest threads rest </proc/loadavg
	read -r users </sys/module/vduse/refcnt
	# Each processor has a share of these in which it counts by itself.
	echo 1 >/proc/sys/vm/stat_refresh
	echo "threads ${threads#*/}"
	echo "users-of-vduse $users"
	awk '
		# Areas that were freed are kept in this cache for a while; those in use are below.
		FILENAME == "/proc/slabinfo" && FNR > 2 && $1 != "vmap_area" { print "slab:" $1, $2 }
		FILENAME == "/proc/vmallocinfo" && !/unpurged/ { areas++ }
		# Free pages that wait on the list of a processor.
		FILENAME == "/proc/zoneinfo" && $1 == "count:" { free += $2 }
		FILENAME != "/proc/meminfo" { next }
		$1 == "MemTotal:" { kib += $2 }
		$1 ~ /^(MemFree|Buffers|Cached|AnonPages|Slab|KernelStack|PageTables|Percpu):$/ {
			kib -= $2
		}
		END {
			print "vmalloc-areas", areas
			print "pages", kib / 4 - free
		}
	' /proc/slabinfo /proc/vmallocinfo /proc/zoneinfo /proc/meminfo
}

# The least of several looks: what comes and goes is no leak.
leaks_count() # FILE
{
	leaks_settle
	{
		leaks_look
		sleep 0.3
		leaks_look
		sleep 0.3
		leaks_look
	} | awk '
		!($1 in least) || $2 < least[$1] { least[$1] = $2 }
		END { for (name in least) print name, least[name] }' >"$1"
}

# A leak of one a round is found, though a quarter of it be hidden by what else
# goes on, if the rounds are more than what comes and goes without any: measured
# with no leak, some 20 dentries and inodes of the test's own files, 70 pages, and
# the 64 buffers that the network keeps for each processor.
leaks_in()
{
	awk -v rounds="$1" -v processors="$(nproc)" '
		function allowance(name) {
			if (name == "pages")
				return 96
			if (name == "slab:skbuff_head_cache")
				return 32 + 64 * processors
			return name ~ /^slab:/ ? 32 : 4
		}
		FNR == 1 { file++ }
		{ count[file, $1] = $2; names[$1] }
		END {
			for (name in names) {
				first = count[2, name] - count[1, name]
				second = count[3, name] - count[2, name]
				if (first * 4 >= rounds * 3 && second * 4 >= rounds * 3 &&
				    first + second > allowance(name)) {
					printf "leak: %s: %d more after %d rounds, %d more after %d others\n",
						name, first, rounds, second, rounds
					found = 1
				} else if (first * 4 >= rounds * 3 || second * 4 >= rounds * 3)
					printf "no leak: %s: %d more, then %d more\n", name, first, second
			}
			exit found
		}' "${@:2}"
}
