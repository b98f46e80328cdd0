"""The command `tag2mask`."""

import argparse
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from tag2mask import __version__
from tag2mask.base.text import plural
from tag2mask.commands import data, report, study, superpixels, workspace
from tag2mask.commands.parsers import add_command, add_machine, machine_of
from tag2mask.errors import Tag2MaskError, full_memory

DESCRIPTION = """\
From image tags to pixel masks: trains a segmentation network from photographs with tags ("dog, sofa"), no masks drawn.

  tag2mask demo                                      see it work on built-in data (about ten minutes)
  tag2mask run --data photos                         train on your own tagged photographs
  tag2mask predict MODEL photos --out masks          masks and overlays for more photographs
"""

RUN_HELP = """\
Trains METHOD on tagged photographs, predicts masks and scores them where there is truth. What an earlier run made is
used again, and a run that was killed goes on where it stopped. Without METHOD the run takes the method of the preset
that --config names; without both it takes the default method with its preset for this machine, and says which.

  tag2mask run --data photos
  tag2mask run cam --data photos --config small/cam
  tag2mask run cam --data photos --config small/cam --dry_run
  tag2mask run cam --data photos --config my.yaml --segmenter.training.epochs 3

`tag2mask run METHOD --help` shows every setting of a method; --print_config writes them as YAML to start a file from.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: the command line's words after the program's name; the process's own by default.

    Returns:
        exit status: 0 done, 2 an error that was told in one line, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = _spelled([word for word in words if word != "--debug"])
    # Names of files need not be text; standard error takes them all the same by itself.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    usual = warnings.formatwarning
    if not debug:
        warnings.formatwarning = _warning_line
    try:
        return _dispatch(words)
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough; the interpreter must not trip over it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("tag2mask: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = full_memory(error)
        if not message:
            if not isinstance(error, Tag2MaskError | OSError | FloatingPointError):
                raise
            message = _message(error)
        print(f"tag2mask: error: {message}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = usual


def _spelled(words: Sequence[str]) -> list[str]:
    """Options as they are defined: ``--long-side`` is ``--long_side``, up to a ``--`` that ends the options."""
    end = words.index("--") if "--" in words else len(words)
    spelled = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        spelled.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else word)
    return [*spelled, *words[end:]]


def _warning_line(message: Warning | str, *where: object, **more: object) -> str:
    """A warning as users read it: one line, without the source line that gave it."""
    return f"tag2mask: warning: {' '.join(str(message).split())}\n"


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return " ".join(str(error).split())


def _dispatch(words: list[str]) -> int:
    # `run` has a parser of its own, made of the method's settings, whether the method is named or chosen.
    if words[:1] == ["run"] and len(words) > 1:
        if not words[1].startswith("-"):
            return _run(words[1], words[2:])
        if not {"-h", "--help"} & set(words):
            return _run(None, words[1:])
        words = ["run", "--help"]
    # Anything else is argparse's to read, the help of a run without a method among it.
    arguments = _parser().parse_args(words)
    handler: Callable[[argparse.Namespace], int] = arguments.handler
    return handler(arguments)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tag2mask", description=DESCRIPTION, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"tag2mask {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sub = add_command(commands, "demo", _demo, "draw the demo data, train on its tags, show the result")
    sub.add_argument("--out", default="tag2mask-demo", help="folder for data and workspace (default: %(default)s)")
    sub.add_argument("--config", default="demo/cam", help="preset or YAML for the method cam (default: %(default)s)")
    add_machine(sub)

    sub = add_command(commands, "run", _run_help, "train a method on tagged photographs", description=RUN_HELP)
    sub.usage = "tag2mask run [METHOD] --data FOLDER [--config PRESET] [--dry_run] [--SETTING VALUE ...]"
    sub.add_argument("method", metavar="METHOD", nargs="?", help="one of `tag2mask list-methods`")
    sub.set_defaults(show_help=sub.print_help)

    sub = add_command(commands, "predict", _predict, "masks and overlays of photographs with a trained model")
    sub.add_argument("model", metavar="MODEL", help="model.safetensors of a run")
    sub.add_argument(
        "photographs", metavar="PHOTOS", nargs="+", help="files, or folders searched with their subfolders"
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="gets masks/ (palette PNG) and overlays/ (JPEG)")
    sub.add_argument("--tags", metavar="CSV", help="image_path,label: restrict each mask to its photograph's tags")
    sub.add_argument("--no_crf", action="store_true", help="leave the dense CRF out")
    add_machine(sub)

    sub = add_command(commands, "evaluate", _evaluate, "score a folder of masks against a folder of true masks")
    sub.add_argument("predictions", metavar="PREDICTIONS", help="folder of palette PNGs")
    sub.add_argument("truth", metavar="TRUTH", help="folder of true masks, paired by name; 255 is left out")
    sub.add_argument("--classes", metavar="FILE", help="names of the foreground classes, one per line")
    sub.add_argument("--list", metavar="FILE", help="score these ids alone, one per line (VOC's val.txt)")
    sub.add_argument("--json", metavar="FILE", help="write the scores to this file too")

    add_command(commands, "list-methods", _list_methods, "the methods there are")
    sub = add_command(commands, "list-backbones", _list_backbones, "the pretrained networks methods can be built on")
    sub.add_argument("pattern", nargs="?", help="names that fit, for example 'resnet*' (default: those tested)")
    for room in (superpixels, data, report, study, workspace):
        room.register(commands)
    return parser


def _run_help(arguments: argparse.Namespace) -> int:
    # Reached by `run` alone: with anything after it the parser of a method takes over.
    arguments.show_help()
    return 2


def _run(name: str | None, words: list[str]) -> int:
    from tag2mask.api.run import dry_run, run_configuration
    from tag2mask.engine.graph import forecast_table
    from tag2mask.engine.progress import Reporter
    from tag2mask.runs.presets import choose
    from tag2mask.runs.settings import parse_arguments

    dry = "--dry_run" in words
    choice = choose(name, [word for word in words if word != "--dry_run"])
    reporter = Reporter()
    if choice.note:
        reporter.say(choice.note)
    configuration = parse_arguments(choice.method, choice.arguments)
    if dry:
        print(forecast_table(*dry_run(configuration, reporter)))
        return 0
    return _show(run_configuration(configuration, reporter))


def _demo(arguments: argparse.Namespace) -> int:
    from tag2mask.api.demo import demo

    return _show(demo(arguments.out, config=arguments.config, **machine_of(arguments)))


def _show(result: object) -> int:
    from tag2mask.runs.folder import RunResult

    assert isinstance(result, RunResult)
    print("\n".join(result.headlines))
    print(f"model:    {result.model}")
    print(f"masks:    {result.masks}")
    for path in result.pictures:
        print(f"picture:  {path}")
    print(f"summary:  {result.folder / 'summary.md'}")
    print(f"report:   {result.report}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from tag2mask.api.predict import predict

    written = predict(
        arguments.model,
        arguments.photographs,
        arguments.out,
        tags=arguments.tags,
        use_crf=False if arguments.no_crf else None,
        **machine_of(arguments),
    )
    print(f"{len(written)} {plural(len(written), 'mask')}:    {Path(arguments.out) / 'masks'}")
    print(f"{len(written)} {plural(len(written), 'overlay')}: {Path(arguments.out) / 'overlays'}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from tag2mask.api.evaluate import evaluate
    from tag2mask.base.files import write_json
    from tag2mask.data.records import read_class_names, read_text

    classes = read_class_names(Path(arguments.classes)) if arguments.classes else None
    ids = None
    if arguments.list:
        words = [line.split() for line in read_text(Path(arguments.list)).splitlines() if line.strip()]
        # A line is an id, or VOC's pair of an image and its mask.
        ids = [parts[0] if len(parts) == 1 else Path(parts[-1]).stem for parts in words]
    scores = evaluate(arguments.predictions, arguments.truth, classes=classes, ids=ids)
    print(scores.table())
    if arguments.json:
        write_json(Path(arguments.json), scores.to_dict())
    return 0


def _list_methods(arguments: argparse.Namespace) -> int:
    from tag2mask.api.lists import list_methods

    for method in list_methods():
        print(f"{method.name:<12} {method.title}  [{method.source}]")
    return 0


def _list_backbones(arguments: argparse.Namespace) -> int:
    from tag2mask.api.lists import list_backbones

    found = list_backbones(arguments.pattern or "*")
    if not arguments.pattern:
        found = [info for info in found if info.tested]
    print(f"{'name':<34} {'family':<13} {'strides':<11} {'offline':<8} note")
    for info in found:
        strides = ", ".join(map(str, info.output_strides))
        print(f"{info.name:<34} {info.family:<13} {strides:<11} {'yes' if info.offline else '-':<8} {info.note}")
    if not arguments.pattern:
        print("any timm network that takes an output stride works: tag2mask list-backbones 'convnext*'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
