"""One finished run of `cam` on the shapes; tests look at what its stages made."""

from typing import NamedTuple, TypeVar

import pytest

from tag2mask.configure import as_arguments, parse_arguments
from tag2mask.engine.environment import Environment
from tag2mask.engine.plan import Plan, run_plan
from tag2mask.engine.progress import Reporter
from tag2mask.engine.stage import Stage
from tag2mask.methods.cam import CamSettings
from tag2mask.methods.registry import METHODS
from tag2mask.verbs import prepare
from tests.builders import TINY, write_shapes

S = TypeVar("S", bound=Stage)


class Finished(NamedTuple):
    """A run whose stages are all made."""

    env: Environment
    plan: Plan
    settings: CamSettings

    def stage(self, kind: type[S]) -> S:
        """The plan's stage of a kind."""
        (found,) = (stage for stage in self.plan.distinct(self.env) if type(stage) is kind)
        return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made once, and changed by no test; photograph shape_05 has no tag."""
    folder = tmp_path_factory.mktemp("finished")
    table = write_shapes(folder / "data") / "tags.csv"
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows[:6], rows[6].split(",")[0] + ",", *rows[7:]]) + "\n")
    places = {"data": folder / "data", "workspace": folder / "workspace", "device": "cpu", "threads": 1, "bound": True}
    configuration = parse_arguments(METHODS["cam"], as_arguments({**places, **TINY}))
    env, plan = prepare(configuration, Reporter(quiet=True))
    run_plan(plan, env)
    return Finished(env, plan, configuration.settings)
