// SPDX-License-Identifier: MIT
/*
 * Ownership: the loop and the connection live on the stack of nbd_probe(); the
 * socket is taken out of them as soon as the handshake is over.
 */
#include "backend/nbd_probe.h"

#include <errno.h>

struct probe {
	struct loop *loop;
	struct nbd_conn *conn;
	struct loop_timer timer;
	bool connected;
	bool ended;
	struct nbd_export export;
	struct nbd_conn_end end;
};

static void connected(void *owner)
{
	struct probe *p = owner;

	p->connected = true;
}

static void opened(void *owner)
{
	struct probe *p = owner;

	p->export = *nbd_conn_export(p->conn);
	nbd_conn_release(p->conn);
}

static void finished(void *owner, struct backend_request *req, int error)
{
	(void)owner;
	(void)req;
	(void)error;
}

static void ended(void *owner, const struct nbd_conn_end *end)
{
	struct probe *p = owner;

	p->end = *end;
	p->ended = true;
	loop_timer_cancel(p->loop, &p->timer);
	loop_stop(p->loop);
}

static const struct nbd_conn_ops probe_ops = {
	.connected = connected,
	.opened = opened,
	.finished = finished,
	.ended = ended,
};

static void out_of_time(struct loop_timer *timer)
{
	struct probe *p = container_of(timer, struct probe, timer);

	nbd_conn_cut(p->conn, BACKEND_LOSS_TIMEOUT, ETIMEDOUT);
}

static int try_address(struct probe *p, const struct stream_addr *addr, unsigned int timeout_ms,
		       struct error *e)
{
	int ret;

	p->ended = false;
	ret = nbd_conn_connect(p->conn, addr, e);
	if (ret < 0)
		return ret;
	loop_timer_arm(p->loop, &p->timer, timeout_ms);
	while (!p->ended) {
		ret = loop_run(p->loop);
		if (ret < 0)
			return err_set_errno(e, -ret, "nbd: io_uring");
	}
	if (p->end.fd >= 0)
		return p->end.fd;
	*e = p->end.error;
	return e->errnum ? -e->errnum : -EIO;
}

int nbd_probe(const struct stream_addr *addrs, unsigned int naddrs, const char *export_name,
	      unsigned int timeout_ms, struct nbd_export *ret_export, struct error *e)
{
	struct loop_params lp = { .name = "nbd-open", .sq_entries = 16 };
	struct probe p = { .timer.expired = out_of_time };
	struct nbd_conn_params params = {
		.export_name = export_name, .depth = 1, .ops = &probe_ops, .owner = &p
	};
	struct error local = ERROR_INIT;
	int ret;

	ret = loop_create(&lp, &p.loop, e);
	if (ret < 0)
		return ret;
	ret = nbd_conn_create(p.loop, &params, &p.conn, e);
	if (ret < 0)
		goto out;
	ret = -EINVAL;
	/* One that answers, however badly, is the server that was meant. */
	for (unsigned int i = 0; i < naddrs && ret < 0 && !p.connected; i++)
		ret = try_address(&p, &addrs[i], timeout_ms, &local);
	if (ret >= 0)
		*ret_export = p.export;
	else if (e)
		*e = local;
	nbd_conn_destroy(p.conn);
out:
	loop_destroy(p.loop);
	return ret;
}
