// SPDX-License-Identifier: MIT
/*
 * NBD protocol, client side, handshake: fixed newstyle.
 *
 *	GREETING	-> client flags, NBD_OPT_STRUCTURED_REPLY
 *	REPLY_HEADER	<- ACK or an error, both are fine
 *			-> NBD_OPT_GO, asking for NBD_INFO_BLOCK_SIZE
 *	REPLY_HEADER,	<- any number of INFO, then ACK: DONE
 *	REPLY_PAYLOAD	<- ERR_UNSUP -> NBD_OPT_EXPORT_NAME
 *	EXPORT_REPLY	<- size and flags: DONE
 *
 * Each state collects an element of a known size in h->in and then looks at
 * it as a whole. An error that the server reports in due form is answered by
 * NBD_OPT_ABORT, as the protocol asks; after a violation the connection is
 * just closed.
 */
#include "backend/nbd_proto.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/bigendian.h"

#define INIT_MAGIC		0x4e42444d41474943ull /* NBDMAGIC */
#define OPTION_MAGIC		0x49484156454f5054ull /* IHAVEOPT */
#define OLDSTYLE_MAGIC		0x0000420281861253ull
#define REPLY_MAGIC		0x0003e889045565a9ull

#define HS_FLAG_FIXED_NEWSTYLE	(1u << 0)
#define HS_FLAG_NO_ZEROES	(1u << 1)

#define OPT_EXPORT_NAME		1u
#define OPT_ABORT		2u
#define OPT_GO			7u
#define OPT_STRUCTURED_REPLY	8u

#define REP_ACK			1u
#define REP_INFO		3u
#define REP_ERR_BIT		(1u << 31)
#define REP_ERR_UNSUP		(REP_ERR_BIT + 1)
#define REP_ERR_POLICY		(REP_ERR_BIT + 2)
#define REP_ERR_INVALID		(REP_ERR_BIT + 3)
#define REP_ERR_PLATFORM	(REP_ERR_BIT + 4)
#define REP_ERR_TLS_REQD	(REP_ERR_BIT + 5)
#define REP_ERR_UNKNOWN		(REP_ERR_BIT + 6)
#define REP_ERR_SHUTDOWN	(REP_ERR_BIT + 7)
#define REP_ERR_BLOCK_SIZE_REQD (REP_ERR_BIT + 8)

#define INFO_EXPORT		0u
#define INFO_BLOCK_SIZE		3u

#define GREETING_SIZE		18
#define REPLY_HEADER_SIZE	20
#define EXPORT_REPLY_SIZE	10
#define EXPORT_REPLY_ZEROES	124

/* Without a word from the server: what the protocol calls safe. */
#define DEFAULT_MIN_BLOCK	512
#define DEFAULT_PREFERRED_BLOCK 4096
#define DEFAULT_MAX_BLOCK	(32u << 20)

#define LARGEST_MIN_BLOCK	65536

/* --- output --- */

static void put_bytes(struct nbd_handshake *h, const void *p, size_t n)
{
	memcpy(h->out + h->out_len, p, n);
	h->out_len += n;
}

static void put16(struct nbd_handshake *h, uint16_t v)
{
	v = htobe16(v);
	put_bytes(h, &v, sizeof(v));
}

static void put32(struct nbd_handshake *h, uint32_t v)
{
	v = htobe32(v);
	put_bytes(h, &v, sizeof(v));
}

static void put64(struct nbd_handshake *h, uint64_t v)
{
	v = htobe64(v);
	put_bytes(h, &v, sizeof(v));
}

static void put_option(struct nbd_handshake *h, uint32_t option, size_t length)
{
	put64(h, OPTION_MAGIC);
	put32(h, option);
	put32(h, (uint32_t)length);
	h->option = option;
}

static void expect(struct nbd_handshake *h, enum nbd_handshake_state state, uint32_t need)
{
	h->state = state;
	h->need = need;
	h->have = 0;
}

static enum nbd_handshake_result ask_go(struct nbd_handshake *h)
{
	size_t n = strlen(h->export_name);

	put_option(h, OPT_GO, 4 + n + 2 + 2);
	put32(h, (uint32_t)n);
	put_bytes(h, h->export_name, n);
	put16(h, 1);
	put16(h, INFO_BLOCK_SIZE);
	expect(h, NBD_HS_REPLY_HEADER, REPLY_HEADER_SIZE);
	return NBD_HANDSHAKE_SEND;
}

static enum nbd_handshake_result ask_export_name(struct nbd_handshake *h)
{
	size_t n = strlen(h->export_name);

	put_option(h, OPT_EXPORT_NAME, n);
	put_bytes(h, h->export_name, n);
	expect(h, NBD_HS_EXPORT_REPLY, EXPORT_REPLY_SIZE + (h->no_zeroes ? 0 : EXPORT_REPLY_ZEROES));
	return NBD_HANDSHAKE_SEND;
}

/* --- the end --- */

/* After a violation. The caller has set the text. */
static enum nbd_handshake_result broken(struct nbd_handshake *h)
{
	h->state = NBD_HS_FAILED;
	h->out_len = 0;
	return NBD_HANDSHAKE_FAILED;
}

/* After an error in due form. */
static enum nbd_handshake_result give_up(struct nbd_handshake *h)
{
	h->out_len = 0;
	put_option(h, OPT_ABORT, 0);
	h->state = NBD_HS_FAILED;
	return NBD_HANDSHAKE_FAILED;
}

static enum nbd_handshake_result finish(struct nbd_handshake *h, struct error *e)
{
	if (h->export.size > INT64_MAX) {
		err_set(e, EPROTO, "server announces an impossible size");
		return broken(h);
	}
	/* The bit that says that the others mean something. */
	if (!(h->export.flags & NBD_FLAG_HAS_FLAGS))
		h->export.flags = 0;
	h->state = NBD_HS_DONE;
	return NBD_HANDSHAKE_DONE;
}

/* --- input --- */

static enum nbd_handshake_result greeting(struct nbd_handshake *h, struct error *e)
{
	uint64_t magic = get_be64(h->in);
	uint64_t style = get_be64(h->in + 8);
	uint16_t flags = get_be16(h->in + 16);

	if (magic != INIT_MAGIC) {
		err_set(e, EPROTO, "wrong magic 0x%016llx: this is no NBD server",
			(unsigned long long)magic);
		return broken(h);
	}
	if (style == OLDSTYLE_MAGIC) {
		err_set(e, ENOTSUP, "server speaks the oldstyle protocol, newstyle is needed");
		return broken(h);
	}
	if (style != OPTION_MAGIC) {
		err_set(e, EPROTO, "wrong magic 0x%016llx after the greeting",
			(unsigned long long)style);
		return broken(h);
	}
	if (!(flags & HS_FLAG_FIXED_NEWSTYLE)) {
		err_set(e, ENOTSUP, "server does not speak the fixed newstyle protocol");
		return broken(h);
	}
	h->no_zeroes = flags & HS_FLAG_NO_ZEROES;
	put32(h, HS_FLAG_FIXED_NEWSTYLE | (h->no_zeroes ? HS_FLAG_NO_ZEROES : 0));
	put_option(h, OPT_STRUCTURED_REPLY, 0);
	expect(h, NBD_HS_REPLY_HEADER, REPLY_HEADER_SIZE);
	return NBD_HANDSHAKE_SEND;
}

static enum nbd_handshake_result reply_header(struct nbd_handshake *h, struct error *e)
{
	uint64_t magic = get_be64(h->in);
	uint32_t option = get_be32(h->in + 8);
	uint32_t length = get_be32(h->in + 16);

	h->reply_type = get_be32(h->in + 12);
	if (magic != REPLY_MAGIC) {
		err_set(e, EPROTO, "wrong magic 0x%016llx in an option reply",
			(unsigned long long)magic);
		return broken(h);
	}
	if (option != h->option) {
		err_set(e, EPROTO, "server answers option %u, asked was option %u", option,
			h->option);
		return broken(h);
	}
	if (length > sizeof(h->in)) {
		err_set(e, EPROTO, "option reply is too long (%u bytes)", length);
		return broken(h);
	}
	expect(h, NBD_HS_REPLY_PAYLOAD, length);
	return NBD_HANDSHAKE_MORE;
}

static int check_block_sizes(const struct nbd_export *x, struct error *e)
{
	if (!is_power_of_2(x->min_block) || x->min_block > LARGEST_MIN_BLOCK)
		return err_set(e, EPROTO, "server announces a minimum block size of %u",
			       x->min_block);
	if (!is_power_of_2(x->preferred_block) || x->preferred_block < x->min_block)
		return err_set(e, EPROTO,
			       "server announces a preferred block size of %u (minimum %u)",
			       x->preferred_block, x->min_block);
	if (x->max_block < x->min_block ||
	    (x->max_block != UINT32_MAX && x->max_block % x->min_block))
		return err_set(e, EPROTO,
			       "server announces a maximum block size of %u (minimum %u)",
			       x->max_block, x->min_block);
	return 0;
}

static int info(struct nbd_handshake *h, struct error *e)
{
	struct nbd_export *x = &h->export;
	uint16_t type;

	if (h->need < 2)
		return err_set(e, EPROTO, "information reply is too short");
	type = get_be16(h->in);
	if (type == INFO_EXPORT) {
		if (h->need != 12)
			return err_set(e, EPROTO, "export information has %u bytes instead of 12",
				       h->need);
		x->size = get_be64(h->in + 2);
		x->flags = get_be16(h->in + 10);
		h->have_export_info = true;
	} else if (type == INFO_BLOCK_SIZE) {
		if (h->need != 14)
			return err_set(e, EPROTO,
				       "block size information has %u bytes instead of 14",
				       h->need);
		x->min_block = get_be32(h->in + 2);
		x->preferred_block = get_be32(h->in + 6);
		x->max_block = get_be32(h->in + 10);
		x->block_sizes_given = true;
		return check_block_sizes(x, e);
	}
	/* Others were not asked for, but servers may send them. */
	return 0;
}

static enum nbd_handshake_result refused(struct nbd_handshake *h, struct error *e)
{
	int len = (int)min(h->need, 200u);
	const char *colon = len ? ": " : "";
	const char *text = (const char *)h->in;

	switch (h->reply_type) {
	case REP_ERR_UNKNOWN:
		err_set(e, ENOENT, "server has no export '%s'%s%.*s", h->export_name, colon, len,
			text);
		break;
	case REP_ERR_POLICY:
		err_set(e, EACCES, "server does not allow export '%s'%s%.*s", h->export_name, colon,
			len, text);
		break;
	case REP_ERR_TLS_REQD:
		err_set(e, ENOTSUP, "server insists on TLS, which is not supported%s%.*s", colon,
			len, text);
		break;
	case REP_ERR_SHUTDOWN:
		err_set(e, ESHUTDOWN, "server is shutting down%s%.*s", colon, len, text);
		break;
	case REP_ERR_PLATFORM:
	case REP_ERR_INVALID:
	case REP_ERR_BLOCK_SIZE_REQD:
	default:
		err_set(e, EINVAL, "server refuses export '%s' (error 0x%08x)%s%.*s",
			h->export_name, h->reply_type, colon, len, text);
		break;
	}
	return give_up(h);
}

static enum nbd_handshake_result structured_answer(struct nbd_handshake *h, struct error *e)
{
	if (h->reply_type == REP_ACK)
		h->export.structured = true;
	else if (h->reply_type == REP_ERR_TLS_REQD || h->reply_type == REP_ERR_SHUTDOWN)
		return refused(h, e);
	return ask_go(h);
}

static enum nbd_handshake_result go_answer(struct nbd_handshake *h, struct error *e)
{
	if (h->reply_type == REP_INFO) {
		if (info(h, e) < 0)
			return broken(h);
		expect(h, NBD_HS_REPLY_HEADER, REPLY_HEADER_SIZE);
		return NBD_HANDSHAKE_MORE;
	}
	if (h->reply_type == REP_ERR_UNSUP)
		return ask_export_name(h);
	if (h->reply_type & REP_ERR_BIT)
		return refused(h, e);
	if (!h->have_export_info) {
		err_set(e, EPROTO, "server accepts the export without telling its size");
		return broken(h);
	}
	return finish(h, e);
}

static enum nbd_handshake_result reply_payload(struct nbd_handshake *h, struct error *e)
{
	bool go = h->option == OPT_GO;

	if (h->reply_type == REP_ACK && h->need) {
		err_set(e, EPROTO, "acknowledgement with %u bytes of data", h->need);
		return broken(h);
	}
	if (!(h->reply_type & REP_ERR_BIT) && h->reply_type != REP_ACK &&
	    !(go && h->reply_type == REP_INFO)) {
		err_set(e, EPROTO, "unexpected reply of type %u to option %u", h->reply_type,
			h->option);
		return broken(h);
	}
	return go ? go_answer(h, e) : structured_answer(h, e);
}

static enum nbd_handshake_result export_reply(struct nbd_handshake *h, struct error *e)
{
	h->export.size = get_be64(h->in);
	h->export.flags = get_be16(h->in + 8);
	return finish(h, e);
}

static enum nbd_handshake_result element_complete(struct nbd_handshake *h, struct error *e)
{
	switch (h->state) {
	case NBD_HS_GREETING:
		return greeting(h, e);
	case NBD_HS_REPLY_HEADER:
		return reply_header(h, e);
	case NBD_HS_REPLY_PAYLOAD:
		return reply_payload(h, e);
	case NBD_HS_EXPORT_REPLY:
		return export_reply(h, e);
	default:
		err_set(e, EPROTO, "bytes after the end of the handshake");
		return broken(h);
	}
}

int nbd_handshake_init(struct nbd_handshake *h, const char *export_name, struct error *e)
{
	if (strlen(export_name) > NBD_MAX_STRING)
		return err_set(e, EINVAL, "export name is longer than %d bytes", NBD_MAX_STRING);
	h->export_name = export_name;
	h->export = (struct nbd_export){
		.min_block = DEFAULT_MIN_BLOCK,
		.preferred_block = DEFAULT_PREFERRED_BLOCK,
		.max_block = DEFAULT_MAX_BLOCK,
	};
	h->no_zeroes = false;
	h->have_export_info = false;
	h->option = 0;
	h->reply_type = 0;
	h->out_len = 0;
	expect(h, NBD_HS_GREETING, GREETING_SIZE);
	return 0;
}

enum nbd_handshake_result nbd_handshake_feed(struct nbd_handshake *h, const uint8_t *p, size_t n,
					     size_t *ret_used, struct error *e)
{
	enum nbd_handshake_result result = NBD_HANDSHAKE_MORE;
	size_t used = 0;

	h->out_len = 0;
	while (result == NBD_HANDSHAKE_MORE) {
		size_t take = min((size_t)(h->need - h->have), n - used);

		memcpy(h->in + h->have, p + used, take);
		h->have += (uint32_t)take;
		used += take;
		if (h->have < h->need)
			break;
		result = element_complete(h, e);
	}
	*ret_used = used;
	return result;
}

const char *nbd_handshake_where(const struct nbd_handshake *h)
{
	switch (h->state) {
	case NBD_HS_GREETING:
		return "the greeting was awaited";
	case NBD_HS_REPLY_HEADER:
	case NBD_HS_REPLY_PAYLOAD:
		return h->option == OPT_GO ? "the export was negotiated" :
					     "structured replies were negotiated";
	case NBD_HS_EXPORT_REPLY:
		return "the export was awaited (it may not exist)";
	default:
		return "the handshake was over";
	}
}
