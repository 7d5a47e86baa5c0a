/* SPDX-License-Identifier: MIT */
/*
 * Splits a URI (RFC 3986) into decoded pieces.
 *
 *	scheme://host:port/path?name=value&name=value
 *	scheme:path
 *
 * The text comes from outside: every piece is validated here, once. What a
 * scheme makes of the pieces is the business of its backend.
 */
#ifndef BASE_URI_H
#define BASE_URI_H

#include "base/error.h"

#define URI_TEXT_MAX   4096
#define URI_MAX_PARAMS 16

struct uri_param {
	const char *name;
	const char *value;
};

/* All strings are NUL-terminated, percent-decoded, and live as long as the struct. */
struct uri {
	const char *scheme; /* lower case */
	bool has_authority; /* "//" was there, even if nothing followed it */
	const char *host;   /* without the brackets of an IPv6 literal; "" if none */
	bool host_is_ipv6;  /* was in brackets */
	const char *port;   /* decimal digits, 1-65535; NULL if none */
	const char *path;   /* with its leading slash if it has one; may be "" */
	unsigned int nparams;
	struct uri_param params[URI_MAX_PARAMS];
	char *storage; /* private: what the strings point into */
};

/**
 * uri_parse() - split and validate
 * @text: NUL-terminated URI
 * @ret_uri: written only on success; release it with uri_release()
 * @e: error text
 *
 * Refused: no scheme, text longer than URI_TEXT_MAX, control characters or
 * spaces, bad percent sequences, an encoded NUL, user information, fragments,
 * bad ports, too many parameters, a parameter given twice.
 *
 * Return: 0, -EINVAL, or -ENOMEM.
 */
int uri_parse(const char *text, struct uri *ret_uri, struct error *e);

/**
 * uri_release() - free what uri_parse() allocated
 * @uri: parsed URI, or zeroed memory
 */
void uri_release(struct uri *uri);

/**
 * uri_param() - value of a query parameter
 * @uri: parsed URI
 * @name: decoded name
 *
 * Return: decoded value ("" when it has none), or NULL if it is absent.
 */
const char *uri_param(const struct uri *uri, const char *name);

/**
 * uri_only_params() - refuse query parameters that nobody knows
 * @uri: parsed URI
 * @known: NULL-terminated list of names
 * @e: error text
 *
 * Return: 0 or -EINVAL.
 */
int uri_only_params(const struct uri *uri, const char *const *known, struct error *e);

#endif
