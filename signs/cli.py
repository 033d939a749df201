"""The command `signs`: a table of sub-commands, each of them a module.

Only the module of the chosen one is imported: each needs other packages, some an environment of
their own. A module has `run(arguments)`, which returns the exit status, and `add_arguments(parser)`
if it takes any; its docstring is the long help.
"""

import argparse
import errno
import importlib
import os
import sys

from signs.errors import UserError

COMMANDS = {
    "predict": ("operations.predict", "name the signs on photos"),
    "info": ("operations.info", "say which classifier is in models/classifier"),
    "inspect": ("operations.inspect", "say what a folder of photos is understood as"),
    "synthesize": ("operations.synthesize", "make photos of any country's signs from drawings"),
    "judge": ("operations.judge", "judge anybody's classifier on photos"),
    "audit": ("operations.audit", "look for leaks, conflicts and other faults in a data set"),
    "label": ("operations.label", "say on a page what photos show, for the next training"),
    "export": ("operations.export", "write the classifier in other formats"),
    "bulk": ("scale.bulk", "predict or preprocess millions of photos with Ray"),
    "sweep": ("scale.sweep", "search for better settings"),
    "verify": ("operations.reproduce", "check that the committed results come out again"),
    "diff": ("operations.diff", "compare metrics, settings and pictures with a revision"),
    "gate": ("operations.gate", "decide whether the classifier may be deployed"),
    "smoke-photos": ("operations.smoke_photos", "choose the photos of the smoke test"),
    "drift": ("serving.drift", "compare a day of predictions with the validation photos"),
    "sbom": ("operations.sbom", "list what the service's image contains"),
    "vulnerabilities": ("operations.vulnerabilities", "look for them in the locked packages"),
    "download": ("operations.download", "fetch the photos of data/signs"),
}
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def main() -> None:
    """Exit with 0 if all went well, 1 if not, 2 if the command makes no sense, 130 on Ctrl-C.

    And with 141 if nobody reads the output any more.
    """
    try:
        arguments = _parser(sys.argv[1:2]).parse_args()
        sys.exit(arguments.run(arguments))
    except UserError as error:
        sys.exit(f"ERROR: {error}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("signs"):
            raise
        sys.exit(
            f"ERROR: `signs {sys.argv[1]}` needs {error.name}, which is not installed here. A "
            "clone of the repository has it after `make setup`; predict and info need no clone."
        )
    except BrokenPipeError:
        # What is still buffered has nowhere to go; closing would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        sys.exit(f"ERROR: the disk is full ({error}). Free some space and run the command again.")
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        sys.exit(130)


def _parser(chosen: list[str]) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one knows its arguments."""
    parser = argparse.ArgumentParser(
        prog="signs",
        description="Use, check and release the classifier of traffic signs.",
        epilog="`signs COMMAND --help` explains a command. Run all but predict and info in the "
        "root of the repository.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in chosen:
            module = importlib.import_module(f"signs.{module_name}")
            command.description = module.__doc__
            if hasattr(module, "add_arguments"):
                module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
