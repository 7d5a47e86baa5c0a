#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
#
# usage: reliability.py todo DIR ARCH SUBJECT STAMP PATTERN
#        reliability.py collect DIR STAMP COMMIT [STATUS] <LOG
#        reliability.py count DIR
#        reliability.py report DIR >reliability.rst
#        reliability.py test
#
# The results of the fault matrix: a file for each cell, DIR/ARCH/SUBJECT/
# FAULT-qQUEUES-RING-LOAD.tap, with one test of TAP and "# key=value" lines.
#
# todo: the cells (lines of matrix.py) whose name matches the shell pattern and
# that have no result with this stamp, which says what was tested. collect: makes
# files from what matrix.sh prints, as it comes, and passes it on; with the exit
# status of a guest that has ended, a cell that began and has no result has ended it.
# count: prints "PASSED FAILED
# SKIPPED" of all files. report: the tables of Documentation/design/
# reliability.rst, from the results that there are, and from nothing else.

import collections
import fnmatch
import io
import os
import re
import subprocess
import sys
import tempfile

SUITE = os.path.dirname(os.path.abspath(__file__)) + '/../selftests/vduse-blk-faults'
MATRIX = SUITE + '/matrix.py'
sys.dont_write_bytecode = True
sys.path.insert(0, SUITE)
import tap  # noqa: E402
OURS = 'vduse-blk'
RUN = re.compile(r'^[# ]*run: (.*)')
BEGINS = re.compile(r'^[# ]*cell begins: (.*)')
CELL = re.compile(r'^[# ]*cell: (.*)')
# The best one first: a fault's result is that of its worst cell.
OUTCOMES = ('ok', 'n/a', 'gap', 'errors', 'dead', 'warning', 'broken', 'crash', 'hangs', 'lost')


def parse(text):
    """Words of key=value; the last key, note, has the rest of the line."""
    fields = {}
    rest, note, text_of_note = text.partition(' note=')
    for word in rest.split():
        key, equals, value = word.partition('=')
        if not equals:
            raise ValueError('no key=value: ' + word)
        fields[key] = value
    if note:
        fields['note'] = text_of_note.strip()
    return fields


def name_of(cell):
    return '%(fault)s-q%(queues)s-%(ring)s-%(load)s' % cell


def path_of(folder, cell):
    return os.path.join(folder, cell['arch'], cell['subject'], name_of(cell) + '.tap')


def verdict(cell):
    """The line of TAP. A peer's outcome is a finding, whatever it is."""
    name = '%s %s: %s' % (cell['arch'], cell['subject'], name_of(cell))
    outcome = cell['outcome']
    if outcome in ('gap', 'n/a'):
        return 'ok 1 - %s # SKIP %s: %s' % (name, outcome, cell.get('note', ''))
    if outcome == 'ok' or (cell['subject'] != OURS and outcome != 'broken'):
        return 'ok 1 - %s: %s' % (name, outcome)
    return 'not ok 1 - %s: %s: %s' % (name, outcome, cell.get('note', ''))


def write_result(folder, cell):
    path = path_of(folder, cell)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + '.tmp', 'w', encoding='utf-8') as f:
        f.write('TAP version 13\n1..1\n%s\n' % verdict(cell))
        for key, value in cell.items():
            f.write('# %s=%s\n' % (key, value))
    os.rename(path + '.tmp', path)


def read_result(path):
    cell = {}
    with open(path, encoding='utf-8') as f:
        for line in f:
            match = re.match(r'^# ([a-z_]+)=(.*)$', line)
            if match:
                cell[match[1]] = match[2]
    return cell


def read_results(folder):
    for base, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.endswith('.tap'):
                cell = read_result(os.path.join(base, name))
                if 'outcome' in cell:
                    yield cell


def matrix(*args):
    return subprocess.run([sys.executable, MATRIX, *args], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.splitlines()


def todo(folder, arch, subject, stamp, pattern):
    for line in matrix('--subject', subject, 'all'):
        fault, queues, ring, load = line.split()[:4]
        cell = {'arch': arch, 'subject': subject, 'fault': fault, 'queues': queues, 'ring': ring,
                'load': load}
        path = path_of(folder, cell)
        if not fnmatch.fnmatch(name_of(cell), pattern):
            continue
        if not os.path.exists(path) or read_result(path).get('stamp') != stamp:
            yield line


def collect(folder, made_with, status, log, out):
    """Each line is passed on before the next one is read: this stands in a pipe."""
    begun = None
    run = {}
    for line in log:
        out.write(line)
        out.flush()
        if match := RUN.match(line):
            run = parse(match[1])
        elif match := BEGINS.match(line):
            begun = parse(match[1])
        elif match := CELL.match(line):
            write_result(folder, dict(parse(match[1]), **run, **made_with))
            begun = None
    if begun and status is not None:
        write_result(folder, dict(begun, **run, **made_with, outcome='crash',
                                  note='the guest ended in it, exit status ' + status))


def count(folder):
    passed = failed = skipped = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if not name.endswith('.tap'):
                continue
            with open(os.path.join(base, name), encoding='utf-8') as f:
                text = f.read()
            skipped += len(re.findall(r'^ok .*# SKIP', text, re.M))
            passed += len(re.findall(r'^ok (?!.*# SKIP)', text, re.M))
            failed += len(re.findall(r'^not ok ', text, re.M))
            if not re.search(r'^(not )?ok ', text, re.M):
                failed += 1
    return passed, failed, skipped


# ---- the report ----

HEAD = '''.. SPDX-License-Identifier: GPL-2.0-only
.. Made by tools/reliability.py from the results of "make check-long"; changes here are lost.

==================
What survives what
==================

Each row is a fault, made to happen under load.  Afterwards every acknowledged write has
to be on the server's disk, whole: fsync_check's records on ext4, or raw_check's versions
of each block, besides fio's checksums.  The cells of a row are {1, 4 queues} × {split,
packed ring} × {raw, ext4}; a peer has only some of them.  Several outcomes stand with how
many cells had them, the worst one first.  The time is the longest that one request took.

ok
  users saw a delay at most; errors only where the storage itself failed
errors
  users saw errors that were not due; afterwards the disk works
dead
  errors, and the disk never works again although the server does
hangs
  the load did not go on within 45 s after the fault was over (where errors are due: did not
  end within 45 s when it was asked to), or a read then took longer than 20 s, or, of
  vduse-blk, a request took 60 s longer than the fault
lost
  an acknowledged write is missing or torn, or a wrong block was read
warning, crash
  the kernel's log has a warning; the guest ended
broken
  the test itself failed, which says nothing of the disk
gap
  this build of vduse-blk lacks what it needs, and says so
n/a
  it cannot be made to happen there
not run
  there is no result yet

When a disk goes while ext4 is mounted, or its journal fails, ext4 shuts itself down, and an
fsync() that is writing just then may return 0 although its record is lost.  That is the file
system's, not the disk's: on scsi_debug, with a delay of 8 ms, without vduse-blk, shut down
(EXT4_IOC_SHUTDOWN) after a syncfs(), 2 of 20 runs of the same load lost the last record that a
thread was told of.  So in cells with errors the last acknowledgement of a thread that failed
is not counted on ext4; on the raw disk every one is.

The peers: qemu-storage-daemon with the kernel's own vduse and ``reconnect-delay=3600``; the kernel's NBD client with ``nbd-client -persist``.  How it is run: rig.rst.

'''

COLUMNS = (('vduse-blk, amd64', 'amd64', OURS), ('vduse-blk, arm64', 'arm64', OURS),
           ('qemu-storage-daemon', 'amd64', 'qsd'), ('kernel nbd', 'amd64', 'nbd'))


def summary(cells, total):
    """One field of the table: the outcomes, the worst one first, and the longest stall."""
    if not total:
        return 'n/a'
    if not cells:
        return 'not run'
    counts = collections.Counter(c['outcome'] for c in cells)
    order = sorted(counts, key=OUTCOMES.index, reverse=True)
    if len(order) == 1:
        text = order[0]
    else:
        text = ', '.join('%s %d' % (o, counts[o]) for o in order)
    if order == ['ok']:
        text += ', %.1f s' % (max(int(c.get('stall_ms', 0)) for c in cells) / 1000)
    if len(cells) < total:
        text += ' (%d of %d cells run)' % (len(cells), total)
    return text


def list_table(widths, rows):
    out = ['.. list-table::', '   :header-rows: 1', '   :widths: ' + ' '.join(map(str, widths)), '']
    for row in rows:
        for i, field in enumerate(row):
            out.append(('   * - ' if i == 0 else '     - ') + field)
    return '\n'.join(out) + '\n'


def escape(text):
    return re.sub(r'([\\*`_|])', r'\\\1', text)


def section(title):
    return '\n%s\n%s\n\n' % (title, '=' * len(title))


def configurations(results, out):
    """What was tested, and with what; from the results themselves."""
    out.write(section('What was run'))
    keys = ('commit', 'tested', 'options', 'server', 'kernel', 'guest')
    rows = [['column', 'cells'] + list(keys)]
    for title, arch, subject in COLUMNS:
        cells = [c for key, found in results.items() if key[:2] == (arch, subject) for c in found]
        if cells:
            rows.append([title, str(len(cells))] + [
                escape('; '.join(sorted({c.get(key, 'unknown') for c in cells})).replace('_', ' '))
                for key in keys])
    out.write(list_table([12, 6, 12, 12, 22, 12, 12, 12], rows) if len(rows) > 1
              else 'Nothing yet.\n')


def programs(folder, out):
    """Each line of TAP of the programs that run as a whole."""
    rows = []
    for arch in ('amd64', 'arm64', ''):
        for name in ('kills', 'many', 'power_loss', 'fuzz'):
            if (name == 'fuzz') == bool(arch):
                continue
            path = os.path.join(folder, arch, name + '.tap')
            if not os.path.exists(path):
                rows.append([arch or 'host', '\\-', 'not run', name])
                continue
            commit = read_result(path).get('commit', 'unknown')
            with open(path, encoding='utf-8') as f:
                for match in re.finditer(r'^(ok|not ok) \d+ (?:- )?(.*)$', f.read(), re.M):
                    rows.append([arch or 'host', escape(commit), match[1], escape(match[2])])
    out.write(section('Kills, many devices, power losses, fuzzing'))
    out.write(list_table([10, 20, 10, 60], [['where', 'commit', 'result', 'what']] + rows))


def every_cell(results, faults, out):
    """A table for each column of the summary that has results."""
    for title, arch, subject in COLUMNS:
        cells = {(c['fault'], c['queues'], c['ring'], c['load']): c
                 for key, found in results.items() if key[:2] == (arch, subject) for c in found}
        if not cells:
            continue
        heads = sorted({key[1:] for key in cells})
        rows = [['fault'] + [' '.join(h) for h in heads]]
        for fault in faults:
            rows.append([fault] + [one_cell(cells.get((fault,) + h)) for h in heads])
        out.write(section('Every cell: ' + title))
        out.write('Queues, ring and load; the outcome, and the longest time that a request '
                  'took.  \\-: not run.\n\n')
        out.write(list_table([16] + [12] * len(heads), rows))


def one_cell(cell):
    if not cell:
        return '\\-'
    if cell['outcome'] != 'ok':
        return cell['outcome']
    return 'ok %.1f s' % (int(cell.get('stall_ms', 0)) / 1000)


def report(folder, out):
    results = collections.defaultdict(list)
    for cell in read_results(folder):
        results[cell['arch'], cell['subject'], cell['fault']].append(cell)
    faults = matrix('faults')
    total = {subject: collections.Counter(
        line.split()[0] for line in matrix('--subject', subject, 'all'))
             for _, _, subject in COLUMNS}
    rows = [['fault'] + [c[0] for c in COLUMNS]]
    for fault in faults:
        rows.append([fault] + [summary(results[arch, subject, fault], total[subject][fault])
                               for _, arch, subject in COLUMNS])
    out.write(HEAD)
    out.write(list_table([20] * 5, rows))
    out.write(section('What was not ok, cell by cell'))
    bad = [c for _, arch, subject in COLUMNS for fault in faults
           for c in results[arch, subject, fault] if c['outcome'] not in ('ok', 'n/a', 'gap')]
    if bad:
        out.write(list_table([10, 15, 30, 10, 35], [
            ['arch', 'subject', 'cell', 'outcome', 'why']] + [
                [c['arch'], c['subject'], name_of(c), c['outcome'],
                 escape(c.get('note') or '(nothing was noted)')] for c in bad]))
    else:
        out.write('Nothing of what was run.\n')
    gaps = sorted({(c['fault'], c['note']) for cells in results.values() for c in cells
                   if c['outcome'] == 'gap'})
    if gaps:
        out.write(section('Known gaps'))
        out.write(list_table([20, 80], [['fault', 'why']] + [[f, escape(n)] for f, n in gaps]))
    programs(folder, out)
    configurations(results, out)
    every_cell(results, faults, out)


# ---- tests ----

LOG = '''TAP version 13
# # run: kernel=6.12.1 tested=vduse-blk-0.1 server=nbdkit_1.2
# # cell begins: subject=vduse-blk arch=amd64 fault=upgrade queues=1 ring=split load=raw
# # cell: subject=vduse-blk arch=amd64 fault=upgrade queues=1 ring=split load=raw outcome=gap \
errors=0 stall_ms=0 seconds=0 note=lacks a=b
# ok 1 vduse-blk: upgrade # SKIP known gap
# # cell begins: subject=vduse-blk arch=amd64 fault=close queues=4 ring=packed load=ext4
# # cell: subject=vduse-blk arch=amd64 fault=close queues=4 ring=packed load=ext4 outcome=ok \
errors=0 stall_ms=1234 seconds=9 note=
# # cell begins: subject=nbd arch=amd64 fault=close queues=4 ring=none load=raw
# # cell: subject=nbd arch=amd64 fault=close queues=4 ring=none load=raw outcome=dead errors=7 \
stall_ms=10 seconds=9 note=a read * fails
# # cell begins: subject=vduse-blk arch=amd64 fault=silent queues=4 ring=packed load=ext4
'''


def run_tests():
    with tempfile.TemporaryDirectory() as folder:
        made_with = {'stamp': 's1', 'commit': 'c0ffee'}
        passed_on = io.StringIO()
        collect(folder, made_with, None, io.StringIO(LOG), passed_on)
        while_running = len(list(read_results(folder)))
        collect(folder, made_with, '125', io.StringIO(LOG), io.StringIO())
        os.makedirs(folder + '/amd64', exist_ok=True)
        with open(folder + '/amd64/kills.tap', 'w', encoding='utf-8') as f:
            f.write('TAP version 13\n1..1\nnot ok 1 killed 9 times\n# commit=c0ffee\n')
        cells = {name_of(c): c for c in read_results(folder)}
        left = list(todo(folder, 'amd64', OURS, 's1', 'close-*'))
        again = list(todo(folder, 'amd64', OURS, 's2', 'close-*'))
        text = io.StringIO()
        report(folder, text)
        text = text.getvalue()
        tests = (
            ('a file for each cell', len(cells) == 4),
            ('while the guest runs, only cells that have ended', while_running == 3),
            ('what is read is passed on', passed_on.getvalue() == LOG),
            ('a note may hold anything', cells['upgrade-q1-split-raw']['note'] == 'lacks a=b'),
            ('the cell in which the guest ended', cells['silent-q4-packed-ext4']['outcome'] ==
             'crash' and '125' in cells['silent-q4-packed-ext4']['note']),
            ('ours fail, peers are findings, gaps are skips', count(folder) == (2, 2, 1)),
            ('what has a result is not run again', len(left) == 7 and len(again) == 8),
            ('report: worst outcome and longest stall', 'ok, 1.2 s (1 of 8 cells run)' in text),
            ('report: what was not run says so', 'not run' in text),
            ('report: findings are listed, and escaped', 'a read \\* fails' in text),
            ('report: gaps have their reason', 'lacks a=b' in text),
            ('report: what was tested, with what', 'c0ffee' in text and
             '     - nbdkit 1.2\n     - 6.12.1\n' in text),
            ('report: each cell', '     - ok 1.2 s\n' in text and '     - crash\n' in text),
            ('report: programs', '     - not ok\n     - killed 9 times\n' in text),
        )
    return tap.run('reliability', tests)


def main():
    args = sys.argv[1:]
    if args[:1] == ['todo'] and len(args) == 6:
        print('\n'.join(todo(*args[1:])))
    elif args[:1] == ['collect'] and len(args) in (4, 5):
        collect(args[1], {'stamp': args[2], 'commit': args[3]},
                args[4] if len(args) == 5 else None,
                io.TextIOWrapper(sys.stdin.buffer, errors='replace'), sys.stdout)
    elif args[:1] == ['count'] and len(args) == 2:
        print(*count(args[1]))
    elif args[:1] == ['report'] and len(args) == 2:
        report(args[1], sys.stdout)
    elif args == ['test']:
        sys.exit(run_tests())
    else:
        sys.exit('usage: reliability.py todo|collect|count|report|test ...')


main()
