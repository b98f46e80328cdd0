"""`tag2mask superpixels`: superpixels of photographs, without any training."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tag2mask.base.text import plural
from tag2mask.commands.parsers import add_command, add_machine, machine_of

if TYPE_CHECKING:
    from tag2mask.commands.parsers import Commands

DESCRIPTION = """\
Finds superpixels in photographs: pixels whose keys in a self-supervised transformer are alike. Nothing is trained, no
tags are needed, and a photograph gets as many as its content asks for.

  tag2mask superpixels photos --out superpixels
  tag2mask superpixels photos more/img_1.jpg --out finer --tau 0.7
  tag2mask superpixels photos --out dino --backbone vit_base_patch8_224.dino --centre none --tau 0.3
"""


def register(commands: "Commands") -> None:
    """Adds the command."""
    parser = add_command(
        commands, "superpixels", _superpixels, "superpixels of photographs, nothing trained", DESCRIPTION
    )
    parser.add_argument(
        "photographs", metavar="PHOTOS", nargs="+", help="files, or folders searched with their subfolders"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="gets labels/ (16-bit PNG) and boundaries/ (JPEG)")
    parser.add_argument(
        "--tau",
        type=float,
        default=0.6,
        help="similarity above which patches go together, 0 to 1; the higher, the more superpixels "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        default="vit_small_patch14_dinov2",
        help="a vision transformer; `tag2mask list-backbones 'vit*'` shows them (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", metavar="W", default="auto", help="auto, package, hub, none or a file (default: %(default)s)"
    )
    parser.add_argument(
        "--long_side",
        metavar="N",
        type=int,
        default=448,
        help="long side at which the transformer sees a photograph, 0 its own (default: %(default)s)",
    )
    parser.add_argument(
        "--centre",
        choices=("bias", "mean", "none"),
        default="bias",
        help="what is subtracted from keys: the layer's key bias, the mean key, nothing (default: %(default)s)",
    )
    parser.add_argument("--highest_first", action="store_true", help="begin with the most connected patches")
    parser.add_argument("--no_crf", action="store_true", help="leave the dense CRF out: borders follow patches")
    add_machine(parser)


def _superpixels(arguments: argparse.Namespace) -> int:
    from tag2mask.api.superpixels import superpixels

    written = superpixels(
        arguments.photographs,
        arguments.out,
        tau=arguments.tau,
        backbone=arguments.backbone,
        weights=arguments.weights,
        long_side=arguments.long_side,
        centre=arguments.centre,
        highest_first=arguments.highest_first,
        use_crf=not arguments.no_crf,
        **machine_of(arguments),
    )
    mean, out = sum(found.count for found in written) / len(written), Path(arguments.out)
    print(f"{mean:.1f} superpixels per photograph on average")
    print(f"{len(written)} label {plural(len(written), 'map')}: {out / 'labels'}")
    print(f"{len(written)} {plural(len(written), 'picture')}:   {out / 'boundaries'}")
    return 0
