# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# One cell of the matrix: a load on a disk, a fault, and what came of it.
#
# $outcome   what it means
# ok         the users saw a delay at most (or, where the storage itself failed,
#            errors that were due), and everything acknowledged is there
# errors     users saw errors that were not due; afterwards the disk works
# dead       and afterwards it works no more, though the storage does
# hangs      requests did not end within the limit (ours: nor one of them)
# lost       an acknowledged write is missing or torn, or a wrong block was read
# warning    all was well, except that the kernel's log has a warning
# gap        not run: this build of the daemon lacks what it needs ($note)
# n/a        it cannot be made to happen with this subject ($note)
# broken     the cell itself failed ($note)
#
# Order: server, proxy, subject, load; fault; load, subject, proxy, server; then
# the server's disk is judged.

# shellcheck source-path=SCRIPTDIR source=inject.sh
. "$(dirname "${BASH_SOURCE[0]}")/inject.sh"

recovery_limit=${RECOVERY_LIMIT:-45}
# How much longer than its fault may one request of ours take? The limits of subject_options
# add up to a quarter of it; but the machine may be busy, and its server dies and is started
# again. A peer has no limit, or another one.
stall_allowance=${STALL_ALLOWANCE:-60}
errors=0 stall_ms=0 fault_ms=0 wrong='' outcome=''
readers=()
features=

# end_with OUTCOME NOTE: the first one stands
end_with()
{
	[ -z "$outcome" ] || return 0
	outcome=$1
	# shellcheck disable=SC2034 # for the report
	note=$2
}

feature_missing() # WORD
{
	[ "$1" = - ] && return 1
	# Asked once: a process costs time in a guest that is emulated.
	[ -n "$features" ] || features=$(subject_features)
	case " $features " in
	*" $1 "* | *" all "*) return 1 ;;
	esac
}

cell_prepare() # FAULT QUEUES RING
{
	cell=$work/cell fault=$1 image=$work/cell/disk.img load_options=()
	errors=0 stall_ms=0 fault_ms=0 first_error=none wrong='' outcome=''
	readers=() extra_options=()
	rm -rf "$cell" "$work/nbdkit.log" "$work/subject.log"
	mkdir "$cell"
	truncate -s $disk_size "$image"
	[ "$1" != cache-lost ] || load_options=(durable=1)
	# What was overtaken by a newer write of the same blocks is to be looked for.
	raw_size=$((24 << 20))
	[ "$1" != late-write ] || raw_size=$((512 << 10))
	[ "$1" != daemon-keep ] || extra_options=(--on-exit keep)
	complaints=$(kernel_complaints) server_aborts=0
	server_for "$1" || {
		end_with broken "the server does not start"
		return 1
	}
	subject_start "$2" "$3" || {
		end_with broken "the subject does not start"
		return 1
	}
}

# The load is well on its way.
cell_warm_up() # LOAD ERRORS
{
	if load_start "$1" "$2" $((RANDOM + 1)) && until_true 60 load_beyond_or_ended 40 &&
		! load_ended; then
		sleep 1
		return
	fi
	end_with broken "the load does not run: $(tail -n 1 "$cell/stats")"
	return 1
}

# disk_answers: 0 a read works, 1 it fails, 124 it does not end
disk_answers() { read_at $((RANDOM % 8192 * 4096)) 2>>"$cell/reads"; }

# After the fault: the load goes on, or has ended, and the disk answers.
cell_recover()
{
	local base status limit=$recovery_limit
	base=$(load_progress)
	# Where errors are due the disk may be gone for this load, which has to end when asked.
	[ "$1" = none ] || limit=10
	until_true "$limit" load_beyond_or_ended $((base + 40))
	disk_answers
	status=$?
	if [ $status -eq 124 ]; then
		end_with hangs "a read does not end"
	elif [ $status -ne 0 ]; then
		end_with dead "a read fails after the fault is over"
	elif ! load_ended && ! load_beyond $((base + 40)) && [ "$1" = none ]; then
		end_with hangs "the load does not go on"
	fi
}

cell_stop_load()
{
	local p
	# Who is known to hang gets no second chance.
	load_stop "$([ "$outcome" = hangs ] && echo 5 || echo 45)" || {
		end_with hangs "the load does not end"
		subject_abandon
		load_kill
	}
	for p in "${readers[@]}"; do
		if ! until_true 10 gone "$p"; then
			end_with hangs "a read does not end"
			subject_abandon
			end_job "$p"
		elif ! wait "$p"; then
			read_errors=$((read_errors + 1))
		fi
	done
}

cell_judge() # ERRORS
{
	local text
	[ -z "$wrong" ] || end_with lost "$wrong"
	[ -z "$dirty" ] || end_with hangs "$dirty"
	# What was acknowledged has to be there whatever else went wrong.
	text=$(load_verify 2>&1) || {
		[ "$outcome" = lost ] || outcome=
		end_with lost "$(grep -v '^[a-z]*=' <<<"$text" | head -n 1)"
	}
	echo "$text"
	[ "$errors" -eq 0 ] || [ "$1" != none ] ||
		end_with errors "$errors errors, the first one $first_error"
	[ "$errors" -gt 0 ] || [ "$1" != due ] || end_with broken "no request has failed"
	[ "$subject" != vduse-blk ] || [ "$stall_ms" -le $((fault_ms + stall_allowance * 1000)) ] ||
		end_with hangs "a request took $stall_ms ms, the fault only $fault_ms ms"
	[ "$(kernel_complaints)" -eq "$complaints" ] ||
		end_with warning "$(dmesg | grep -E 'BUG:|WARNING:|Oops' | tail -n 1)"
	end_with ok ''
	[ "$server_aborts" -eq 0 ] ||
		note+="${note:+; }nbdkit aborted and was started again, $server_aborts times"
}

# cell_run FAULT QUEUES RING LOAD ERRORS: sets $outcome, $note, $errors, ...
cell_run()
{
	local read_errors=0 begin
	cell_prepare "$1" "$2" "$3" && cell_warm_up "$4" "$5" || return
	begin=$(now_ms)
	inject "$1" || {
		case $1 in
		chunk-*)
			[ "$subject" != vduse-blk ] ||
				end_with broken "the daemon does not ask for structured replies"
			end_with n/a "the client does not ask for structured replies"
			;;
		daemon-* | upgrade | export-grown) end_with dead "$1 failed" ;;
		# They spoil the next connection.
		option-reply | greeting) end_with dead "it does not connect again" ;;
		*) end_with broken "the fault could not be made to happen" ;;
		esac
	}
	fault_ms=$(($(now_ms) - begin))
	[ -n "$outcome" ] || cell_recover "$5"
	cell_stop_load
	load_result
	errors=$((errors + read_errors))
	load_unmount || {
		end_with hangs "umount does not end, or fails"
		subject_abandon
		load_unmount
	}
	subject_stop || end_with errors "the subject does not end well"
	servers_end
	unstick
	cell_judge "$5"
}

# cell_clean: nothing is left, or the guest is dirty
cell_clean()
{
	[ "$outcome" != broken ] || subject_abandon
	load_kill
	load_unmount
	subject_stop >/dev/null
	servers_end
	unstick
	not_lossy 2>/dev/null
	[ ! -e "$cell/small" ] || limited 10 umount "$cell/small"
	! grep -q " $cell/" /proc/mounts || make_dirty "still mounted: $(grep -o " $cell/[^ ]*" /proc/mounts)"
}
