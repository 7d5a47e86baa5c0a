// SPDX-License-Identifier: MIT
/*
 * Options that may be changed while the disk is in use.
 *
 * Nearly all are durations, which differ in their range and in what "off" means
 * to the backend; one table has all that.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/parse.h"
#include "base/util.h"
#include "cmd/tunables.h"

#define SECOND		1000u
#define MINUTE		(60 * SECOND)
#define HOUR		(60 * MINUTE)
#define DAY		(24 * HOUR)
#define STOP_MS		500u

/* May it be switched off, and which value says so? */
enum off {
	OFF_NEVER, /* there has to be a limit */
	OFF_IS_ZERO,
	OFF_IS_MAX, /* BACKEND_NEVER */
};

static const struct duration {
	const char *name;
	size_t offset; /* of a uint32_t in struct tunables */
	uint32_t low, high; /* milliseconds */
	enum off off;
} durations[] = {
#define BACKEND(member)	offsetof(struct tunables, backend.member)
	{ "connect-timeout", BACKEND(connect_ms), 10, HOUR, OFF_NEVER },
	{ "handshake-timeout", BACKEND(handshake_ms), 10, HOUR, OFF_NEVER },
	{ "request-timeout", BACKEND(request_ms), 100, DAY, OFF_IS_MAX },
	{ "keep-alive", BACKEND(keepalive_ms), SECOND, DAY, OFF_IS_MAX },
	{ "idle-timeout", BACKEND(idle_ms), SECOND, DAY, OFF_IS_ZERO },
	{ "io-timeout", BACKEND(io_timeout_ms), 100, 7 * DAY, OFF_IS_ZERO },
	{ "reconnect-min", BACKEND(reconnect_min_ms), 1, HOUR, OFF_NEVER },
	{ "reconnect-max", BACKEND(reconnect_max_ms), 1, HOUR, OFF_NEVER },
	{ "fence-timeout", BACKEND(fence_ms), 1, DAY, OFF_NEVER },
	{ "fence-after-close", BACKEND(fence_closed_ms), 1, DAY, OFF_IS_MAX },
	{ "stop-timeout", offsetof(struct tunables, stop_ms), 1, HOUR, OFF_IS_MAX },
#undef BACKEND
};

static const char *const on_exit_names[] = {
	[ON_EXIT_DETACH] = "detach",
	[ON_EXIT_KEEP] = "keep",
};

static const char *const on_shrink_names[] = {
	[ON_SHRINK_ERROR] = "error",
	[ON_SHRINK_READ_ONLY] = "read-only",
};

static const char *const log_level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARNING] = "warning",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

/* The rest: one word of a few. */
static const struct choice {
	const char *name;
	size_t offset; /* of an unsigned int in struct tunables */
	const char *const *words;
	unsigned int n;
} choices[] = {
	{ "on-exit", offsetof(struct tunables, on_exit), on_exit_names, _ON_EXIT_MAX },
	{ "on-shrink", offsetof(struct tunables, on_shrink), on_shrink_names, _ON_SHRINK_MAX },
	{ "log-level", offsetof(struct tunables, log_level), log_level_names, _LOG_LEVEL_MAX },
};

void tunables_init(struct tunables *t)
{
	*t = (struct tunables){
		.stop_ms = STOP_MS,
		.on_exit = ON_EXIT_DETACH,
		.on_shrink = ON_SHRINK_ERROR,
		.log_level = LOG_LEVEL_INFO,
	};
}

const char *tunables_name(unsigned int index)
{
	if (index < ARRAY_SIZE(durations))
		return durations[index].name;
	index -= (unsigned int)ARRAY_SIZE(durations);
	return index < ARRAY_SIZE(choices) ? choices[index].name : NULL;
}

static void format_ms(uint32_t ms, char *text, size_t size)
{
	if (ms % SECOND)
		snprintf(text, size, "%ums", ms);
	else
		snprintf(text, size, "%us", ms / SECOND);
}

static int set_duration(struct tunables *t, const struct duration *d, const char *value,
			struct error *e)
{
	uint32_t *field = (uint32_t *)(void *)((char *)t + d->offset);
	char low[16], high[16];
	uint64_t ms;
	int err;

	if (d->off != OFF_NEVER && (!strcmp(value, "off") || !strcmp(value, "0"))) {
		*field = d->off == OFF_IS_ZERO ? 0 : BACKEND_NEVER;
		return 0;
	}
	err = parse_duration_ms(value, &ms, e);
	if (err == -EINVAL)
		return err_prefix(e, "%s", d->name);
	if (err || ms < d->low || ms > d->high) {
		format_ms(d->low, low, sizeof(low));
		format_ms(d->high, high, sizeof(high));
		return err_set(e, EINVAL, "%s: \"%s\" is not within %s and %s%s", d->name, value,
			       low, high, d->off == OFF_NEVER ? "" : ", nor \"off\"");
	}
	*field = (uint32_t)ms;
	return 0;
}

static int set_choice(struct tunables *t, const struct choice *c, const char *value,
		      struct error *e)
{
	unsigned int *field = (unsigned int *)(void *)((char *)t + c->offset);
	char all[64] = "";
	unsigned int i;
	size_t used = 0;

	for (i = 0; i < c->n; i++) {
		if (!strcmp(value, c->words[i])) {
			*field = i;
			return 0;
		}
		used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%s",
					 !i ? "" : i + 1 < c->n ? ", " : " and ", c->words[i]);
	}
	return err_set(e, EINVAL, "%s: \"%s\" is none of %s", c->name, value, all);
}

int tunables_set(struct tunables *t, const char *name, const char *value, struct error *e)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(durations); i++) {
		if (!strcmp(name, durations[i].name))
			return set_duration(t, &durations[i], value, e);
	}
	for (i = 0; i < ARRAY_SIZE(choices); i++) {
		if (!strcmp(name, choices[i].name))
			return set_choice(t, &choices[i], value, e);
	}
	return err_set(e, ENOENT, "\"%s\" is not an option that can be changed", name);
}

int tunables_check(const struct tunables *t, struct error *e)
{
	/* As backend.h has them. */
	const uint32_t shortest = t->backend.reconnect_min_ms ? t->backend.reconnect_min_ms : 100;
	const uint32_t longest = t->backend.reconnect_max_ms ? t->backend.reconnect_max_ms : 5000;

	if (shortest > longest)
		return err_set(e, EINVAL, "reconnect-min, %u ms, is longer than reconnect-max, %u ms",
			       shortest, longest);
	return 0;
}

static json_t *describe_duration(const struct tunables *t, const struct duration *d)
{
	const uint32_t ms = *(const uint32_t *)(const void *)((const char *)t + d->offset);
	char text[16];

	/* The backend says BACKEND_NEVER for both. */
	if (ms == BACKEND_NEVER || (d->off == OFF_IS_ZERO && !ms))
		return json_string("off");
	format_ms(ms, text, sizeof(text));
	return json_string(text);
}

json_t *tunables_describe(const struct tunables *t, const struct backend_tunables *in_force)
{
	struct tunables all = *t;
	json_t *document = json_object();
	unsigned int i;

	all.backend = *in_force;
	for (i = 0; i < ARRAY_SIZE(durations); i++)
		json_object_set_new(document, durations[i].name,
				    describe_duration(&all, &durations[i]));
	for (i = 0; i < ARRAY_SIZE(choices); i++) {
		const unsigned int value =
			*(const unsigned int *)(const void *)((const char *)&all + choices[i].offset);

		json_object_set_new(document, choices[i].name,
				    json_string(choices[i].words[value]));
	}
	return document;
}
