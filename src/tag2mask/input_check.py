"""Reading every photograph and mask once, before anything is computed from them."""

import shlex
from collections.abc import Callable
from functools import partial

from tag2mask.data.images import read_image
from tag2mask.engine.environment import Environment
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.plan import Plan
from tag2mask.engine.stage import map_threads
from tag2mask.errors import DataError
from tag2mask.stages.labels import read_truth


def check_input(plan: Plan, env: Environment) -> None:
    """Decodes the photographs of a data set and, where a stage reads them, their masks; several at a time.

    A truncated photograph would otherwise end a run when its turn comes, after hours maybe. What was found sound is
    remembered by its content, so that the next run in the workspace does not read it again.

    Raises:
        DataError: one cannot be used; the message names the first and says how many.
    """
    checks = {name: check for name, check in _checks(plan, env).items() if not env.workspace.is_sound(name)}
    if not checks:
        return
    bad: dict[str, str] = {}

    def check(name: str) -> None:
        try:
            checks[name]()
            env.workspace.remember_sound(name)
        except DataError as error:
            bad[name] = str(error)

    with env.reporter.task("reading photographs", len(checks)) as task:
        map_threads(check, list(checks), env.runtime.threads, lambda _: task.advance())
    if bad:
        # In the order of the lists, not in that of threads. A mask is held against its photograph, so that a bad
        # photograph may be told twice.
        faults = list(dict.fromkeys(bad[name] for name in checks if name in bad))
        several = f"; {len(faults)} photographs or masks cannot be used" if len(faults) > 1 else ""
        command = f"tag2mask data check {shlex.quote(str(env.dataset.root))}"
        raise DataError(f"{faults[0]}{several}; `{command}` tells everything that is wrong with the data")


def _checks(plan: Plan, env: Environment) -> dict[str, Callable[[], object]]:
    """What has to be read, by a fingerprint of the content, in the order of the lists."""
    digest, classes = env.workspace.digest, env.dataset.num_classes
    checks: dict[str, Callable[[], object]] = {}
    for split in env.dataset.splits:
        for sample in split:
            checks[fingerprint(["photograph", digest(sample.image)])] = partial(read_image, sample.image)
    for stage in plan.stages():
        if "masks" in stage.reads:
            for sample in stage.samples(env):
                if sample.mask is not None:
                    content = ["mask", digest(sample.image), sample.mask.digest(digest), classes]
                    checks[fingerprint(content)] = partial(read_truth, sample, classes)
    return checks
