#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: fake_successor.py MODE   (descriptor 3 is the socket to the daemon)
#
# A successor that does not do what it says, by the protocol of
# userspace/vduse-blk/cmd/handover.h. MODE:
#
#   dies       after GO
#   silent     after GO, for ever
#   garbage    no message at all
#   early      DONE instead of READY
#   refuses    with a reason
#   leaves     ends before READY
#   closes     its socket, and stays
#   newer      speaks version 2

import array
import os
import socket
import struct
import sys
import time

MAGIC, VERSION = 0x756B6276, 1
OFFER, READY, REFUSED, GO, DONE = range(1, 6)


def send(sock, kind, body=b"", version=VERSION):
    sock.send(struct.pack("<IHHI", MAGIC, version, kind, len(body)) + body)


def receive(sock, kind):
    fds = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(8 * fds.itemsize))
    assert data, "the daemon has gone"
    magic, version, got, length = struct.unpack_from("<IHHI", data)
    assert (magic, version, got) == (MAGIC, VERSION, kind), data
    assert length == len(data) - 12
    for _, _, value in ancillary:
        fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
    assert len(fds) == (5 if kind == OFFER else 0), fds
    return fds


def main():
    mode = sys.argv[1]
    sock = socket.socket(fileno=3)
    # Nothing else was passed on.
    extra = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 4]
    assert not extra, extra
    receive(sock, OFFER)
    ready = struct.pack("<Q32s", 1 << 40, b"fake")
    if mode == "garbage":
        sock.send(b"hello")
    elif mode == "early":
        send(sock, DONE, struct.pack("<II64Q", 1, 0, *([1] * 64)))
    elif mode == "refuses":
        send(sock, REFUSED, struct.pack("<I512s", 22, b"it is not to my liking"))
    elif mode == "newer":
        send(sock, READY, ready, version=2)
    elif mode == "closes":
        sock.close()
    elif mode in ("dies", "silent"):
        send(sock, READY, ready)
        receive(sock, GO)
        if mode == "dies":
            os._exit(0)
    elif mode == "leaves":
        sys.exit(7)
    else:
        sys.exit("unknown mode")
    while True:
        time.sleep(1000)


main()
