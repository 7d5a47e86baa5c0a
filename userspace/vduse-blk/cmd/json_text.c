// SPDX-License-Identifier: MIT
/*
 * Strings in JSON documents.
 */
#include <string.h>

#include "base/util.h"
#include "cmd/json_text.h"

json_t *json_text(const char *text)
{
	json_t *string = json_string(text);
	auto_free char *copy = string ? NULL : strdup(text);
	char *p;

	if (!copy)
		return string;
	for (p = copy; *p; p++) {
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	}
	return json_string(copy);
}
