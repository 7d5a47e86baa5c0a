# SPDX-License-Identifier: GPL-2.0-only
#
# TAP for the Python programs of this suite and tools/reliability.py.


def run(prefix, tests):
    """Prints a line for each test, and returns whether one failed.

    A test is a name and either its result or a function, which raises what is wrong.
    """
    tests = list(tests)
    failed = False
    print('TAP version 13\n1..%d' % len(tests), flush=True)
    for i, (name, test) in enumerate(tests):
        passed = test
        if callable(test):
            try:
                test()
                passed = True
            except Exception as e:  # whatever it is, it is this test's failure
                print('# %r' % e)
                passed = False
        failed |= not passed
        print('%s %d %s: %s' % ('ok' if passed else 'not ok', i + 1, prefix, name), flush=True)
    return failed
