"""The simulation's command line; runs inside the program that main.c makes. See lab/sim.py."""

import os
import sys
import threading
import time

import _knobs
import _scale
import _sim

FUNCTIONS = _sim.functions()

# Short runs whose every call is made to fail, one after the other. Knobs as in _knobs.KNOBS.
SHORT = {
    "services": 1,
    "preempt": 0,
    "stalls": 0,
    "faults": 0,
    "resets": 0,
    "shorts": 0,
    "probe": 1,
    "idle": 0,
    "limits": 0,
    "max_connections": 0,
    "unborn": 0,
    "trace": 0,
    "shared": 0,
    "linger": 3000,
    "stop": 500,
    "workers": 2,
    "polled": 0,
    "looped": 0,
    "filtered": 0,
    "files": 0,
    "transmits": 1,
    "discards": 0,
    "disks": 0,
    "datagrams": 0,
    "accepts": 2,
    "max_accepts": 0,
    "accept_receive": 0,
    "reads": 1,
    "clients": 1,
    "listeners": 1,
    "handles": 1,
    "skips": 1,
    "room": 8000,
    "bytes": 500,
    "calm": 1,
    "late": 0,
    "buffer": 512,
}
SCENARIOS = {
    "echo": {"echo": 1},
    "discard": {"echo": 1, "discards": 1, "reads": 2, "bytes": 3000},
    "protocol": {"echo": 0},
    "no skip": {"echo": 0, "skips": 0},
    "no handles": {"echo": 0, "handles": 0},
    "flood": {"echo": 0, "bytes": 12000, "room": 64},
    "short sends": {"echo": 1, "bytes": 3000, "shorts": 2},
    "several receives": {"echo": 1, "reads": 5, "bytes": 12000},
    "data with the accept": {"echo": 1, "accept_receive": 1, "clients": 3},
    "a crowd": {"echo": 1, "clients": 8, "accepts": 1, "max_accepts": 30, "bytes": 10},
    "two listeners": {"echo": 0, "clients": 4, "listeners": 2},
    "resets": {"echo": 0, "clients": 3, "resets": 5},
    "resets in the backlog": {"echo": 0, "clients": 12, "resets": 1, "accepts": 1, "bytes": 10},
    "idle timeout": {"echo": 0, "clients": 2, "idle": 5000, "linger": 20000, "probe": 0},
    "write limits": {"echo": 0, "clients": 2, "limits": 4, "calm": 0, "room": 64, "probe": 0},
    "meddling": {"echo": 0, "clients": 3, "calm": 0, "trace": 1},
    "full": {"echo": 0, "clients": 4, "max_connections": 2, "probe": 0},
    "shared with others": {"echo": 1, "clients": 4, "shared": 1},
    "shared later": {"echo": 1, "clients": 4, "shared": 2},
    "shared, data with the accept": {
        "echo": 1,
        "accept_receive": 1,
        "clients": 4,
        "max_accepts": 3,
        "shared": 1,
    },
    "two services": {"echo": 1, "services": 2, "clients": 4},
    "polled": {"echo": 0, "workers": 1, "polled": 1, "clients": 3},
    "a loop": {
        "echo": 0,
        "workers": 1,
        "polled": 1,
        "looped": 1,
        "clients": 4,
        "calm": 0,
        "probe": 0,
    },
    "a loop with a full queue": {
        "echo": 0,
        "workers": 1,
        "polled": 1,
        "looped": 1,
        "clients": 3,
        "room": 64,
        "bytes": 3000,
        "calm": 0,
        "probe": 0,
    },
    "a filter": {"echo": 0, "filtered": 1, "clients": 2, "calm": 0, "room": 500, "bytes": 3000},
    "a filter on a loop": {
        "echo": 0,
        "filtered": 1,
        "workers": 1,
        "polled": 1,
        "looped": 1,
        "clients": 3,
        "room": 500,
        "calm": 0,
        "probe": 0,
    },
    "files": {"echo": 0, "files": 1, "clients": 2, "calm": 0, "shorts": 5},
    "files without TransmitFile": {
        "echo": 0,
        "files": 1,
        "transmits": 0,
        "clients": 2,
        "calm": 0,
        "room": 500,
    },
    "files on a loop": {
        "echo": 0,
        "files": 1,
        "workers": 1,
        "polled": 1,
        "looped": 1,
        "clients": 3,
        "calm": 0,
        "probe": 0,
    },
    "files through a filter": {"echo": 0, "files": 1, "filtered": 1, "clients": 2, "calm": 0},
    "a file that is read and written": {"echo": 0, "disks": 1, "bytes": 10},
    "files without skipping": {
        "echo": 1,
        "disks": 2,
        "skips": 0,
        "bytes": 10,
        "late": 1,
        "probe": 0,
    },
    "files that a loop has": {
        "echo": 0,
        "disks": 1,
        "workers": 1,
        "polled": 1,
        "looped": 1,
        "clients": 2,
        "calm": 0,
        "probe": 0,
    },
    "datagrams": {"echo": 1, "datagrams": 1, "calm": 0},
    "datagrams on a polled port": {
        "echo": 0,
        "workers": 1,
        "polled": 1,
        "datagrams": 1,
        "late": 1,
        "probe": 0,
    },
    "stops beside others": {
        "echo": 0,
        "services": 3,
        "clients": 6,
        "linger": 50,
        "probe": 0,
        "late": 1,
        "calm": 0,
    },
    "stop under load": {
        "echo": 0,
        "clients": 4,
        "bytes": 12000,
        "linger": 0,
        "probe": 0,
        "late": 1,
        "preempt": 5,
    },
    "stop of an echo": {
        "echo": 1,
        "clients": 4,
        "bytes": 12000,
        "linger": 0,
        "probe": 0,
        "late": 1,
        "accept_receive": 1,
        "room": 64,
    },
    "stop with silent clients": {
        "echo": 1,
        "clients": 16,
        "bytes": 0,
        "accepts": 4,
        "accept_receive": 1,
        "linger": 50,
        "probe": 0,
        "late": 1,
    },
    "stop of a shared listener": {
        "echo": 1,
        "clients": 16,
        "bytes": 10,
        "accepts": 4,
        "shared": 1,
        "linger": 0,
        "probe": 0,
        "late": 1,
    },
    "stop of one shared later": {
        "echo": 1,
        "clients": 4,
        "bytes": 10,
        "accepts": 4,
        "shared": 2,
        "linger": 50,
        "probe": 0,
        "late": 1,
    },
    "stop after silence": {
        "echo": 0,
        "clients": 2,
        "linger": 3000,
        "stop": 10,
        "probe": 0,
        "late": 1,
        "calm": 0,
    },
}


# Seconds that one run may take; they take milliseconds, and with real threads on a busy machine a
# second.
PATIENCE_S = 60


class Watch:
    """Runs the runs, and ends the process when one of them does not end: a list that has become a
    circle is gone around without a call of the kernel, which could count them.

    A thread looks, which it can because a run does not hold the GIL.
    """

    def __init__(self, patience_s):
        self.patience_s = patience_s
        self.current = None
        threading.Thread(target=self._look, daemon=True).start()

    def run(self, seed, knobs, fault=None, title=""):
        """_sim.run()."""
        self.current = title or f"seed {seed}", time.monotonic()
        digest = _sim.run(seed, knobs, fault, title)
        self.current = None
        return digest

    def _look(self):
        while True:
            time.sleep(min(1, self.patience_s / 10 + 0.001))
            current = self.current
            if current and time.monotonic() - current[1] > self.patience_s:
                print(f"{current[0]} failed\nit does not end", flush=True)
                os._exit(1)


def scenario_knobs(name, profile):
    return {**SHORT, **SCENARIOS[name], "profile": profile}


class Clock:
    def __init__(self, seconds):
        self.begin = time.monotonic()
        self.seconds = seconds

    def passed(self):
        return time.monotonic() - self.begin

    def over(self):
        return self.seconds > 0 and self.passed() > self.seconds


def many(watch, seed, runs, knobs, clock, trace=False):
    """So many runs, from this seed on."""
    done = digest = 0
    while done < runs and not clock.over():
        digest = (digest * 31 + watch.run(seed + done, knobs)) % (1 << 64)
        if trace:
            _sim.print_events()
        done += 1
    return done, digest


def sweep(watch, part, parts, seeds):
    """Every call of every function in the short scenarios fails once, with every code; then it
    and all that follow. Returns the number of runs, and of calls that failed by function."""
    runs = 0
    failed = dict.fromkeys((name for name, codes in FUNCTIONS if codes), 0)
    cases = [
        (name, profile, seed)
        for name in SCENARIOS
        for profile in range(len(_sim.profiles()))
        for seed in range(1, seeds + 1)
    ]
    for name, profile, seed in cases[part::parts]:
        knobs = scenario_knobs(name, profile)
        where = f"scenario {name!r}, profile {_sim.profiles()[profile]}, seed {seed}"
        watch.run(seed, knobs, title=where)
        counts = [_sim.calls(index) for index in range(len(FUNCTIONS))]
        for index, (function, codes) in enumerate(FUNCTIONS):
            for call in range(1, counts[index] + 1):
                for code in range(len(codes)):
                    for sticky in (False, True):
                        # All later calls fail alike whatever the code; and no server stops
                        # where what a stop needs fails for good.
                        if sticky and (
                            code > 0 or knobs["late"] or call not in (1, counts[index] // 2 + 1)
                        ):
                            continue
                        watch.run(
                            seed,
                            knobs,
                            (index, call, code, sticky),
                            f"{where}, {function} call {call} failing with {codes[code]}"
                            + " and all later ones" * sticky
                            + f" (--fault {name!r} {profile} {seed} {function} {call} {code}"
                            f" {int(sticky)})",
                        )
                        runs += 1
                        failed[function] += _sim.fault_hit()
    return runs, failed


def main(words):
    options = {
        "--seed": 1,
        "--runs": 1,
        "--seconds": 0,
        "--part": 0,
        "--parts": 1,
        "--seeds": 1,
        "--clients": 1000,
        "--patience": PATIENCE_S,
        "--framing": 0,
    }
    knobs = {}
    flags = set()
    words = list(words)
    while words:
        word = words.pop(0)
        if word == "--set":
            name, _, value = words.pop(0).partition("=")
            if name not in _knobs.KNOBS:
                sys.exit(f"--set: there is no {name!r}, but {', '.join(_knobs.KNOBS)}")
            knobs[name] = int(value)
        elif word == "--fault":
            name, profile, seed, function, call, code, sticky = words
            index = [name for name, _ in FUNCTIONS].index(function)
            _sim.run(
                int(seed),
                scenario_knobs(name, int(profile)),
                (index, int(call), int(code), sticky == "1"),
                " ".join(words),
            )
            _sim.print_events()
            return
        elif word in options:
            options[word] = int(words.pop(0))
        else:
            flags.add(word)
    clock = Clock(options["--seconds"])
    watch = Watch(options["--patience"])
    if "--functions" in flags:
        for name, codes in FUNCTIONS:
            print(name, *codes)
    elif options["--framing"]:
        # Here, since it needs what only the host's environment has.
        import framing

        print(framing.run(options["--framing"]))
    elif "--scale" in flags:
        print(*_scale.run(options["--clients"], "--idle" in flags))
    elif "--sweep" in flags:
        runs, failed = sweep(watch, options["--part"], options["--parts"], options["--seeds"])
        print(runs)
        for name, count in failed.items():
            print(name, count)
    else:
        done, digest = many(
            watch, options["--seed"], options["--runs"], knobs, clock, "--trace" in flags
        )
        print(
            f"{done} runs from seed {options['--seed']}, all good; "
            f"digest of their events {digest:016x}"
        )
    print(f"{clock.passed():.1f} s", file=sys.stderr)
