"""The developer's verbs. `python3 dev.py` lists them; on Windows say `py dev.py`."""

import argparse
import sys

from lab import build, here
from lab.steps import Failure, exclusive, say


def prepare(lanes, debug=False):
    """Set up and build for the lanes, whatever of it is missing."""
    with exclusive():
        here.setup(lanes)
        for lane in lanes:
            build.build(lane, debug)


def setup(options):
    with exclusive():
        here.setup(chosen(options))
    say("set up: " + ", ".join(chosen(options)))


def build_(options):
    prepare(chosen(options), options.debug)
    for lane in chosen(options):
        say(f"built for {lane}")


def run(options):
    lane = options.python or here.default_lane()
    prepare([lane], options.debug)
    argv, env = here.command(lane, build.library(lane, options.debug))
    return here.call(argv + options.arguments, env)


def chosen(options):
    return [options.python] if options.python else here.lanes()


def split(words):
    """dev.py's own words, and those after them that belong to the Windows Python, as they are."""
    if words[:1] != ["run"]:
        return words, []
    own = 1
    while own < len(words) and words[own].startswith("--"):
        own += 2 if words[own] == "--python" else 1
    return words[:own], words[own:]


def main():
    parser = argparse.ArgumentParser(prog="dev.py", description="The developer's verbs.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    lane = argparse.ArgumentParser(add_help=False)
    lane.add_argument("--python", choices=here.lanes(), metavar="LANE")
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true")
    verbs.add_parser("setup", parents=[lane]).set_defaults(verb=setup)
    verbs.add_parser("build", parents=[lane, debug]).set_defaults(verb=build_)
    verbs.add_parser("run", parents=[lane, debug]).set_defaults(verb=run)
    words, arguments = split(sys.argv[1:])
    options = parser.parse_args(words)
    options.arguments = arguments
    if not hasattr(options, "verb"):
        parser.print_help()
        return 0
    try:
        return options.verb(options) or 0
    except Failure as problem:
        print(f"dev.py: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
