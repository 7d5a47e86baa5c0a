#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: bad_server.py SOCKET MODE
#
# An NBD server on a UNIX socket that breaks the protocol, once MODE's moment
# has come. In the handshake: oldstyle, garbage, nothing, hang-up, hang-up-go,
# bad-reply, zero-size, odd-size. While serving, at the first read from 4 MiB
# on, once: magic, cookie, short, chunk, twice, close. It prints a line for each
# connection.

import os
import socket
import struct
import sys
import threading

SIZE = 64 << 20
FLAGS = 1 | 4          # HAS_FLAGS, SEND_FLUSH
OPT_REPLY = 0x3E889045565A9


def take(conn, n):
    data = b''
    while len(data) < n:
        piece = conn.recv(n - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def option_reply(conn, option, kind, data=b''):
    conn.sendall(struct.pack('>QIII', OPT_REPLY, option, kind, len(data)) + data)


def handshake(conn, mode):
    """Returns True when the structured replies were negotiated."""
    structured = False
    if mode == 'oldstyle':
        conn.sendall(b'NBDMAGIC' + struct.pack('>QQI', 0x00420281861253, SIZE, FLAGS) + bytes(124))
        take(conn, 1)
    if mode == 'garbage':
        conn.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')
        take(conn, 1)
    if mode == 'nothing':
        take(conn, 1 << 20)
    if mode == 'hang-up':
        raise EOFError
    conn.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
    take(conn, 4)
    while True:
        _, option, length = struct.unpack('>8sII', take(conn, 16))
        take(conn, length)
        if option == 8 and mode == 'chunk':
            structured = True
            option_reply(conn, option, 1)
        elif option in (6, 7):
            if mode == 'hang-up-go':
                raise EOFError
            if mode == 'bad-reply':
                conn.sendall(b'x' * 20)
                take(conn, 1)
            size = {'zero-size': 0, 'odd-size': SIZE + 100}.get(mode, SIZE)
            option_reply(conn, option, 3, struct.pack('>HQH', 0, size, FLAGS))
            option_reply(conn, option, 1)
            if option == 7:
                return structured
        elif option == 2:
            raise EOFError
        else:
            option_reply(conn, option, 0x80000001)


def reply(conn, cookie, data, structured):
    if structured:
        if data:
            conn.sendall(struct.pack('>IHHQI', 0x668E33EF, 1, 1, cookie, 8 + len(data[1])) +
                         struct.pack('>Q', data[0]) + data[1])
        else:
            conn.sendall(struct.pack('>IHHQI', 0x668E33EF, 1, 0, cookie, 0))
    else:
        conn.sendall(struct.pack('>IIQ', 0x67446698, 0, cookie) + (data[1] if data else b''))


def misbehave(conn, mode, cookie, offset, length):
    data = bytes(length)
    if mode == 'magic':
        conn.sendall(struct.pack('>IIQ', 0x12345678, 0, cookie) + data)
    elif mode == 'cookie':
        conn.sendall(struct.pack('>IIQ', 0x67446698, 0, cookie ^ 0x5555555555) + data)
    elif mode == 'short':
        conn.sendall(struct.pack('>IIQ', 0x67446698, 0, cookie) + data[:100])
    elif mode == 'chunk':
        reply(conn, cookie, (offset + length - 512, bytes(4096)), True)
    elif mode == 'twice':
        reply(conn, cookie, (offset, data), False)
        reply(conn, cookie, (offset, data), False)
        reply(conn, cookie, (offset, data), False)
    if mode in ('short', 'close'):
        raise EOFError


def serve(conn, mode, to_come):
    try:
        structured = handshake(conn, mode)
        while True:
            _, _, kind, cookie, offset, length = struct.unpack('>IHHQQI', take(conn, 28))
            if kind == 1:
                take(conn, length)
            if kind == 2:
                break
            if kind == 0 and 4 << 20 <= offset < SIZE // 2 and to_come:
                to_come.clear()
                misbehave(conn, mode, cookie, offset, length)
                continue
            reply(conn, cookie, (offset, bytes(length)) if kind == 0 else None, structured)
    except (EOFError, ConnectionError, BrokenPipeError):
        pass
    conn.close()


def main():
    path, mode = sys.argv[1:]
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(8)
    to_come = [mode]
    while True:
        conn, _ = listener.accept()
        print('connection', flush=True)
        threading.Thread(target=serve, args=(conn, mode, to_come), daemon=True).start()


main()
