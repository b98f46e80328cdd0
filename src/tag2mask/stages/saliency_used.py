"""Sources of the saliency that stages were made with: a mark on every result that does not come from tags alone."""

from collections.abc import Iterator

from tag2mask.engine.environment import Environment
from tag2mask.engine.stage import Stage
from tag2mask.stages.saliency_maps import SaliencyStage, TrueSaliency


def saliency_source(*stages: Stage) -> str:
    """Sources of the saliency that stages, or any stage they were made from, used; empty if they used none.

    Returns:
        the sources with what their makers learnt from, each once.
    """
    found = [stage.settings.provenance for stage in _with_inputs(*stages) if isinstance(stage, SaliencyStage)]
    return " and ".join(dict.fromkeys(found))


def true_saliency_used(*stages: Stage) -> bool:
    """True if saliency that stages used is the ground truth."""
    return any(isinstance(stage, TrueSaliency) for stage in _with_inputs(*stages))


def saliency_used(*stages: Stage) -> str:
    """`saliency_source` for a line of text: "no saliency", or "saliency: " and the source."""
    source = saliency_source(*stages)
    return f"saliency: {source}" if source else "no saliency"


def saliency_notes(env: Environment, *stages: Stage) -> list[str]:
    """Notes for readers of figures on the saliency that stages used, a sentence each; empty without."""
    notes = (stage.notes(env) for stage in _with_inputs(*stages) if isinstance(stage, SaliencyStage))
    return list(dict.fromkeys(note for found in notes for note in found))


def _with_inputs(*stages: Stage) -> Iterator[Stage]:
    """Stages and all they were made from, each once."""
    seen: set[int] = set()
    waiting = list(stages)
    while waiting:
        stage = waiting.pop()
        if id(stage) not in seen:
            seen.add(id(stage))
            yield stage
            waiting += stage.inputs.values()
