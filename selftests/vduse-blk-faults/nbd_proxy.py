#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: nbd_proxy.py LISTEN TARGET KIND [HOLD]
#
# An NBD proxy that misbehaves once for each SIGUSR1, in the way that KIND says,
# and forwards everything else unchanged. LISTEN and TARGET are HOST:PORT or the
# path of a socket. It prints "ready", and "done: ..." after each misdeed, so
# that a test knows that there was one.
#
# A reply that is wrong; the next reply to a read (chunk-*: a structured one):
#   reply-magic    with another magic number
#   reply-cookie   with a cookie that nobody has sent
#   reply-short    its header and half of the data, then the connection is closed
#   reply-twice    twice
#   reply-dropped  not at all
#   chunk-type     of a type that does not exist
#   chunk-length   too short for its type
#   chunk-range    with data behind the end of the request
#   chunk-overlap  with the same data in two chunks
#   chunk-missing  the last one, without all of the data
#   chunk-error    an error whose message is longer than the chunk
#   chunk-error-0  an error without an error number
# A connection:
#   close          every connection is closed
#   option-reply   that, and the next handshake is answered with another option
#   greeting       that, and the next connection is greeted with something else
#   silent         no reply to anything on the connections that exist now
#   late-write     the next write is held back, its connection is closed, and
#                  HOLD seconds (default 1) later the server gets the write
#
# Two threads for each connection: up() brings requests to the server and notes
# what they are, down() brings replies back. Only down() writes to the client
# and only up() to the server, except in the handshake, which is one thread's.

import os
import signal
import socket
import struct
import sys
import threading
import time

OPTION_MAGIC = b'IHAVEOPT'
OPTION_REPLY = 0x3E889045565A9
REQUEST = struct.Struct('>IHHQQI')
REQUEST_MAGIC = 0x25609513
SIMPLE = struct.Struct('>IIQ')
CHUNK = struct.Struct('>IHHQI')
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF
READ, WRITE, DISC = 0, 1, 2
DONE = 1                          # flag of the last chunk
DATA, HOLE, ERROR = 1, 2, 32769   # types of chunks

OF_READS = ('reply-magic', 'reply-cookie', 'reply-short', 'reply-twice', 'reply-dropped')
OF_CHUNKS = ('chunk-type', 'chunk-length', 'chunk-range', 'chunk-overlap', 'chunk-missing',
             'chunk-error', 'chunk-error-0')
OF_CONNECTIONS = ('close', 'option-reply', 'greeting', 'silent', 'late-write')


class Misdeeds:
    """How many are due. Whoever takes one has to do it."""

    def __init__(self, kind, hold):
        self.kind = kind
        self.hold = hold
        self.due = 0
        self.handshakes = 0
        self.lock = threading.Lock()
        self.connections = set()

    def arm(self):
        """From the main thread, when the signal has come."""
        if self.kind not in OF_CONNECTIONS or self.kind == 'late-write':
            with self.lock:
                self.due += 1
            return
        with self.lock:
            connections = list(self.connections)
            if self.kind in ('option-reply', 'greeting'):
                self.handshakes += 1
        for c in connections:
            if self.kind == 'silent':
                c.silent = True
            else:
                c.close()
        if self.kind in ('close', 'silent'):
            report('%s, %d connections' % (self.kind, len(connections)))

    def take(self):
        with self.lock:
            if not self.due:
                return False
            self.due -= 1
            return True

    def take_handshake(self, kind):
        with self.lock:
            if self.kind != kind or not self.handshakes:
                return False
            self.handshakes -= 1
            return True


def report(text):
    print('done: ' + text, flush=True)


def parse_address(text):
    if text.startswith('/'):
        return socket.AF_UNIX, text
    host, port = text.rsplit(':', 1)
    return socket.AF_INET, (host, int(port))


def take_bytes(conn, n):
    data = bytearray()
    while len(data) < n:
        piece = conn.recv(min(n - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


class Connection:
    def __init__(self, client, target, misdeeds):
        self.client = client
        self.server = socket.socket(target[0])
        self.target = target[1]
        self.misdeeds = misdeeds
        self.silent = False
        self.holding = None    # cookie of the write that is held back
        self.requests = {}    # cookie -> (type, offset, length); the GIL guards it

    def close(self):
        """The client's side. The server is left in order: see up()."""
        try:
            self.client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # --- handshake ---

    def handshake(self):
        """Forwards the negotiation. True: it has led to the transmission phase."""
        greeting = take_bytes(self.server, 18)
        if self.misdeeds.take_handshake('greeting'):
            self.client.sendall(b'220 mail.example ESMTP ready\r\n')
            report('greeting')
            return False
        self.client.sendall(greeting)
        flags = take_bytes(self.client, 4)
        self.server.sendall(flags)
        no_zeroes = flags[3] & greeting[17] & 2
        while True:
            header = take_bytes(self.client, 16)
            magic, option, length = struct.unpack('>8sII', header)
            if magic != OPTION_MAGIC:
                return False
            self.server.sendall(header + take_bytes(self.client, length))
            if option == 1:
                self.client.sendall(take_bytes(self.server, 10 if no_zeroes else 134))
                return True
            if option == 2:
                return False
            if self.option_replies(option) and option == 7:
                return True

    def option_replies(self, option):
        """All replies to one option; whether it was accepted."""
        wrong = option == 7 and self.misdeeds.take_handshake('option-reply')
        while True:
            header = take_bytes(self.server, 20)
            magic, answered, kind, length = struct.unpack('>QIII', header)
            if magic != OPTION_REPLY:
                raise EOFError
            data = take_bytes(self.server, length)
            if wrong:
                header = struct.pack('>QIII', magic, answered ^ 0x55, kind, length)
            self.client.sendall(header + data)
            if wrong:
                report('option-reply')
                raise EOFError
            if kind == 1 or kind & 0x80000000:
                return kind == 1

    # --- requests ---

    def up(self):
        try:
            while True:
                header = take_bytes(self.client, REQUEST.size)
                _, _, kind, cookie, offset, length = REQUEST.unpack(header)
                data = take_bytes(self.client, length) if kind == WRITE else b''
                self.requests[cookie] = (kind, offset, length)
                if kind == WRITE and self.misdeeds.kind == 'late-write' and self.misdeeds.take():
                    self.hold(cookie, header + data)
                    return
                self.server.sendall(header + data)
                if kind == DISC:
                    break
        except (EOFError, OSError):
            pass
        self.close()
        # nbdkit 1.32 may abort when it is cut off with requests in flight: it is told
        # that this is the end, and down() takes what it still answers.
        try:
            self.server.sendall(REQUEST.pack(REQUEST_MAGIC, 0, DISC, 0, 0, 0))
        except OSError:
            pass

    def hold(self, cookie, request):
        """The client loses its connection, the server gets the write later."""
        self.holding = cookie
        self.client.shutdown(socket.SHUT_RDWR)
        report('late-write, held')
        time.sleep(self.misdeeds.hold)
        self.server.sendall(request)

    # --- replies ---

    def down(self):
        try:
            while True:
                try:
                    self.one_reply()
                except BrokenPipeError:
                    self.silent = True
                except ConnectionResetError:
                    if self.silent:
                        break
                    self.silent = True
        except (EOFError, OSError):
            pass
        self.close()

    def one_reply(self):
        magic, = struct.unpack('>I', take_bytes(self.server, 4))
        if magic == SIMPLE_MAGIC:
            error, cookie = struct.unpack('>IQ', take_bytes(self.server, 12))
            request = self.requests.pop(cookie, None)
            length = request[2] if request and request[0] == READ and not error else 0
            data = take_bytes(self.server, length)
            reply = SIMPLE.pack(magic, error, cookie) + data
            chunk = None
        elif magic == CHUNK_MAGIC:
            flags, kind, cookie, length = struct.unpack('>HHQI', take_bytes(self.server, 16))
            data = take_bytes(self.server, length)
            reply = CHUNK.pack(magic, flags, kind, cookie, length) + data
            request = self.requests.get(cookie)
            chunk = (flags, kind, cookie)
            if flags & DONE:
                self.requests.pop(cookie, None)
        else:
            raise EOFError
        if self.holding is not None:
            # Nobody is left to read it. The held write is the last request.
            if self.holding == cookie:
                report('late-write, delivered')
                raise EOFError
            return
        if self.silent:
            return
        if request and request[0] == READ and self.suits(chunk, data) and self.misdeeds.take():
            self.misbehave(reply, chunk, cookie, request, data)
            report('%s, %s reply to a read of %d bytes at %d' % (
                self.misdeeds.kind, 'structured' if chunk else 'simple', request[2], request[1]))
        else:
            self.client.sendall(reply)

    def suits(self, chunk, data):
        if self.misdeeds.kind in OF_CHUNKS:
            return chunk is not None and chunk[1] in (DATA, HOLE)
        return self.misdeeds.kind in OF_READS and (chunk is not None or data)

    def misbehave(self, reply, chunk, cookie, request, data):
        kind = self.misdeeds.kind
        if kind == 'reply-magic':
            self.client.sendall(struct.pack('>I', 0x12345678) + reply[4:])
        elif kind == 'reply-cookie':
            at = 8
            self.client.sendall(reply[:at] + struct.pack('>Q', cookie ^ 0x5555555555) +
                                reply[at + 8:])
        elif kind == 'reply-short':
            self.client.sendall(reply[:20 + len(data) // 2])
            self.close()
        elif kind == 'reply-twice':
            self.client.sendall(reply + reply)
        elif kind != 'reply-dropped':
            self.client.sendall(self.bad_chunk(kind, cookie, request[1], request[2]))

    def bad_chunk(self, kind, cookie, offset, length):
        """Instead of the right chunk, the beginning of a reply that cannot be."""
        def chunk(flags, chunk_type, payload):
            return CHUNK.pack(CHUNK_MAGIC, flags, chunk_type, cookie, len(payload)) + payload

        def data(at, size):
            return chunk(0, DATA, struct.pack('>Q', at) + bytes(size))

        if kind == 'chunk-type':
            return chunk(DONE, 77, bytes(8))
        if kind == 'chunk-length':
            return chunk(DONE, DATA, bytes(4))
        if kind == 'chunk-range':
            return data(offset + length - 512, 4096)
        if kind == 'chunk-overlap':
            return data(offset, 512) + data(offset, 512)
        if kind == 'chunk-missing':
            return data(offset, length - 512) + chunk(DONE, 0, b'') if length > 512 else \
                chunk(DONE, 0, b'')
        if kind == 'chunk-error':
            return chunk(DONE, ERROR, struct.pack('>IH', 5, 500) + b'short')
        return chunk(DONE, ERROR, struct.pack('>IH', 0, 0))

    # --- life ---

    def run(self):
        try:
            self.server.connect(self.target)
            for s in (self.client, self.server):
                if s.family == socket.AF_INET:
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.misdeeds.lock:
                self.misdeeds.connections.add(self)
            if self.handshake():
                replies = threading.Thread(target=self.down, daemon=True)
                replies.start()
                self.up()
                replies.join()
        except (EOFError, OSError):
            pass
        with self.misdeeds.lock:
            self.misdeeds.connections.discard(self)
        self.close()
        self.client.close()
        self.server.close()


def accept(listener, target, misdeeds):
    while True:
        client, _ = listener.accept()
        connection = Connection(client, target, misdeeds)
        threading.Thread(target=connection.run, daemon=True).start()


def main():
    if len(sys.argv) not in (4, 5) or sys.argv[3] not in OF_READS + OF_CHUNKS + OF_CONNECTIONS:
        sys.exit('usage: nbd_proxy.py LISTEN TARGET KIND [HOLD]')
    family, address = parse_address(sys.argv[1])
    misdeeds = Misdeeds(sys.argv[3], float(sys.argv[4]) if len(sys.argv) == 5 else 1.0)
    # The signal is waited for by the main thread; before there are others.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    listener = socket.socket(family)
    if family == socket.AF_INET:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    elif os.path.exists(address):
        os.unlink(address)
    listener.bind(address)
    listener.listen(64)
    threading.Thread(target=accept, args=(listener, parse_address(sys.argv[2]), misdeeds),
                     daemon=True).start()
    print('ready', flush=True)
    while True:
        signal.sigwait([signal.SIGUSR1])
        misdeeds.arm()


main()
