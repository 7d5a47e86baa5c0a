// SPDX-License-Identifier: MIT
/*
 * URI splitter.
 *
 * The text is split first and decoded afterwards, as RFC 3986 asks: an encoded
 * delimiter is data. Decoded pieces are never longer than their encoded form,
 * so one allocation of the text's size plus one NUL a piece holds them all.
 */
#include "base/uri.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* A piece of the text that has not been decoded yet. */
struct span {
	const char *p;
	size_t n;
};

/* Where decoded pieces go. */
struct arena {
	char *next;
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int decode(struct arena *arena, struct span in, const char *what, const char **ret,
		  struct error *e)
{
	char *start = arena->next, *out = start;

	for (size_t i = 0; i < in.n; i++) {
		int high, low;

		if (in.p[i] != '%') {
			*out++ = in.p[i];
			continue;
		}
		if (i + 2 >= in.n)
			return err_set(e, EINVAL, "URI: incomplete '%%' sequence in the %s", what);
		high = hex_digit(in.p[i + 1]);
		low = hex_digit(in.p[i + 2]);
		if (high < 0 || low < 0)
			return err_set(e, EINVAL, "URI: '%%%c%c' in the %s is not hexadecimal",
				       in.p[i + 1], in.p[i + 2], what);
		if (!high && !low)
			return err_set(e, EINVAL, "URI: '%%00' in the %s", what);
		*out++ = (char)(high << 4 | low);
		i += 2;
	}
	*out++ = '\0';
	arena->next = out;
	*ret = start;
	return 0;
}

static int check_characters(const char *text, struct error *e)
{
	size_t n = strnlen(text, URI_TEXT_MAX + 1);

	if (!n)
		return err_set(e, EINVAL, "URI: empty");
	if (n > URI_TEXT_MAX)
		return err_set(e, EINVAL, "URI: longer than %d bytes", URI_TEXT_MAX);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c <= ' ' || c == 0x7f)
			return err_set(
				e, EINVAL,
				"URI: space or control character at byte %zu (write it as %%%02X)",
				i, c);
	}
	if (memchr(text, '#', n))
		return err_set(e, EINVAL, "URI: a fragment ('#') has no meaning here");
	return 0;
}

static int split_scheme(const char **text, struct arena *arena, struct uri *uri, struct error *e)
{
	const char *colon = strchr(*text, ':');
	char *out = arena->next;

	if (!colon || colon == *text)
		return err_set(e, EINVAL, "URI: '%s' does not begin with a scheme", *text);
	uri->scheme = out;
	for (const char *p = *text; p < colon; p++) {
		bool first = p == *text;

		if (!isalpha((unsigned char)*p) &&
		    (first || (!isdigit((unsigned char)*p) && !strchr("+-.", *p))))
			return err_set(e, EINVAL, "URI: '%s' does not begin with a scheme", *text);
		*out++ = (char)tolower((unsigned char)*p);
	}
	*out++ = '\0';
	arena->next = out;
	*text = colon + 1;
	return 0;
}

static int split_port(struct span port, struct arena *arena, struct uri *uri, struct error *e)
{
	unsigned int value = 0;

	/* "host:" with nothing behind the colon means the default port. */
	if (!port.n)
		return 0;
	for (size_t i = 0; i < port.n; i++) {
		if (port.p[i] < '0' || port.p[i] > '9')
			return err_set(e, EINVAL, "URI: port '%.*s' is not a number", (int)port.n,
				       port.p);
		value = value * 10 + (unsigned int)(port.p[i] - '0');
		if (value > 65535)
			break;
	}
	if (value < 1 || value > 65535)
		return err_set(e, EINVAL, "URI: port '%.*s' is not in 1...65535", (int)port.n,
			       port.p);
	uri->port = arena->next;
	arena->next += sprintf(arena->next, "%u", value) + 1;
	return 0;
}

static int split_ipv6(struct span authority, struct span *ret_host, struct span *ret_port,
		      struct error *e)
{
	const char *end = authority.p + authority.n;
	const char *close = memchr(authority.p, ']', authority.n);

	if (!close)
		return err_set(e, EINVAL, "URI: '[' without ']' in the host");
	if (close + 1 < end && close[1] != ':')
		return err_set(e, EINVAL, "URI: unexpected text after ']'");

	*ret_host = (struct span){ authority.p + 1, (size_t)(close - authority.p - 1) };
	if (!ret_host->n)
		return err_set(e, EINVAL, "URI: empty address in brackets");
	for (size_t i = 0; i < ret_host->n; i++) {
		char c = ret_host->p[i];

		/* "%25eth0" names the interface of a link-local address. */
		if (c == '%')
			break;
		if (hex_digit(c) < 0 && c != ':' && c != '.')
			return err_set(e, EINVAL, "URI: '%.*s' is not an IPv6 address",
				       (int)ret_host->n, ret_host->p);
	}
	*ret_port = (struct span){ end, 0 };
	if (close + 1 < end)
		*ret_port = (struct span){ close + 2, (size_t)(end - close - 2) };
	return 0;
}

static int split_authority(const char **text, struct arena *arena, struct uri *uri, struct error *e)
{
	size_t n = strcspn(*text + 2, "/?");
	struct span authority = { *text + 2, n };
	struct span host, port = { NULL, 0 };
	const char *colon;
	int ret;

	*text += 2 + n;
	uri->has_authority = true;
	if (memchr(authority.p, '@', n))
		return err_set(e, EINVAL, "URI: user names are not supported");

	if (n && authority.p[0] == '[') {
		uri->host_is_ipv6 = true;
		ret = split_ipv6(authority, &host, &port, e);
		if (ret < 0)
			return ret;
	} else {
		host = authority;
		colon = memchr(authority.p, ':', n);
		if (colon) {
			host.n = (size_t)(colon - authority.p);
			port = (struct span){ colon + 1, n - host.n - 1 };
			if (!host.n)
				return err_set(e, EINVAL, "URI: port without a host");
			if (memchr(port.p, ':', port.n))
				return err_set(e, EINVAL, "URI: an IPv6 address goes in brackets");
		}
	}
	ret = decode(arena, host, "host", &uri->host, e);
	if (ret < 0)
		return ret;
	return split_port(port, arena, uri, e);
}

static int add_param(struct span item, struct arena *arena, struct uri *uri, struct error *e)
{
	const char *equals = memchr(item.p, '=', item.n);
	struct span name = item, value = { item.p + item.n, 0 };
	struct uri_param *param;
	int ret;

	if (uri->nparams == URI_MAX_PARAMS)
		return err_set(e, EINVAL, "URI: more than %d parameters", URI_MAX_PARAMS);
	if (equals) {
		name.n = (size_t)(equals - item.p);
		value = (struct span){ equals + 1, item.n - name.n - 1 };
	}
	if (!name.n)
		return err_set(e, EINVAL, "URI: parameter without a name");

	param = &uri->params[uri->nparams];
	ret = decode(arena, name, "query", &param->name, e);
	if (ret < 0)
		return ret;
	ret = decode(arena, value, "query", &param->value, e);
	if (ret < 0)
		return ret;
	if (uri_param(uri, param->name))
		return err_set(e, EINVAL, "URI: parameter '%s' is given twice", param->name);
	uri->nparams++;
	return 0;
}

static int split_query(const char *text, struct arena *arena, struct uri *uri, struct error *e)
{
	if (!*text)
		return 0;
	for (;;) {
		size_t n = strcspn(text, "&");
		int ret;

		ret = add_param((struct span){ text, n }, arena, uri, e);
		if (ret < 0)
			return ret;
		if (!text[n])
			return 0;
		text += n + 1;
	}
}

static int split(const char *text, struct arena *arena, struct uri *uri, struct error *e)
{
	struct span path;
	int ret;

	ret = split_scheme(&text, arena, uri, e);
	if (ret < 0)
		return ret;
	if (!strncmp(text, "//", 2)) {
		ret = split_authority(&text, arena, uri, e);
		if (ret < 0)
			return ret;
	}
	path = (struct span){ text, strcspn(text, "?") };
	ret = decode(arena, path, "path", &uri->path, e);
	if (ret < 0)
		return ret;
	text += path.n;
	return *text ? split_query(text + 1, arena, uri, e) : 0;
}

int uri_parse(const char *text, struct uri *ret_uri, struct error *e)
{
	struct uri uri = { .host = "" };
	struct arena arena;
	int ret;

	ret = check_characters(text, e);
	if (ret < 0)
		return ret;

	/* One NUL each for scheme, host, port, path, and the two halves of each parameter. */
	uri.storage = malloc(strlen(text) + 4 + 2 * (URI_MAX_PARAMS + 1));
	if (!uri.storage)
		return err_set(e, ENOMEM, "URI: out of memory");
	arena.next = uri.storage;

	ret = split(text, &arena, &uri, e);
	if (ret < 0) {
		free(uri.storage);
		return ret;
	}
	*ret_uri = uri;
	return 0;
}

void uri_release(struct uri *uri)
{
	free(uri->storage);
	uri->storage = NULL;
}

const char *uri_param(const struct uri *uri, const char *name)
{
	for (unsigned int i = 0; i < uri->nparams; i++)
		if (!strcmp(uri->params[i].name, name))
			return uri->params[i].value;
	return NULL;
}

int uri_only_params(const struct uri *uri, const char *const *known, struct error *e)
{
	for (unsigned int i = 0; i < uri->nparams; i++) {
		const char *const *k = known;

		while (*k && strcmp(*k, uri->params[i].name))
			k++;
		if (!*k)
			return err_set(e, EINVAL, "URI: unknown parameter '%s' for %s",
				       uri->params[i].name, uri->scheme);
	}
	return 0;
}
