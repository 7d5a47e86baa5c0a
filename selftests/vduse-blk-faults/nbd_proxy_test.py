#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# Tries nbd_proxy.py on the host, between a small client and nbdkit: each
# misdeed happens when it was asked for, once, is the one that its name says,
# and everything before and after is right. Prints TAP.

import functools
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import tap  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
OPTION_REPLY = 0x3E889045565A9
DATA = bytes(range(256)) * 32
LIMIT = 20


class Wrong(Exception):
    """What the client found; its text is one of the words of EXPECTED."""


# What a client sees of each misdeed.
EXPECTED = {
    'reply-magic': 'magic', 'reply-cookie': 'cookie', 'reply-short': 'closed',
    'reply-twice': 'cookie', 'reply-dropped': 'nothing',
    'chunk-type': 'type', 'chunk-length': 'length', 'chunk-range': 'range',
    'chunk-overlap': 'overlap', 'chunk-missing': 'missing', 'chunk-error': 'message',
    'chunk-error-0': 'number', 'close': 'closed', 'option-reply': 'option',
    'greeting': 'greeting', 'silent': 'nothing', 'late-write': 'closed',
}


class Client:
    """Fixed newstyle, one request at a time, every field checked."""

    def __init__(self, path, structured):
        self.conn = socket.socket(socket.AF_UNIX)
        self.conn.settimeout(LIMIT)
        self.conn.connect(path)
        self.cookie = 0
        if self.take(16) != b'NBDMAGICIHAVEOPT':
            raise Wrong('greeting')
        self.take(2)
        self.conn.sendall(struct.pack('>I', 3))
        if structured:
            self.option(8, b'')
        self.option(7, struct.pack('>IH', 0, 0))

    def take(self, n):
        data = b''
        while len(data) < n:
            try:
                piece = self.conn.recv(n - len(data))
            except socket.timeout:
                raise Wrong('nothing') from None
            if not piece:
                raise Wrong('closed')
            data += piece
        return data

    def option(self, number, data):
        self.conn.sendall(b'IHAVEOPT' + struct.pack('>II', number, len(data)) + data)
        while True:
            magic, option, kind, length = struct.unpack('>QIII', self.take(20))
            self.take(length)
            if magic != OPTION_REPLY or option != number:
                raise Wrong('option')
            if kind == 1:
                return

    def request(self, kind, offset, length, data=b''):
        self.cookie += 1
        self.conn.sendall(struct.pack('>IHHQQI', 0x25609513, 0, kind, self.cookie, offset,
                                      length) + data)
        got = {}
        while self.reply(kind == 0, offset, length, got):
            pass
        if kind == 0 and sum(map(len, got.values())) != length:
            raise Wrong('missing')
        return b''.join(got[k] for k in sorted(got))

    def reply(self, is_read, offset, length, got):
        """Whether there is more."""
        magic, = struct.unpack('>I', self.take(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack('>IQ', self.take(12))
            if cookie != self.cookie:
                raise Wrong('cookie')
            if error:
                raise Wrong('error')
            if is_read:
                got[offset] = self.take(length)
            return False
        if magic != 0x668E33EF:
            raise Wrong('magic')
        flags, kind, cookie, size = struct.unpack('>HHQI', self.take(16))
        if cookie != self.cookie:
            raise Wrong('cookie')
        self.chunk(kind, self.take(size), offset, length, got)
        return not flags & 1

    @staticmethod
    def chunk(kind, payload, offset, length, got):
        if kind & 0x8000:
            number, size = struct.unpack('>IH', payload[:6])
            raise Wrong('message' if size > len(payload) - 6 else 'number' if not number
                        else 'error')
        if kind not in (0, 1, 2):
            raise Wrong('type')
        if kind == 0:
            return
        if len(payload) < 9:
            raise Wrong('length')
        at, = struct.unpack('>Q', payload[:8])
        data = payload[8:] if kind == 1 else bytes(struct.unpack('>I', payload[8:])[0])
        if at < offset or at + len(data) > offset + length:
            raise Wrong('range')
        if at in got:
            raise Wrong('overlap')
        got[at] = data

    def write(self, offset, data):
        self.request(1, offset, len(data), data)

    def read(self, offset, length):
        return self.request(0, offset, length)

    def close(self):
        self.conn.close()


class Rig:
    """nbdkit and the proxy, each on a socket in a folder of its own."""

    def __init__(self, folder, kind):
        self.server_path = folder + '/server'
        self.path = folder + '/proxy'
        self.done = []
        self.server = subprocess.Popen(['nbdkit', '-f', '-U', self.server_path, 'memory', '1M'])
        self.proxy = subprocess.Popen(
            [sys.executable, HERE + '/nbd_proxy.py', self.path, self.server_path, kind, '0.2'],
            stdout=subprocess.PIPE, text=True)
        wait_until(lambda: os.path.exists(self.server_path))
        assert self.proxy.stdout.readline() == 'ready\n'
        threading.Thread(target=self.collect, daemon=True).start()

    def collect(self):
        for line in self.proxy.stdout:
            self.done.append(line.strip())

    def arm(self):
        self.proxy.send_signal(signal.SIGUSR1)
        # The signal takes a moment to be taken.
        time.sleep(0.2)

    def end(self):
        for p in (self.proxy, self.server):
            p.kill()
            p.wait()


def wait_until(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.01)


def provoke(rig, client, kind):
    """The client's life around the misdeed; returns what it found."""
    if kind in ('reply-dropped', 'silent'):
        client.conn.settimeout(0.5)
    try:
        if kind == 'late-write':
            client.write(0, DATA[::-1])
        client.read(0, 4096)
        client.read(4096, 4096)
        if kind in ('option-reply', 'greeting'):
            return 'nothing wrong'
    except (Wrong, OSError) as e:
        found = str(e) if isinstance(e, Wrong) else 'closed'
        if kind not in ('option-reply', 'greeting'):
            return found
        # It is the next connection that is greeted badly.
        try:
            Client(rig.path, True)
        except Wrong as wrong:
            return str(wrong)
    return 'nothing wrong'


def try_kind(kind, structured):
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(folder, kind)
        try:
            client = Client(rig.path, structured)
            client.write(0, DATA)
            assert client.read(0, len(DATA)) == DATA, 'before'
            assert not rig.done, rig.done
            rig.arm()
            found = provoke(rig, client, kind)
            assert found == EXPECTED[kind], 'found: ' + found
            wait_until(lambda: rig.done)
            assert rig.done[0].startswith('done: ' + kind), rig.done
            client.close()
            after(rig, kind, structured)
        finally:
            rig.end()


def after(rig, kind, structured):
    """Everything is right again; a late write arrives, however late."""
    client = Client(rig.path, structured)
    want = DATA
    if kind == 'late-write':
        wait_until(lambda: any('delivered' in d for d in rig.done))
        want = DATA[::-1]
    got = client.read(0, len(DATA))
    assert got == want, 'after'
    client.close()
    assert len(rig.done) == (2 if kind == 'late-write' else 1), rig.done


def main():
    tests = []
    for kind in EXPECTED:
        tests.append((kind, True))
        if not kind.startswith('chunk'):
            tests.append((kind, False))
    sys.exit(tap.run('nbd_proxy', (
        ('%s, %s' % (kind, 'structured' if structured else 'simple'),
         functools.partial(try_kind, kind, structured)) for kind, structured in tests)))


main()
