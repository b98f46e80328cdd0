"""Environment of a stage: the data set, the workspace and the machine's settings."""

import dataclasses
import multiprocessing
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch

from tag2mask.base.processors import cpu_count
from tag2mask.base.settings import OMIT
from tag2mask.base.text import plural
from tag2mask.data.samples import Dataset, Sample, Split
from tag2mask.engine.fingerprint import fingerprint
from tag2mask.engine.progress import Reporter
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError

SplitName = Literal["train", "val"]
Reads = frozenset[Literal["images", "tags", "masks"]]
Network = TypeVar("Network", bound=torch.nn.Module)
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True)
class Runtime:
    """Machine and seed.

    All but `workers` enter every stage's fingerprint, because they can change bits; `threads` where it can
    (`Stage.by_threads`), which is in trainings.

    Args:
        seed: every random draw of a run comes from it.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        threads: threads of one process; 0 takes all processors.
        workers: processes that load training data while a GPU computes; 0 loads by `threads` between two steps, which
            is what serves a CPU best, all of whose processors compute; -1 chooses; 0 where there is no fork.
        channels_last: memory layout of convolutions; faster on most machines.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "32-true"
    threads: int = 0
    workers: int = field(default=-1, metadata=OMIT)
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision: '{self.precision}' is not one of {', '.join(PRECISIONS)}")
        if self.seed < 0:
            raise SettingsError(f"seed: {self.seed} is negative")
        if self.threads < 0:
            raise SettingsError(f"threads: {self.threads} is negative; 0 takes all processors")

    def resolved(self, *, device_needed: bool = True) -> "Runtime":
        """The same with "auto" and 0 replaced by what this machine has.

        Args:
            device_needed: False where nothing will be computed: the device need not be there then.

        Raises:
            SettingsError: the device is unknown, or needed and not there.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            kind = torch.device(device)
        except RuntimeError:
            raise SettingsError(f"device: '{device}' is unknown; choices: auto, cpu, cuda, cuda:N") from None
        if kind.type not in ("cpu", "cuda"):
            raise SettingsError(f"device: '{device}' is not supported; choices: auto, cpu, cuda, cuda:N")
        if device_needed and kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise SettingsError(f"device: '{device}' is not there; this machine has {found} {plural(found, 'GPU')}")
        processors = cpu_count()
        workers = self.workers if self.workers >= 0 else (min(8, processors // 2) if kind.type == "cuda" else 0)
        if "fork" not in multiprocessing.get_all_start_methods():
            workers = 0
        return dataclasses.replace(self, device=device, threads=self.threads or processors, workers=workers)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch knows it; call it on resolved settings."""
        return torch.device(self.device)

    @property
    def on_device_at_a_time(self) -> int:
        """Images that a network works on at a time, each in a thread of its own; call it on resolved settings.

        A GPU is given two, so that it computes one while another is read; more would take more of its memory and make
        it no faster.
        """
        return min(self.threads, 2) if self.torch_device.type == "cuda" else self.threads

    def apply(self) -> None:
        """Sets torch's threads, and float32 to mean float32: a GPU would otherwise round factors to ten bits (TF32)."""
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    def wait(self) -> None:
        """Waits for the device to finish, before a clock is read."""
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)

    def place(self, network: Network) -> Network:
        """Moves a network to the device, in the memory layout of choice."""
        network.to(self.torch_device)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        return network

    def autocast(self) -> torch.autocast:
        """Context of reduced precision for inference; does nothing at "32-true"."""
        return torch.autocast(self.torch_device.type, dtype=torch.bfloat16, enabled=self.precision != "32-true")


class Environment:
    """A data set, a workspace and a machine: all that a graph of stages needs to become artifacts.

    Args:
        dataset: the tagged images.
        workspace: where artifacts are.
        runtime: how to compute; resolved here.
        reporter: whom to tell.
        device_needed: False where artifacts are only looked at: their fingerprints need the name of the device alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        workspace: Workspace,
        runtime: Runtime | None = None,
        reporter: Reporter | None = None,
        *,
        device_needed: bool = True,
    ) -> None:
        self.dataset = dataset
        self.workspace = workspace
        self.runtime = (runtime or Runtime()).resolved(device_needed=device_needed)
        self.reporter = reporter or Reporter(quiet=True)
        self._data: dict[tuple[str, Reads], str] = {}

    def split(self, name: SplitName) -> Split:
        """A split of the data set.

        Raises:
            DataError: the data set has no such split.
        """
        split = self.dataset.train if name == "train" else self.dataset.val
        if split is None:
            raise DataError(f"{self.dataset.root}: the data set has no {name} list")
        return split

    def samples(self, split: SplitName, reads: Reads) -> tuple[Sample, ...]:
        """Samples of a split with all that `reads` does not name taken away.

        What a stage may know is thereby no matter of discipline: one that does not declare masks has none to open.
        """
        return tuple(
            dataclasses.replace(
                sample,
                tags=sample.tags if "tags" in reads else (),
                mask=sample.mask if "masks" in reads else None,
            )
            for sample in self.split(split).samples
        )

    def data_fingerprint(self, split: SplitName, reads: Reads) -> str:
        """Digest of what a stage reads of a split: ids, contents of images, tags, the classes' names, masks."""
        key = (split, reads)
        if key not in self._data:
            digest = self.workspace.digest
            rows = [
                [
                    sample.id,
                    digest(sample.image) if "images" in reads else "",
                    sample.tags,
                    sample.mask.digest(digest) if sample.mask is not None else "",
                ]
                for sample in self.samples(split, reads)
            ]
            self._data[key] = fingerprint([self.dataset.classes, rows])
        return self._data[key]

    def runtime_fingerprint(self, *, by_threads: bool) -> str:
        """Digest of the settings that can change bits, the kind of device among them.

        Args:
            by_threads: whether the number of threads is one of them.
        """
        threads = self.runtime.threads if by_threads else 0
        return fingerprint(dataclasses.replace(self.runtime, device=self.runtime.torch_device.type, threads=threads))
