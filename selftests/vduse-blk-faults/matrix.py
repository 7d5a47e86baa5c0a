#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
#
# usage: matrix.py [--subject NAME] all|pairwise|smoke|faults
#        matrix.py test
#
# The cells of the fault matrix, a line each:
#
#   FAULT QUEUES RING LOAD NEEDS ERRORS
#
# NEEDS is the feature of the daemon without which the fault cannot be survived
# ("-": none; faults.sh finds out which there are). ERRORS is what the users of
# the disk may see: "none"; "some" where the fault is one of the storage; "due" where
# without any there has been no fault.
#
# pairwise: for every two of the columns fault, queues, ring and load, every two
# values meet in a cell. Each fault needs two cells, for each of its columns has
# two values; a cell and its opposite are such two, and which opposites they are
# takes turns, so the other pairs meet, too. smoke: one row, for where time is
# short. test: checks that, as TAP.

import itertools
import sys

sys.dont_write_bytecode = True
import tap  # noqa: E402

FAULTS = (
    # name             needs         errors
    ('daemon-kill',    'recovery',   'none'),
    ('daemon-term',    '-',          'some'),
    ('daemon-keep',    'keep',       'none'),
    ('upgrade',        'upgrade',    'none'),
    ('server-restart', 'reconnect',  'none'),
    ('server-pause',   '-',          'none'),
    ('server-full',    '-',          'due'),
    ('read-errors',    '-',          'due'),
    ('cache-lost',     'reconnect',  'some'),
    ('link-down',      '-',          'none'),
    ('link-lossy',     '-',          'none'),
    ('export-grown',   'reconnect',  'none'),
    ('export-shrunk',  'reconnect',  'some'),
    ('close',          'reconnect',  'none'),
    ('silent',         'timeout',    'none'),
    ('late-write',     'reconnect',  'none'),
    ('option-reply',   'reconnect',  'none'),
    ('greeting',       'reconnect',  'none'),
    ('reply-magic',    'reconnect',  'none'),
    ('reply-cookie',   'reconnect',  'none'),
    ('reply-short',    'reconnect',  'none'),
    ('reply-twice',    'reconnect',  'none'),
    ('reply-dropped',  'timeout',    'none'),
    ('chunk-type',     'reconnect',  'none'),
    ('chunk-length',   'reconnect',  'none'),
    ('chunk-range',    'reconnect',  'none'),
    ('chunk-overlap',  'reconnect',  'none'),
    ('chunk-missing',  'reconnect',  'none'),
    ('chunk-error',    'reconnect',  'none'),
    ('chunk-error-0',  'reconnect',  'none'),
)
QUEUES = ('1', '4')
RINGS = ('split', 'packed')
LOADS = ('raw', 'ext4')

SMOKE = ('daemon-kill', 'daemon-term', 'server-restart', 'server-pause', 'reply-magic',
         'reply-dropped')

# What a subject has, other than ours: its rings, and the faults it knows.
PEER_RINGS = {'qsd': ('split',), 'nbd': ('none',), 'fuse': ('none',)}
NOT_FOR_PEERS = ('upgrade', 'daemon-keep')
NOT_FOR = {'fuse': ('daemon-kill', 'daemon-term', 'link-lossy')}


def every(subject='vduse-blk'):
    rings = PEER_RINGS.get(subject, RINGS)
    for fault, _, _ in FAULTS:
        if subject in PEER_RINGS and fault in NOT_FOR_PEERS + NOT_FOR.get(subject, ()):
            continue
        for queues, ring, load in itertools.product(QUEUES, rings, LOADS):
            yield fault, queues, ring, load


def pairwise():
    opposites = ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1))
    for i, (fault, _, _) in enumerate(FAULTS):
        q, r, l = opposites[i % len(opposites)]
        yield fault, QUEUES[q], RINGS[r], LOADS[l]
        yield fault, QUEUES[1 - q], RINGS[1 - r], LOADS[1 - l]


def smoke():
    for i, fault in enumerate(SMOKE):
        yield fault, QUEUES[1], RINGS[1], LOADS[i % 2]


def line(cell):
    row = next(f for f in FAULTS if f[0] == cell[0])
    return ' '.join(cell + row[1:])


def check_pairs(cells):
    """The pairs that no cell has."""
    columns = ([f[0] for f in FAULTS], QUEUES, RINGS, LOADS)
    missing = []
    for a, b in itertools.combinations(range(len(columns)), 2):
        met = {(c[a], c[b]) for c in cells}
        missing += [p for p in itertools.product(columns[a], columns[b]) if p not in met]
    return missing


def run_tests():
    cells = list(every())
    pairs = list(pairwise())
    tests = (
        ('every cell once', len(cells) == len(set(cells)) == len(FAULTS) * 8),
        ('pairwise: cells of the matrix, each once',
         len(pairs) == len(set(pairs)) and set(pairs) <= set(cells)),
        ('pairwise: every pair meets', not check_pairs(pairs)),
        ('pairwise: no fewer cells would do', len(pairs) == 2 * len(FAULTS)),
        ('pairwise: without one cell a pair is missing',
         all(check_pairs(pairs[:i] + pairs[i + 1:]) for i in range(len(pairs)))),
        ('pairwise: the same each time', pairs == list(pairwise())),
        ('smoke: cells of the matrix', set(smoke()) <= set(cells)),
        ('peers: no cell for what they lack',
         all(c[2] != 'packed' and c[0] not in NOT_FOR_PEERS
             for p in PEER_RINGS for c in every(p))),
    )
    return tap.run('matrix', tests)


def main():
    args = sys.argv[1:]
    subject = 'vduse-blk'
    if len(args) == 3 and args[0] == '--subject':
        subject = args[1]
        args = args[2:]
    if args == ['test']:
        sys.exit(run_tests())
    elif args == ['all']:
        cells = [line(c) for c in every(subject)]
    elif args == ['pairwise']:
        cells = [line(c) for c in pairwise()]
    elif args == ['smoke']:
        cells = [line(c) for c in smoke()]
    elif args == ['faults']:
        cells = [f[0] for f in FAULTS]
    else:
        sys.exit('usage: matrix.py [--subject NAME] all|pairwise|smoke|faults|test')
    print('\n'.join(cells))


main()
