"""`python -m kdlab.artifacts list|verify|prune`: list, check and clean up the artifact store.

The teachers' cached answers, which lie beside the artifacts, are listed, checked and removed in the same way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlab.errors import UserError
from kdlab.runtime.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Run the action; returns the exit code: 0 done, 1 damage found by `verify`, 2 bad input or an unusable store."""
    chosen = _parser().parse_args(argv)
    from kdlab.runs.finished import command
    from kdlab.storage.files import user_errors

    def act() -> int:
        with user_errors(chosen.action, chosen.root):
            return _act(chosen)

    return command(act)


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(prog="python -m kdlab.artifacts", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    common = CommandLine(add_help=False)
    common.add_argument("--root", type=Path, default=Path("artifacts"), help="the store (default: artifacts)")
    common.add_argument("--kind", action="append", default=[], help="only this kind; repeatable")
    runs = CommandLine(add_help=False)
    runs.add_argument("--runs", type=Path, default=Path("outputs"), help="folder of the run folders (default: outputs)")
    actions.add_parser(
        "list", parents=[common, runs], help="kind, key, size, creation, cost, and the runs that used it"
    )
    actions.add_parser("verify", parents=[common], help="read every byte and compare checksums")
    prune = actions.add_parser(
        "prune",
        parents=[common, runs],
        help="show, or remove, damaged and unfinished artifacts, and those chosen below",
    )
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="also those not used for DAYS days")
    prune.add_argument("--unused", action="store_true", help="also those that no run folder below --runs names")
    mode = prune.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only show (the default)")
    mode.add_argument("--delete", action="store_true", help="remove them")
    return parser


def _act(chosen: argparse.Namespace) -> int:
    from kdlab.runs import artifact_maintenance as store

    days = getattr(chosen, "older_than", None)
    if days is not None and not days >= 0:
        raise UserError(f"--older-than {days:g}: a number of days from 0 on")
    kinds = store.kinds_of(chosen.root, chosen.kind)
    if chosen.action == "verify":
        return store.verify_store(chosen.root, kinds)
    uses = store.uses_of(chosen.runs)
    if chosen.action == "list":
        return store.list_store(chosen.root, kinds, uses)
    if chosen.unused and not chosen.runs.is_dir():
        raise UserError(f"--unused: there is no folder {chosen.runs}; name the folder of the runs with --runs")
    rule = store.PruneRule(frozenset(chosen.kind), chosen.older_than, chosen.unused)
    return store.prune_store(chosen.root, kinds, rule, uses, chosen.delete)


if __name__ == "__main__":
    sys.exit(main())
