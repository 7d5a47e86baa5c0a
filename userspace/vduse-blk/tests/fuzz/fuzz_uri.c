// SPDX-License-Identifier: MIT
/*
 * Fuzz target: uri_parse(). What it accepts must be within its promises.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
	if (!ok)
		abort();
}

static void check(const struct uri *uri, size_t size)
{
	size_t sum;

	require(uri->scheme && uri->scheme[0] && uri->host && uri->path);
	sum = strlen(uri->scheme) + strlen(uri->host) + strlen(uri->path);
	if (uri->port) {
		require(atoi(uri->port) >= 1 && atoi(uri->port) <= 65535);
		sum += strlen(uri->port);
	}
	require(uri->nparams <= URI_MAX_PARAMS);
	for (unsigned int i = 0; i < uri->nparams; i++) {
		require(uri->params[i].name[0]);
		require(uri_param(uri, uri->params[i].name) == uri->params[i].value);
		sum += strlen(uri->params[i].name) + strlen(uri->params[i].value);
	}
	/* Decoding never makes anything longer. */
	require(sum < size + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error e = ERROR_INIT;
	char *text = malloc(size + 1);
	struct uri uri;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (!uri_parse(text, &uri, &e)) {
		require(!e.errnum);
		check(&uri, size);
		uri_release(&uri);
	} else {
		require(e.errnum && e.text[0]);
	}
	free(text);
	return 0;
}
