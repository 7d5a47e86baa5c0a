// SPDX-License-Identifier: MIT
/*
 * vduse-blk serve: the statistics document.
 *
 * Counters are read while other threads count, each in one piece; sums of them
 * are therefore of about the same moment, not exactly.
 */
#include <stdio.h>

#include "base/histogram.h"
#include "base/util.h"
#include "cmd/serve.h"

static const char *const kind_names[_VBLK_LATENCY_MAX] = {
	[VBLK_LATENCY_READ] = "read",
	[VBLK_LATENCY_WRITE] = "write",
	[VBLK_LATENCY_FLUSH] = "flush",
	[VBLK_LATENCY_OTHER] = "other",
};

/* Of one kind of request, in one queue or all. */
struct kind_counts {
	uint64_t requests, bytes, errors;
	struct histogram latency;
};

static json_t *describe_latency(const struct histogram *h)
{
	struct histogram_summary sum;

	histogram_summarize(h, &sum);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}",
			 "mean", (json_int_t)sum.mean_ns,
			 "p50", (json_int_t)sum.p50_ns,
			 "p90", (json_int_t)sum.p90_ns,
			 "p99", (json_int_t)sum.p99_ns,
			 "p99.9", (json_int_t)sum.p999_ns,
			 "max", (json_int_t)sum.max_ns);
}

static json_t *describe_kinds(const struct kind_counts counts[_VBLK_LATENCY_MAX])
{
	json_t *kinds = json_object();
	unsigned int i;

	for (i = 0; i < _VBLK_LATENCY_MAX; i++) {
		const struct kind_counts *c = &counts[i];

		json_object_set_new(kinds, kind_names[i],
				    json_pack("{s:I, s:I, s:I, s:o}",
					      "requests", (json_int_t)c->requests,
					      "bytes", (json_int_t)c->bytes,
					      "errors", (json_int_t)c->errors,
					      "latency_ns", describe_latency(&c->latency)));
	}
	return kinds;
}

static void add_queue(struct kind_counts sum[_VBLK_LATENCY_MAX], const struct queue_thread *q,
		      const struct vblk_queue_stats *stats)
{
	unsigned int i;

	sum[VBLK_LATENCY_READ].requests += stats->read_ops;
	sum[VBLK_LATENCY_READ].bytes += stats->read_bytes;
	sum[VBLK_LATENCY_READ].errors += stats->read_errors;
	sum[VBLK_LATENCY_WRITE].requests += stats->write_ops;
	sum[VBLK_LATENCY_WRITE].bytes += stats->write_bytes;
	sum[VBLK_LATENCY_WRITE].errors += stats->write_errors;
	sum[VBLK_LATENCY_FLUSH].requests += stats->flush_ops;
	sum[VBLK_LATENCY_FLUSH].errors += stats->flush_errors;
	sum[VBLK_LATENCY_OTHER].requests += stats->discard_ops + stats->write_zeroes_ops +
					    stats->other_ops;
	sum[VBLK_LATENCY_OTHER].errors += stats->other_errors;
	for (i = 0; i < _VBLK_LATENCY_MAX; i++)
		queue_thread_latency(q, (enum vblk_latency)i, &sum[i].latency);
}

/* Also added to @total. NULL when out of memory. */
static json_t *describe_queue(const struct queue_thread *q, struct kind_counts *total)
{
	struct kind_counts *own = calloc(_VBLK_LATENCY_MAX, sizeof(*own));
	struct vblk_queue_stats stats;
	json_t *document;

	if (!own)
		return NULL;
	queue_thread_stats(q, &stats);
	add_queue(own, q, &stats);
	add_queue(total, q, &stats);
	document = json_pack("{s:i, s:i, s:I, s:I, s:b, s:o}",
			     "index", (int)queue_thread_index(q),
			     "in_flight", (int)stats.in_flight,
			     "kicks", (json_int_t)stats.kicks,
			     "interrupts", (json_int_t)stats.notifies,
			     "broken", (int)stats.broken,
			     "requests", describe_kinds(own));
	free(own);
	return document;
}

static json_t *describe_losses(const struct backend_link_stats *stats)
{
	json_t *losses = json_object();
	unsigned int i;

	for (i = 0; i < _BACKEND_LOSS_MAX; i++) {
		if (stats->losses[i])
			json_object_set_new(losses, backend_loss_name((enum backend_loss)i),
					    json_integer((json_int_t)stats->losses[i]));
	}
	return losses;
}

static json_t *describe_connection(unsigned int index, const struct backend_link_stats *stats)
{
	const uint64_t reconnects = stats->connects ? stats->connects - 1 : 0;

	return json_pack("{s:i, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			 "index", (int)index,
			 "state", stats->state,
			 "reconnects", (json_int_t)reconnects,
			 "attempts", (json_int_t)stats->attempts,
			 "losses", describe_losses(stats),
			 "requests", (json_int_t)stats->requests,
			 "errors", (json_int_t)stats->errors,
			 "resubmitted", (json_int_t)stats->resubmitted,
			 "held", (json_int_t)stats->held,
			 "replayed", (json_int_t)stats->replayed,
			 "flushes", (json_int_t)stats->flushes,
			 "bytes_sent", (json_int_t)stats->bytes_sent,
			 "bytes_received", (json_int_t)stats->bytes_received,
			 "in_flight", (json_int_t)stats->in_flight,
			 "waiting", (json_int_t)stats->waiting,
			 "unflushed", (json_int_t)stats->unflushed,
			 "memory", (json_int_t)stats->memory);
}

json_t *serve_describe_connections(const struct serve *s)
{
	json_t *all = json_array();
	struct backend_link_stats stats;
	unsigned int i;

	for (i = 0; !backend_link_stats(s->backend, i, &stats); i++)
		json_array_append_new(all, describe_connection(i, &stats));
	return all;
}

/* Resident memory of the process, in bytes; 0 if the kernel does not say. */
static uint64_t resident_memory(void)
{
	unsigned long long pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file)
		return 0;
	if (fscanf(file, "%*u %llu", &pages) != 1)
		pages = 0;
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

json_t *serve_describe_stats(const struct serve *s)
{
	struct kind_counts *total = calloc(_VBLK_LATENCY_MAX, sizeof(*total));
	json_t *queues = json_array(), *document;
	unsigned int i;

	if (!total) {
		json_decref(queues);
		return NULL;
	}
	for (i = 0; i < s->options.queues; i++)
		json_array_append_new(queues,
				      describe_queue(transport_queue(s->transport, i), total));
	document = json_pack("{s:s, s:s, s:I, s:o, s:o, s:o}",
			     "name", s->options.name,
			     "state", serve_state_name(s->state),
			     "memory", (json_int_t)resident_memory(),
			     "requests", describe_kinds(total),
			     "queues", queues,
			     "connections", serve_describe_connections(s));
	free(total);
	return document;
}
