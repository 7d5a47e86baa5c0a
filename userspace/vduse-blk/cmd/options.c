// SPDX-License-Identifier: MIT
/*
 * Options of the commands.
 *
 * Every value is checked where it is set, so that an error names the option in
 * the user's words; what depends on two options is checked at the end. Nothing
 * here knows what an option is for.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "base/parse.h"
#include "base/util.h"
#include "cmd/options.h"

static const char *const bind_names[] = {
	[BIND_VIRTIO] = "virtio",
	[BIND_VHOST] = "vhost",
	[BIND_NONE] = "none",
};

static const char *const transport_names[] = {
	[TRANSPORT_VDUSE] = "vduse",
	[TRANSPORT_VHOST_USER] = "vhost-user",
};

const char *transport_kind_name(enum transport_kind transport)
{
	return transport_names[transport];
}

const char *bind_target_name(enum bind_target bind)
{
	return bind_names[bind];
}

/* Values */

static int parse_number(const char *name, const char *text, unsigned long lowest,
			unsigned long highest, unsigned long *ret_number, struct error *e)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = isdigit((unsigned char)text[0]) ? strtoul(text, &end, 10) : 0;
	if (!isdigit((unsigned char)text[0]) || *end || errno || number < lowest ||
	    number > highest)
		return err_set(e, EINVAL, "%s: \"%s\" is not a number from %lu to %lu", name, text,
			       lowest, highest);
	*ret_number = number;
	return 0;
}

static int parse_bool(const char *name, const char *text, bool *ret_bool, struct error *e)
{
	static const char *const yes[] = { "on", "yes", "true", "1" };
	static const char *const no[] = { "off", "no", "false", "0" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(yes); i++) {
		if (!strcmp(text, yes[i]) || !strcmp(text, no[i])) {
			*ret_bool = !strcmp(text, yes[i]);
			return 0;
		}
	}
	return err_set(e, EINVAL, "%s: \"%s\" is neither \"on\" nor \"off\"", name, text);
}

/*
 * The name becomes a file name in /dev, /run and sysfs and an argument of other
 * programs, so it is kept to characters that mean nothing to any of them.
 */
static int parse_name(const char *text, char ret_name[OPTION_NAME_MAX + 1], struct error *e)
{
	const size_t len = strlen(text);
	size_t i;

	if (!len || len > OPTION_NAME_MAX)
		return err_set(e, EINVAL, "name: \"%s\" is not 1 to %d characters long", text,
			       OPTION_NAME_MAX);
	for (i = 0; i < len; i++) {
		if (!isalnum((unsigned char)text[i]) && !strchr(i ? "._-" : "_", text[i]))
			return err_set(e, EINVAL,
				       "name: \"%s\" may have letters, digits and \"._-\" and must not begin with \".\" or \"-\"",
				       text);
	}
	/* The kernel's own node in the same folder. */
	if (!strcmp(text, "control"))
		return err_set(e, EINVAL, "name: \"control\" is the control device of VDUSE");
	memcpy(ret_name, text, len + 1);
	return 0;
}

static int replace_string(char **string, const char *value, struct error *e)
{
	char *copy = strdup(value);

	if (!copy)
		return err_set(e, ENOMEM, "out of memory");
	free(*string);
	*string = copy;
	return 0;
}

/* One setter an option; @value is never NULL. */

static int set_name(struct serve_options *o, const char *value, struct error *e)
{
	return parse_name(value, o->name, e);
}

static int set_uri(struct serve_options *o, const char *value, struct error *e)
{
	if (!value[0])
		return err_set(e, EINVAL, "uri: must not be empty");
	return replace_string(&o->uri, value, e);
}

static int set_queues(struct serve_options *o, const char *value, struct error *e)
{
	unsigned long number;
	int err = parse_number("queues", value, 1, OPTION_QUEUES_MAX, &number, e);

	if (!err)
		o->queues = (unsigned int)number;
	return err;
}

static int set_queue_size(struct serve_options *o, const char *value, struct error *e)
{
	unsigned long number;
	int err = parse_number("queue-size", value, OPTION_QUEUE_SIZE_MIN, OPTION_QUEUE_SIZE_MAX,
			       &number, e);

	if (err)
		return err;
	if (!is_power_of_2(number))
		return err_set(e, EINVAL, "queue-size: %lu is not a power of two", number);
	o->queue_size = (unsigned int)number;
	return 0;
}

static int set_packed(struct serve_options *o, const char *value, struct error *e)
{
	return parse_bool("packed", value, &o->packed, e);
}

static int set_bind(struct serve_options *o, const char *value, struct error *e)
{
	unsigned int i;

	for (i = 0; i < _BIND_TARGET_MAX; i++) {
		if (!strcmp(value, bind_names[i])) {
			o->bind = (enum bind_target)i;
			return 0;
		}
	}
	return err_set(e, EINVAL, "bind: \"%s\" is none of virtio, vhost and none", value);
}

static int set_transport(struct serve_options *o, const char *value, struct error *e)
{
	unsigned int i;

	for (i = 0; i < _TRANSPORT_KIND_MAX; i++) {
		if (!strcmp(value, transport_names[i])) {
			o->transport = (enum transport_kind)i;
			return 0;
		}
	}
	return err_set(e, EINVAL, "transport: \"%s\" is neither vduse nor vhost-user", value);
}

static int set_socket(struct serve_options *o, const char *value, struct error *e)
{
	const size_t longest = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

	if (!value[0] || strlen(value) > longest)
		return err_set(e, EINVAL, "socket: \"%s\" is not 1 to %zu bytes long", value,
			       longest);
	return replace_string(&o->socket, value, e);
}

static int set_read_only(struct serve_options *o, const char *value, struct error *e)
{
	return parse_bool("read-only", value, &o->read_only, e);
}

static int set_serial(struct serve_options *o, const char *value, struct error *e)
{
	const size_t len = strlen(value);
	size_t i;

	if (len > OPTION_SERIAL_MAX)
		return err_set(e, EINVAL, "serial: \"%s\" is longer than %d characters", value,
			       OPTION_SERIAL_MAX);
	for (i = 0; i < len; i++) {
		if (value[i] <= ' ' || value[i] > '~')
			return err_set(e, EINVAL,
				       "serial: may have printable ASCII characters without spaces only");
	}
	memcpy(o->serial, value, len + 1);
	return 0;
}

static int set_user(struct serve_options *o, const char *value, struct error *e)
{
	if (!value[0])
		return err_set(e, EINVAL, "user: must not be empty");
	return replace_string(&o->user, value, e);
}

static int set_control_group(struct serve_options *o, const char *value, struct error *e)
{
	if (!value[0])
		return err_set(e, EINVAL, "control-group: must not be empty");
	return replace_string(&o->control_group, value, e);
}

static int set_replay_log(struct serve_options *o, const char *value, struct error *e)
{
	uint64_t size = 0;
	int err = 0;

	if (strcmp(value, "off") && strcmp(value, "0"))
		err = parse_size(value, &size, e);
	if (err)
		return err_prefix(e, "replay-log");
	if (size && (size < OPTION_REPLAY_LOG_MIN || size > OPTION_REPLAY_LOG_MAX))
		return err_set(e, EINVAL, "replay-log: \"%s\" is not within 1M and 1G, nor \"off\"",
			       value);
	o->replay_log = (uint32_t)size;
	return 0;
}

static int set_block_size(struct serve_options *o, const char *value, struct error *e)
{
	unsigned long number;
	int err = parse_number("block-size", value, 512, 4096, &number, e);

	if (err)
		return err;
	if (!is_power_of_2(number))
		return err_set(e, EINVAL, "block-size: %lu is not a power of two", number);
	o->block_size = (uint32_t)number;
	return 0;
}

static const struct {
	const char *name;
	bool is_switch; /* may come without a value, which means "on" */
	int (*set)(struct serve_options *o, const char *value, struct error *e);
} serve_table[] = {
	{ "name", false, set_name },
	{ "uri", false, set_uri },
	{ "queues", false, set_queues },
	{ "queue-size", false, set_queue_size },
	{ "packed", false, set_packed },
	{ "transport", false, set_transport },
	{ "socket", false, set_socket },
	{ "bind", false, set_bind },
	{ "read-only", true, set_read_only },
	{ "serial", false, set_serial },
	{ "user", false, set_user },
	{ "block-size", false, set_block_size },
	{ "control-group", false, set_control_group },
	{ "replay-log", false, set_replay_log },
};

void serve_options_init(struct serve_options *o)
{
	*o = (struct serve_options) {
		.queues = 1,
		.queue_size = 256,
		.bind = BIND_VIRTIO,
		.replay_log = BACKEND_REPLAY_LOG_DEFAULT,
		.take_over = -1,
	};
	tunables_init(&o->tunables);
}

void serve_options_release(struct serve_options *o)
{
	free(o->uri);
	free(o->user);
	free(o->control_group);
	free(o->socket);
	o->uri = NULL;
	o->user = NULL;
	o->control_group = NULL;
	o->socket = NULL;
}

int serve_options_set(struct serve_options *o, const char *name, const char *value,
		      struct error *e)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(serve_table); i++) {
		if (strcmp(name, serve_table[i].name))
			continue;
		if (!value && !serve_table[i].is_switch)
			return err_set(e, EINVAL, "%s: needs a value", name);
		return serve_table[i].set(o, value ? value : "on", e);
	}
	for (i = 0; tunables_name(i); i++) {
		if (strcmp(name, tunables_name(i)))
			continue;
		if (!value)
			return err_set(e, EINVAL, "%s: needs a value", name);
		return tunables_set(&o->tunables, name, value, e);
	}
	return err_set(e, ENOENT, "unknown option \"%s\"", name);
}

/* Configuration file */

struct ini_context {
	struct serve_options *options;
	struct error *e;
	int err;
};

static int ini_line(void *opaque, const char *section, const char *name, const char *value)
{
	struct ini_context *ctx = opaque;

	if (section[0] && strcmp(section, "serve"))
		ctx->err = err_set(ctx->e, EINVAL, "unknown section [%s]", section);
	else
		ctx->err = serve_options_set(ctx->options, name, value, ctx->e);
	return !ctx->err;
}

int serve_options_read_file(struct serve_options *o, const char *path, struct error *e)
{
	struct ini_context ctx = { .options = o, .e = e };
	FILE *file = fopen(path, "re");
	int line;

	if (!file)
		return err_set_errno(e, errno, "open %s", path);
	line = ini_parse_file(file, ini_line, &ctx);
	fclose(file);
	if (ctx.err)
		return err_prefix(e, "%s, line %d", path, line);
	if (line > 0)
		return err_set(e, EINVAL, "%s, line %d: expected \"name = value\"", path, line);
	if (line < 0)
		return err_set(e, EIO, "read %s", path);
	return 0;
}

/* Command line */

enum {
	OPT_HELP = 'h',
	OPT_CONFIG = 256,
	OPT_JSON,
	OPT_KEEP,
	OPT_BINARY,
	OPT_MAX_STALL,
	OPT_TABLE, /* this and up: option_name() */
};

/* With --config, --help and the end of the table. */
#define OPTIONS_MAX 64

static const char *option_name(unsigned int index)
{
	if (index < ARRAY_SIZE(serve_table))
		return serve_table[index].name;
	return tunables_name(index - (unsigned int)ARRAY_SIZE(serve_table));
}

/* Not in the table: neither users nor configuration files may set it. */
static int set_take_over(struct serve_options *o, const char *value, struct error *e)
{
	unsigned long number;
	int err = parse_number("take-over", value, 3, 1u << 20, &number, e);

	if (!err)
		o->take_over = (int)number;
	return err;
}

static int unknown_option(char **argv, const struct option *longs, struct error *e)
{
	const char *text = argv[optind - 1];
	unsigned int i;

	/* getopt does not say which of its complaints it was. */
	for (i = 0; longs[i].name; i++) {
		if (!strncmp(text, "--", 2) && !strcmp(text + 2, longs[i].name))
			return err_set(e, EINVAL, "option %s needs a value", text);
	}
	return err_set(e, EINVAL, "unknown or incomplete option \"%s\"", text);
}

static int check_transport(struct serve_options *o, struct error *e)
{
	if (o->transport == TRANSPORT_VDUSE) {
		if (o->socket)
			return err_set(e, EINVAL, "option --socket needs --transport vhost-user");
		return 0;
	}
	if (!o->socket)
		return err_set(e, EINVAL, "option --socket is required with --transport vhost-user");
	if (o->bind == BIND_VHOST)
		return err_set(e, EINVAL, "option --bind needs --transport vduse");
	o->bind = BIND_NONE;
	return 0;
}

static int check_complete(struct serve_options *o, struct error *e)
{
	int err;

	if (!o->name[0])
		return err_set(e, EINVAL, "option --name is required");
	if (!o->uri)
		return err_set(e, EINVAL, "option --uri is required");
	err = check_transport(o, e);
	if (err)
		return err;
	return tunables_check(&o->tunables, e);
}

/*
 * Two passes, because the file comes first in effect and anywhere in order: one
 * for --config and --help, one for the values.
 */
static int parse_pass(int argc, char **argv, const struct option *longs, struct serve_options *o,
		      bool values, bool *ret_help, struct error *e)
{
	int c, err = 0;

	optind = 0; /* GNU: start over */
	while (!err && !*ret_help && (c = getopt_long(argc, argv, "+:h", longs, NULL)) != -1) {
		if (c == OPT_HELP)
			*ret_help = true;
		else if (c == OPT_CONFIG && !values)
			err = serve_options_read_file(o, optarg, e);
		else if (c >= OPT_TABLE && values)
			err = serve_options_set(o, option_name((unsigned int)c - OPT_TABLE), optarg,
						e);
		else if (c == '?' || c == ':')
			err = unknown_option(argv, longs, e);
	}
	if (!err && !*ret_help && optind < argc)
		err = err_set(e, EINVAL, "unexpected argument \"%s\"", argv[optind]);
	return err;
}

int serve_options_parse(int argc, char **argv, struct serve_options *o, bool *ret_help,
			struct error *e)
{
	struct option longs[OPTIONS_MAX] = { { 0 } };
	unsigned int i;
	int err;

	for (i = 0; option_name(i) && i < OPTIONS_MAX - 3; i++) {
		longs[i].name = option_name(i);
		longs[i].has_arg = i < ARRAY_SIZE(serve_table) && serve_table[i].is_switch ?
				   optional_argument : required_argument;
		longs[i].val = OPT_TABLE + (int)i;
	}
	longs[i++] = (struct option) { "config", required_argument, NULL, OPT_CONFIG };
	longs[i] = (struct option) { "help", no_argument, NULL, OPT_HELP };

	opterr = 0;
	*ret_help = false;
	if (argc > 1 && !strncmp(argv[1], OPTION_TAKE_OVER, strlen(OPTION_TAKE_OVER))) {
		err = set_take_over(o, argv[1] + strlen(OPTION_TAKE_OVER), e);
		if (err)
			return err;
		argc--;
		argv++;
	}
	err = parse_pass(argc, argv, longs, o, false, ret_help, e);
	if (!err && !*ret_help)
		err = parse_pass(argc, argv, longs, o, true, ret_help, e);
	if (!err && !*ret_help)
		err = check_complete(o, e);
	return err;
}

static int take_settings(int argc, char **argv, struct query_options *options, struct error *e)
{
	int i;

	if (optind == argc)
		return err_set(e, EINVAL, "which option? OPTION=VALUE is missing");
	for (i = optind; i < argc; i++) {
		const char *equals = strchr(argv[i], '=');

		if (!equals || equals == argv[i])
			return err_set(e, EINVAL, "\"%s\" is not OPTION=VALUE", argv[i]);
	}
	options->settings = argv + optind;
	options->nsettings = (unsigned int)(argc - optind);
	optind = argc;
	return 0;
}

int query_options_parse(int argc, char **argv, unsigned int takes,
			struct query_options *ret_options, bool *ret_help, struct error *e)
{
	struct option longs[6] = { { "help", no_argument, NULL, OPT_HELP } };
	struct query_options options = { 0 };
	int c, n = 1, err = 0;

	if (takes & QUERY_JSON)
		longs[n++] = (struct option) { "json", no_argument, NULL, OPT_JSON };
	if (takes & QUERY_KEEP)
		longs[n++] = (struct option) { "keep", no_argument, NULL, OPT_KEEP };
	if (takes & QUERY_UPGRADE) {
		longs[n++] = (struct option) { "binary", required_argument, NULL, OPT_BINARY };
		longs[n++] = (struct option) { "max-stall", required_argument, NULL,
					       OPT_MAX_STALL };
	}
	opterr = 0;
	optind = 0;
	*ret_help = false;
	while ((c = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (c == OPT_HELP) {
			*ret_help = true;
			return 0;
		}
		if (c == '?' || c == ':')
			return unknown_option(argv, longs, e);
		options.json |= c == OPT_JSON;
		options.keep |= c == OPT_KEEP;
		if (c == OPT_BINARY)
			options.binary = optarg;
		else if (c == OPT_MAX_STALL)
			options.max_stall = optarg;
	}
	if (takes & QUERY_NAME && optind == argc)
		return err_set(e, EINVAL, "which device? The name is missing");
	if (takes & QUERY_NAME)
		err = parse_name(argv[optind++], options.name, e);
	if (!err && takes & QUERY_SETTINGS)
		err = take_settings(argc, argv, &options, e);
	if (!err && optind < argc)
		err = err_set(e, EINVAL, "unexpected argument \"%s\"", argv[optind]);
	if (!err)
		*ret_options = options;
	return err;
}
