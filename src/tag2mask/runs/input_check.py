"""Reading every image, mask and given saliency map once, before anything is computed from them."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tag2mask.data.images import read_image
from tag2mask.engine.environment import Environment
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.stage import Stage, map_threads
from tag2mask.errors import DataError, WorkspaceError
from tag2mask.stages.labels import read_truth
from tag2mask.stages.saliency_maps import SaliencyStage


@dataclass(frozen=True)
class _Check:
    """An image, or its mask, that has to be read.

    Args:
        content: fingerprint of what is read; equal files have one.
        photograph: the image itself, or that of the mask.
        read: reads it; raises DataError if it cannot be used.
    """

    content: str
    photograph: Path
    read: Callable[[], object]


def check_input(stages: Sequence[Stage], env: Environment) -> None:
    """Decodes the images of a data set and, where a stage reads them, their masks; several at a time.

    Then the maps or the network that saliency comes from are tried, where the user gave them.

    A truncated image would otherwise end a run when its turn comes, after hours maybe. What was found sound is
    remembered by its content, so that the next run in the workspace does not read it again.

    Args:
        stages: that will be made, each after its inputs.
        env: what they will be made in.

    Raises:
        DataError: one cannot be used; the message names the first, images before masks and both in the order of the
            lists, and says of how many images they or their masks cannot be used.
        Tag2MaskError: a saliency map or the saliency network cannot be used.
    """
    checks = [check for check in _checks(stages, env) if not env.workspace.is_sound(check.content)]
    if checks:
        _read(checks, env)
    for stage in stages:
        if isinstance(stage, SaliencyStage) and not env.workspace.is_sound(stage.fingerprint(env)):
            stage.check(env)
            env.workspace.remember_sound(stage.fingerprint(env))


def _read(checks: list[_Check], env: Environment) -> None:
    """Reads what is to be checked, several at a time; errors are those of `check_input`."""
    # Equal files are read once, where they come first: an error names that file.
    reads: dict[str, Callable[[], object]] = {}
    for check in checks:
        reads.setdefault(check.content, check.read)
    bad: dict[str, str] = {}

    def read(content: str) -> None:
        try:
            reads[content]()
            env.workspace.remember_sound(content)
        except DataError as error:
            bad[content] = str(error)

    with env.reporter.task("reading images", len(reads)) as task:
        map_threads(read, list(reads), env.runtime.threads, lambda _: task.advance())
    if bad:
        _keep_what_is_sound(env)
        # In the order of the lists, not in that of threads. A mask is held against its image, whose own fault
        # would be told twice.
        faults: dict[Path, str] = {}
        for check in checks:
            if check.content in bad:
                faults.setdefault(check.photograph, bad[check.content])
        several = f"; {len(faults)} photographs or masks cannot be used" if len(faults) > 1 else ""
        command = f"tag2mask data check {shlex.quote(str(env.dataset.root))}"
        first = next(iter(faults.values()))
        raise DataError(f"{first}{several}; `{command}` tells everything that is wrong with the data")


def _keep_what_is_sound(env: Environment) -> None:
    """Writes what was found sound, where there is a workspace already; none is made for a run that cannot start."""
    # What ends the run is the data; that the memory could not be kept costs the next one some time only.
    if env.workspace.is_used:
        with contextlib.suppress(WorkspaceError, OSError), env.workspace.lock():
            env.workspace.save_digests()


def _checks(stages: Sequence[Stage], env: Environment) -> Iterator[_Check]:
    """Checks of all that has to be read: images in the order of the lists, then masks likewise."""
    digest, classes = env.workspace.digest, env.dataset.num_classes
    for split in env.dataset.splits:
        for sample in split:
            content = fingerprint(["photograph", digest(sample.image)])
            yield _Check(content, sample.image, partial(read_image, sample.image))
    for stage in stages:
        if "masks" in stage.reads:
            for sample in stage.samples(env):
                if sample.mask is not None:
                    content = fingerprint(["mask", digest(sample.image), sample.mask.digest(digest), classes])
                    yield _Check(content, sample.image, partial(read_truth, sample, classes))
