/* SPDX-License-Identifier: MIT */
/*
 * The first connection, made while nothing else runs yet.
 */
#ifndef BACKEND_NBD_PROBE_H
#define BACKEND_NBD_PROBE_H

#include "backend/nbd_conn.h"

/**
 * nbd_probe() - connect, negotiate, and keep the socket; waits
 * @addrs: tried in order until one can be connected to
 * @naddrs: at least 1
 * @export_name: what to ask for
 * @timeout_ms: connect and handshake, each address
 * @ret_export: what was negotiated; written only on success
 * @e: error text
 *
 * On a loop of its own, so any thread.
 *
 * Return: socket for nbd_conn_adopt(), or -errno.
 */
int nbd_probe(const struct stream_addr *addrs, unsigned int naddrs, const char *export_name,
	      unsigned int timeout_ms, struct nbd_export *ret_export, struct error *e);

#endif
