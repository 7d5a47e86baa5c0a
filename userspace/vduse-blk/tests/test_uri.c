// SPDX-License-Identifier: MIT
/*
 * URI splitting: what is accepted and how it is cut, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "base/uri.h"

struct good {
	const char *text;
	const char *scheme, *host, *port, *path;
	const char *params; /* "name=value;name=value" */
};

static const struct good goods[] = {
	{ "nbd://host/disk", "nbd", "host", NULL, "/disk", "" },
	{ "nbd://host", "nbd", "host", NULL, "", "" },
	{ "nbd://host:10810/", "nbd", "host", "10810", "/", "" },
	{ "nbd://host:/x", "nbd", "host", NULL, "/x", "" },
	{ "nbd://host:00080/x", "nbd", "host", "80", "/x", "" },
	{ "NBD+Unix:///d?socket=/run/a%20b", "nbd+unix", "", NULL, "/d", "socket=/run/a b" },
	{ "nbd://[::1]/d", "nbd", "::1", NULL, "/d", "" },
	{ "nbd://[fe80::1%25eth0]:7/d", "nbd", "fe80::1%eth0", "7", "/d", "" },
	{ "nbd://[::ffff:10.0.0.1]:65535", "nbd", "::ffff:10.0.0.1", "65535", "", "" },
	{ "null:1G", "null", "", NULL, "1G", "" },
	{ "null:", "null", "", NULL, "", "" },
	{ "file:///a%2fb%3Fc", "file", "", NULL, "/a/b?c", "" },
	{ "file:///%41%61%7e", "file", "", NULL, "/Aa~", "" },
	{ "x:p?a=1&b=&c&d=%26%3d", "x", "", NULL, "p", "a=1;b=;c=;d=&=" },
	{ "x:p?a=b=c", "x", "", NULL, "p", "a=b=c" },
	{ "x:p?", "x", "", NULL, "p", "" },
	{ "x://h?a=/b/c", "x", "h", NULL, "", "a=/b/c" },
	{ "x:?a=1", "x", "", NULL, "", "a=1" },
	{ "x:a;b", "x", "", NULL, "a;b", "" },
	{ "x+y-z.1:a", "x+y-z.1", "", NULL, "a", "" },
	{ "x:\xc3\xa9%C3%A9", "x", "", NULL, "\xc3\xa9\xc3\xa9", "" },
	{ "x:p?0=0&1=1&2=2&3=3&4=4&5=5&6=6&7=7&8=8&9=9&a=a&b=b&c=c&d=d&e=e&f=f", "x", "", NULL, "p",
	  "0=0;1=1;2=2;3=3;4=4;5=5;6=6;7=7;8=8;9=9;a=a;b=b;c=c;d=d;e=e;f=f" },
};

static void join_params(const struct uri *uri, char *out)
{
	*out = '\0';
	for (unsigned int i = 0; i < uri->nparams; i++) {
		strcat(out, i ? ";" : "");
		strcat(out, uri->params[i].name);
		strcat(out, "=");
		strcat(out, uri->params[i].value);
	}
}

static void test_good(void **state)
{
	char params[1024];
	struct uri uri;
	struct error e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(goods); i++) {
		const struct good *g = &goods[i];

		e = ERROR_INIT;
		if (uri_parse(g->text, &uri, &e))
			fail_msg("'%s': %s", g->text, e.text);
		join_params(&uri, params);
		if (strcmp(uri.scheme, g->scheme) || strcmp(uri.host, g->host) ||
		    strcmp(uri.path, g->path) || strcmp(params, g->params) ||
		    !uri.port != !g->port || (g->port && strcmp(uri.port, g->port)))
			fail_msg("'%s': '%s' '%s' '%s' '%s' '%s'", g->text, uri.scheme, uri.host,
				 uri.port ? uri.port : "-", uri.path, params);
		assert_true(uri.has_authority == (strstr(g->text, "://") != NULL));
		assert_true(uri.host_is_ipv6 == (strchr(g->text, '[') != NULL));
		uri_release(&uri);
	}
}

static const struct {
	const char *text;
	const char *message;
} bads[] = {
	{ "", "empty" },
	{ "disk", "does not begin with a scheme" },
	{ "/dev/sda", "does not begin with a scheme" },
	{ ":x", "does not begin with a scheme" },
	{ "1x:y", "does not begin with a scheme" },
	{ "a_b:y", "does not begin with a scheme" },
	{ "nbd://h ost/", "byte 7 (write it as %20)" },
	{ "nbd://host/\n", "byte 11 (write it as %0A)" },
	{ "nbd://host/\x7f", "control character" },
	{ "nbd://host/#f", "fragment" },
	{ "nbd://user@host/", "user names" },
	{ "nbd://user:pw@host/", "user names" },
	{ "x:%", "incomplete '%'" },
	{ "x:%4", "incomplete '%'" },
	{ "x:%4g", "'%4g' in the path" },
	{ "x:%00", "'%00' in the path" },
	{ "x:?a=%00", "'%00' in the query" },
	{ "x://%zz/", "'%zz' in the host" },
	{ "nbd://host:0/", "not in 1...65535" },
	{ "nbd://host:65536/", "not in 1...65535" },
	{ "nbd://host:99999999999999999999/", "not in 1...65535" },
	{ "nbd://host:http/", "is not a number" },
	{ "nbd://host:-1/", "is not a number" },
	{ "nbd://:80/", "port without a host" },
	{ "nbd://::1/", "port without a host" },
	{ "nbd://fe80::1/", "goes in brackets" },
	{ "nbd://[::1/", "'[' without ']'" },
	{ "nbd://[]/", "empty address" },
	{ "nbd://[host]/", "is not an IPv6 address" },
	{ "nbd://[::1]x/", "unexpected text after ']'" },
	{ "x:p?=1", "without a name" },
	{ "x:p?a=1&", "without a name" },
	{ "x:p?&a=1", "without a name" },
	{ "x:p?a=1&a=2", "'a' is given twice" },
	{ "x:p?a=1&%61=2", "'a' is given twice" },
	{ "x:p?0&1&2&3&4&5&6&7&8&9&a&b&c&d&e&f&g", "more than 16 parameters" },
};

static void test_bad(void **state)
{
	struct uri uri, before;
	struct error e;

	(void)state;
	memset(&uri, 0x55, sizeof(uri));
	before = uri;
	for (size_t i = 0; i < ARRAY_SIZE(bads); i++) {
		e = ERROR_INIT;
		if (uri_parse(bads[i].text, &uri, &e) != -EINVAL)
			fail_msg("'%s' was accepted", bads[i].text);
		if (!strstr(e.text, bads[i].message) || e.errnum != EINVAL)
			fail_msg("'%s': '%s', expected '%s'", bads[i].text, e.text, bads[i].message);
	}
	/* Written on success only. */
	assert_memory_equal(&uri, &before, sizeof(uri));
	assert_int_equal(uri_parse("nope", &uri, NULL), -EINVAL);
}

static void test_long(void **state)
{
	char text[URI_TEXT_MAX + 2];
	struct uri uri;
	struct error e = ERROR_INIT;

	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text, "x:", 2);
	text[URI_TEXT_MAX] = '\0';
	assert_int_equal(uri_parse(text, &uri, &e), 0);
	assert_int_equal(strlen(uri.path), URI_TEXT_MAX - 2);
	uri_release(&uri);
	text[URI_TEXT_MAX] = 'a';
	text[URI_TEXT_MAX + 1] = '\0';
	assert_int_equal(uri_parse(text, &uri, &e), -EINVAL);
}

static void test_params(void **state)
{
	static const char *const known[] = { "a", "b", NULL };
	struct uri uri;
	struct error e = ERROR_INIT;

	(void)state;
	assert_int_equal(uri_parse("x:p?b=2&a=1", &uri, &e), 0);
	assert_string_equal(uri_param(&uri, "a"), "1");
	assert_string_equal(uri_param(&uri, "b"), "2");
	assert_null(uri_param(&uri, "c"));
	assert_int_equal(uri_only_params(&uri, known, &e), 0);
	uri_release(&uri);
	uri_release(&uri);

	assert_int_equal(uri_parse("x:p?b=2&c=1", &uri, &e), 0);
	assert_int_equal(uri_only_params(&uri, known, &e), -EINVAL);
	assert_string_equal(e.text, "URI: unknown parameter 'c' for x");
	uri_release(&uri);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_long),
		cmocka_unit_test(test_params),
	};

	return cmocka_run_group_tests_name("uri", tests, NULL, NULL);
}
