"""Run the properties for as long as one likes: ``python -m tests.fuzz --seconds 60``, from the root of the repository.

With ``--atheris`` (``pip install 'daskgmm[fuzz]'``) examples are steered by the code that they reach. What fails is
printed with the smallest example that fails.
"""

import argparse
import functools
import importlib
import itertools
import subprocess
import sys
import time
import traceback

from .properties import PROPERTIES, runnable

BY_NAME = {function.__name__: function for function in PROPERTIES}


def with_hypothesis(name, seconds):
    """Run one property for so long, in batches of new examples; return how many they were, and how long it took."""
    function, numbers, begin = BY_NAME[name], itertools.count(), time.monotonic()

    @functools.wraps(function)
    def counted(*values):
        next(numbers)
        function(*values)

    while time.monotonic() - begin < seconds:
        runnable(counted, max_examples=100, database=None)()
    return next(numbers), time.monotonic() - begin


def with_atheris(name, seconds):
    """Become a process of atheris, which ends by itself."""
    import atheris

    with atheris.instrument_imports(include=["daskgmm"]):
        for module in [m for m in sys.modules if m.partition(".")[0] in ("daskgmm", "tests")]:
            if module not in ("tests", "tests.fuzz", "__main__"):
                del sys.modules[module]
        properties = importlib.import_module("tests.fuzz.properties")
    function = properties.runnable(getattr(properties, name), database=None)
    properties.originals()
    options = [f"-max_total_time={seconds:.0f}", "-max_len=2000", "-rss_limit_mb=4096", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options], function.hypothesis.fuzz_one_input)
    atheris.Fuzz()


def main():
    """Read the options, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each property  [default: 60]")
    parser.add_argument("--atheris", action="store_true", help="steer examples by the code that they reach")
    parser.add_argument("properties", nargs="*", metavar="PROPERTY", help=f"some of: {', '.join(BY_NAME)}")
    options = parser.parse_args()
    if unknown := set(options.properties) - BY_NAME.keys():
        parser.error(f"no such property: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    if options.atheris and len(options.properties) == 1:
        with_atheris(options.properties[0], options.seconds)
        return
    failed = [name for name in options.properties or BY_NAME if not holds(name, options)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def holds(name, options):
    """Whether a property holds as far as that was tried; what fails is printed."""
    if options.atheris:  # in a process of its own: it never returns
        command = [sys.executable, "-m", "tests.fuzz", "--atheris", "--seconds", str(options.seconds), name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if "stat::number_of_executed_units" in line]
        print(f"{name}: {lines[-1].split()[-1] if lines else '?'} inputs, status {done.returncode}", flush=True)
        if done.returncode:
            print(done.stderr[-4000:], flush=True)
        return done.returncode == 0
    try:
        n, seconds = with_hypothesis(name, options.seconds)
    except Exception:  # what it found, with the example as a note
        print(f"{name}: failed\n{traceback.format_exc()}", flush=True)
        return False
    print(f"{name}: {n} inputs in {seconds:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
