// SPDX-License-Identifier: MIT
/*
 * The table of "stats": durations in three digits, and whole tables.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "cmd/stats_text.h"

static void test_durations(void **state)
{
	static const struct {
		uint64_t ns;
		const char *text;
	} table[] = {
		{ 0, "0ns" },
		{ 1, "1ns" },
		{ 999, "999ns" },
		{ 1000, "1.00us" },
		{ 1234, "1.23us" },
		{ 9994, "9.99us" },
		{ 9999, "10.0us" },
		{ 85000, "85.0us" },
		{ 99940, "99.9us" },
		{ 99960, "100us" },
		{ 999400, "999us" },
		{ 999500, "1.00ms" },
		{ 1200000, "1.20ms" },
		{ 31000000000, "31.0s" },
		{ 999999999, "1.00s" },
		{ 4398046511103, "4398s" },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		char text[STATS_DURATION_SIZE];

		stats_duration(table[i].ns, text);
		assert_string_equal(text, table[i].text);
	}
}

#define LATENCY "{\"mean\": 90000, \"p50\": 81000, \"p90\": 120000, \"p99\": 1500000, " \
		"\"p99.9\": 20000000, \"max\": 1200000000}"
#define NOTHING "{\"requests\": 0, \"bytes\": 0, \"errors\": 0, \"latency_ns\": {}}"
#define READS	"{\"read\": {\"requests\": 1200, \"bytes\": 4915200, \"errors\": 2, " \
		"\"latency_ns\": " LATENCY "}, \"write\": " NOTHING "}"

#define HEAD	"QUEUE  KIND       REQUESTS            BYTES   ERRORS     MEAN      P50      P90" \
		"      P99    P99.9      MAX\n"
#define ROW(q)	q "      read           1200          4915200        2   90.0us   81.0us    120us" \
		"   1.50ms   20.0ms    1.20s\n"
#define ALL	"all    read           1200          4915200        2   90.0us   81.0us    120us" \
		"   1.50ms   20.0ms    1.20s\n"
#define BUSY	"\nQUEUE     IN FLIGHT        KICKS   INTERRUPTS\n"
#define CONN	"\nCONN   STATE            REQUESTS   ERRORS IN FLIGHT  WAITING             SENT" \
		"         RECEIVED     MEMORY RECONNECTS LOSSES\n"

static void test_tables(void **state)
{
	static const struct {
		const char *document, *text;
	} table[] = {
		/* Whatever is missing, nothing breaks. */
		{ "{}", "-: -, 0 bytes of memory\n\n" HEAD BUSY },
		{ "{\"name\": \"d0\", \"state\": \"serving\", \"memory\": 1048576, "
		  "\"requests\": " READS ", \"queues\": [{\"index\": 0, \"in_flight\": 3, "
		  "\"kicks\": 10, \"interrupts\": 20, \"broken\": false, \"requests\": " READS "}], "
		  "\"connections\": []}",
		  "d0: serving, 1048576 bytes of memory\n\n" HEAD ROW("0") BUSY
		  "0                 3           10           20\n" },
		/* Several queues have a sum; connections have a line each. */
		{ "{\"name\": \"d0\", \"state\": \"serving\", \"memory\": 1, \"requests\": " READS
		  ", \"queues\": [{\"index\": 0, \"in_flight\": 0, \"kicks\": 1, \"interrupts\": 1, "
		  "\"broken\": false, \"requests\": " READS "}, {\"index\": 1, \"in_flight\": 0, "
		  "\"kicks\": 0, \"interrupts\": 0, \"broken\": true, \"requests\": {\"read\": "
		  NOTHING "}}], \"connections\": [{\"index\": 0, \"state\": \"connecting\", "
		  "\"reconnects\": 2, \"losses\": {\"closed\": 1, \"timeout\": 4}, \"requests\": 7, "
		  "\"errors\": 0, \"in_flight\": 0, \"waiting\": 5, \"bytes_sent\": 100, "
		  "\"bytes_received\": 200, \"memory\": 300}]}",
		  "d0: serving, 1 bytes of memory\n\n" HEAD ROW("0") ALL BUSY
		  "0                 0            1            1\n"
		  "1                 0            0            0 broken\n" CONN
		  "0      connecting              7        0         0        5              100"
		  "              200        300          2 closed=1 timeout=4\n" },
	};

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		json_error_t why;
		json_t *document = json_loads(table[i].document, 0, &why);
		char *text = NULL;
		size_t size;
		FILE *out = open_memstream(&text, &size);

		if (!document)
			fail_msg("%s", why.text);
		stats_print(out, document);
		fclose(out);
		assert_string_equal(text, table[i].text);
		free(text);
		json_decref(document);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_tables),
	};

	return cmocka_run_group_tests_name("stats text", tests, NULL, NULL);
}
