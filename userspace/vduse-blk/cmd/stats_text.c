// SPDX-License-Identifier: MIT
/*
 * The statistics document as a table: one line for each queue and kind of
 * request that occurred, one for each connection.
 */
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cmd/stats_text.h"

void stats_duration(uint64_t ns, char *text)
{
	static const struct {
		uint64_t ns;
		const char *name;
	} units[] = {
		{ 1000000000, "s" }, { 1000000, "ms" }, { 1000, "us" }, { 1, "ns" },
	};
	const double unit_limit = 999.5; /* what is rounded up to 1000 takes the next unit */
	unsigned int i = 0;
	double value;

	while (i + 1 < ARRAY_SIZE(units) && (double)ns / (double)units[i + 1].ns < unit_limit)
		i++;
	value = (double)ns / (double)units[i].ns;
	if (units[i].ns == 1)
		snprintf(text, STATS_DURATION_SIZE, "%" PRIu64 "ns", ns);
	else
		snprintf(text, STATS_DURATION_SIZE, "%.*f%s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0,
			 value, units[i].name);
}

static json_int_t integer(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *string(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

static void print_kinds(FILE *out, const char *queue, json_t *kinds)
{
	static const char *const columns[] = { "mean", "p50", "p90", "p99", "p99.9", "max" };
	const char *kind;
	json_t *counts;
	unsigned int i;

	json_object_foreach(kinds, kind, counts) {
		json_t *latency = json_object_get(counts, "latency_ns");
		char text[STATS_DURATION_SIZE];

		if (!integer(counts, "requests"))
			continue;
		fprintf(out, "%-6s %-6s %12" JSON_INTEGER_FORMAT " %16" JSON_INTEGER_FORMAT
			" %8" JSON_INTEGER_FORMAT, queue, kind, integer(counts, "requests"),
			integer(counts, "bytes"), integer(counts, "errors"));
		for (i = 0; i < ARRAY_SIZE(columns); i++) {
			stats_duration((uint64_t)integer(latency, columns[i]), text);
			fprintf(out, " %8s", text);
		}
		fputc('\n', out);
	}
}

static void print_queues(FILE *out, json_t *stats)
{
	json_t *queues = json_object_get(stats, "queues"), *queue;
	char name[16];
	size_t i;

	fprintf(out, "%-6s %-6s %12s %16s %8s %8s %8s %8s %8s %8s %8s\n", "QUEUE", "KIND",
		"REQUESTS", "BYTES", "ERRORS", "MEAN", "P50", "P90", "P99", "P99.9", "MAX");
	json_array_foreach(queues, i, queue) {
		snprintf(name, sizeof(name), "%d", (int)integer(queue, "index"));
		print_kinds(out, name, json_object_get(queue, "requests"));
	}
	if (json_array_size(queues) != 1)
		print_kinds(out, "all", json_object_get(stats, "requests"));
}

static void print_activity(FILE *out, json_t *stats)
{
	json_t *queue;
	size_t i;

	fprintf(out, "\n%-6s %12s %12s %12s\n", "QUEUE", "IN FLIGHT", "KICKS", "INTERRUPTS");
	json_array_foreach(json_object_get(stats, "queues"), i, queue)
		fprintf(out, "%-6d %12" JSON_INTEGER_FORMAT " %12" JSON_INTEGER_FORMAT
			" %12" JSON_INTEGER_FORMAT "%s\n", (int)integer(queue, "index"),
			integer(queue, "in_flight"), integer(queue, "kicks"),
			integer(queue, "interrupts"),
			json_is_true(json_object_get(queue, "broken")) ? " broken" : "");
}

static void print_connection(FILE *out, json_t *connection)
{
	const char *name;
	json_t *count;

	fprintf(out, "%-6d %-12s %12" JSON_INTEGER_FORMAT " %8" JSON_INTEGER_FORMAT
		" %9" JSON_INTEGER_FORMAT " %8" JSON_INTEGER_FORMAT " %16" JSON_INTEGER_FORMAT
		" %16" JSON_INTEGER_FORMAT " %10" JSON_INTEGER_FORMAT " %10" JSON_INTEGER_FORMAT,
		(int)integer(connection, "index"), string(connection, "state"),
		integer(connection, "requests"), integer(connection, "errors"),
		integer(connection, "in_flight"), integer(connection, "waiting"),
		integer(connection, "bytes_sent"), integer(connection, "bytes_received"),
		integer(connection, "memory"), integer(connection, "reconnects"));
	json_object_foreach(json_object_get(connection, "losses"), name, count)
		fprintf(out, " %s=%" JSON_INTEGER_FORMAT, name, json_integer_value(count));
	fputc('\n', out);
}

void stats_print(FILE *out, json_t *stats)
{
	json_t *connections = json_object_get(stats, "connections"), *connection;
	size_t i;

	fprintf(out, "%s: %s, %" JSON_INTEGER_FORMAT " bytes of memory\n\n", string(stats, "name"),
		string(stats, "state"), integer(stats, "memory"));
	print_queues(out, stats);
	print_activity(out, stats);
	if (!json_array_size(connections))
		return;
	fprintf(out, "\n%-6s %-12s %12s %8s %9s %8s %16s %16s %10s %10s %s\n", "CONN", "STATE",
		"REQUESTS", "ERRORS", "IN FLIGHT", "WAITING", "SENT", "RECEIVED", "MEMORY",
		"RECONNECTS", "LOSSES");
	json_array_foreach(connections, i, connection)
		print_connection(out, connection);
}
