"""Requests in, completions and scores out, by workers of a Ray cluster, each with a local engine of its own.

Requests are cut into the groups of the local engine, in their order, and each group is computed as a whole by one worker:
what comes out is what one process gives, whichever worker computed it. A worker that is lost is started again, and its group
with it.

Plain actors and not Ray Data: a data set's actors live for one pass over it, so that every call would load the model
again, and it reads its rows to the end before the first result. Restarts and retries are Ray's own in both.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.adapters import not_opened
from selfalign.engines.base import Completion, GenerateRequest, Load, ScoreRequest, ScoreResult, Watch
from selfalign.engines.huggingface import HuggingFace
from selfalign.errors import ConfigError, SelfAlignError, StageError
from selfalign.identity import transient

if TYPE_CHECKING:
    from selfalign.engines.base import Engine, EngineSettings

GROUPS_PER_WORKER = 4
"""Groups that a caller hands over for each worker: workers wait for one another at a call's end alone, and a kill costs
what a call computes."""
RETRIES = 3
"""Further attempts at a group whose worker was lost: a group that kills every worker is an error in the end."""
LOCAL = "local"


@dataclass(frozen=True)
class Ray:
    """A local engine in each of many processes, on one machine or on many. Hydra group `engine=ray`."""

    inner: Any = field(default_factory=HuggingFace)
    """The local engine of every worker (`engine.inner.batch_size=64`). Its results are this engine's, its name theirs."""
    workers: int = transient(2)
    """Processes that each load the model (> 0)."""
    gpus_per_worker: float = transient(1.0)
    """GPUs that each of them gets (>= 0; 0 = it computes on the CPU)."""
    cpus_per_worker: float = transient(1.0)
    """CPUs that Ray counts for each of them (>= 0), to spread them over a cluster's nodes."""
    address: str = transient(LOCAL)
    """`local` starts Ray on this machine, for as long as the engine is open; `auto` or `host:port` is a running cluster,
    whose nodes see the model's and the run's folders under the same paths."""

    def identity(self) -> Mapping[str, Any]:
        """The local engine's: where something is computed changes nothing."""
        return self.inner.identity()

    def problems(self) -> list[str]:
        """What is wrong with the local engine and the numbers, or that Ray is not installed."""
        problems = _renamed(self.inner.problems())
        if find_spec("ray") is None:
            problems.append(
                "engine: expected the package ray for engine=ray, found none; install it with "
                "pip install 'selfalign[ray]', or use engine=huggingface"
            )
        if self.workers < 1:
            problems.append(f"engine.workers: expected 1 or more, found {self.workers}; raise it")
        for name in ("gpus_per_worker", "cpus_per_worker"):
            if not 0 <= getattr(self, name) < float("inf"):
                problems.append(f"engine.{name}: expected 0 or more, found {getattr(self, name)}; set it to 0 or 1")
        if not self.address:
            problems.append(f"engine.address: expected {LOCAL}, auto or host:port, found nothing; set it to {LOCAL}")
        return problems

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, counted in this process."""
        return self.inner.count_tokens(text)

    def counted(self) -> str:
        """What the local engine counts."""
        return self.inner.counted()

    def context_length(self) -> int:
        """Context window of the local engine in tokens."""
        return self.inner.context_length()

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[RayEngine]:
        """Workers that have loaded the model, and the LoRA adapters on top; all are ended with the block.

        Raises ConfigError listing every problem of the settings, also for a machine with fewer GPUs than the workers need,
        StageError where Ray does not start or is not found, and what the local engine raises when it opens.
        """
        if problems := self.problems():
            raise ConfigError(problems)
        import ray

        with self._cluster():
            # Ray makes methods of its own of what it is given, which no type says.
            kind: Any = ray.remote(
                num_gpus=self.gpus_per_worker,
                num_cpus=self.cpus_per_worker,
                max_restarts=-1,
                max_task_retries=RETRIES,
            )(_Worker)
            every = [one.resolve() for one in (adapter, *more) if one is not None]
            workers: list[Any] = [kind.remote(self.inner, every, Path.cwd()) for _ in range(self.workers)]
            try:
                with _as_in_one_process("the workers"):
                    sizes = ray.get([worker.group_size.remote() for worker in workers])
                engine = RayEngine(self.inner, workers, every, group_size=sizes[0])
                engine.swap(adapter)
                yield engine
            finally:
                for worker in workers:
                    ray.kill(worker)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[None]:
        """Ray for the length of a `with` block: that of the process where it runs already, else one that ends with it."""
        import ray

        if ray.is_initialized():
            yield
            return
        # Ray tells its makers about every cluster unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": max(1, math.ceil(self.workers * self.cpus_per_worker)), "include_dashboard": False}
        try:
            try:
                ray.init(
                    self.address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **(own if self.address == LOCAL else {}),
                )
            except Exception as error:
                # Ray has no class of its own for a start that fails.
                raise StageError(
                    f"engine.address: expected Ray to start, or to run, at {self.address!r}, found {type(error).__name__}: "
                    f"{' '.join(str(error).split())[:300]}; see that the machine is not overloaded, correct the address, or use "
                    "engine=huggingface"
                ) from error
            needed, found = self.workers * self.gpus_per_worker, ray.cluster_resources().get("GPU", 0.0)
            if self.address == LOCAL and needed > found:
                raise ConfigError(
                    [
                        f"engine.gpus_per_worker: expected {needed:g} GPUs for {self.workers} workers, found {found:g}; lower "
                        "engine.workers, set engine.gpus_per_worker=0, or give a cluster as engine.address"
                    ]
                )
            yield
        finally:
            ray.shutdown()


class _Worker:
    """The engine of one process of Ray's, opened when it is first asked."""

    def __init__(self, settings: EngineSettings, adapters: list[Path], folder: Path) -> None:
        # Paths of models may be relative to where the run was started.
        os.chdir(folder)
        self._settings = settings
        self._adapters = adapters
        self._adapter: Path | None = None
        self._held = contextlib.ExitStack()
        self._engine: Engine | None = None

    def _opened(self, adapter: Path | None) -> Engine:
        if self._engine is None:
            self._engine = self._held.enter_context(self._settings.open(None, self._adapters))
        if adapter != self._adapter:
            self._engine.swap(adapter)
            self._adapter = adapter
        return self._engine

    def group_size(self) -> int:
        return self._opened(self._adapter).group_size

    def generate(self, requests: list[GenerateRequest], adapter: Path | None) -> list[Completion]:
        return list(self._opened(adapter).generate(requests))

    def score(self, requests: list[ScoreRequest], adapter: Path | None) -> list[ScoreResult]:
        return list(self._opened(adapter).score(requests))


class RayEngine:
    """Workers with a loaded model each: obtained from `Ray.open`."""

    def __init__(
        self, settings: EngineSettings, workers: list[Any], adapters: Sequence[Path] = (), *, group_size: int
    ) -> None:
        self.context_length = settings.context_length()
        self.group_size = group_size * len(workers) * GROUPS_PER_WORKER
        self._settings = settings
        self._workers = workers
        self._adapters = adapters
        self._adapter: Path | None = None
        self._inner_size = group_size

    def swap(self, adapter: Path | None) -> None:
        """Have the workers compute with another adapter. It goes with every group: a worker that is started again in the
        meantime would not know of it. Raises StageError for an adapter that they were not opened with."""
        place = adapter.resolve() if adapter is not None else None
        if place is not None and place not in self._adapters:
            raise not_opened(place, self._adapters)
        self._adapter = place

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return self._settings.count_tokens(text)

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, group by group as these are finished; the local engine's errors.

        Raises StageError for a group that costs its worker the life again and again.
        """
        finished = written = 0
        for completion, live in self._each("generate", requests):
            yield completion
            finished, written = finished + 1, written + completion.new_tokens
            if watch:
                watch(Load(finished, live, written))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, group by group as these are finished; raises as `generate` does."""
        for result, _ in self._each("score", requests):
            yield result

    def _each(self, method: str, requests: Iterable[Any]) -> Iterator[tuple[Any, int]]:
        """Each result, and how many requests are still under way; every worker has one group at a time."""
        import ray

        source, idle = iter(requests), list(self._workers)
        under_way: dict[Any, tuple[Any, list[Any]]] = {}

        def refill() -> None:
            while idle and (group := list(itertools.islice(source, self._inner_size))):
                worker = idle.pop()
                under_way[getattr(worker, method).remote(group, self._adapter)] = worker, group

        refill()
        while under_way:
            (done,), _ = ray.wait(list(under_way))
            worker, group = under_way.pop(done)
            with _as_in_one_process(f"requests '{group[0].id}' to '{group[-1].id}'"):
                results = ray.get(done)
            idle.append(worker)
            refill()
            live = sum(len(others) for _, others in under_way.values())
            for left, result in zip(range(len(results) - 1, -1, -1), results, strict=True):
                yield result, live + left


@contextlib.contextmanager
def _as_in_one_process(what: str) -> Iterator[None]:
    """Raises an error of a worker's engine as the engine did, and StageError for workers that were lost too often."""
    from ray.exceptions import RayActorError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ConfigError):
            raise ConfigError(_renamed(error.cause.problems)) from None
        if isinstance(error.cause, SelfAlignError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise StageError(
            f"{what}: expected a worker that lives to the end, found that {RETRIES + 1} attempts lost theirs "
            f"({' '.join(str(error).split())[:300]}); look into Ray's logs (on this machine /tmp/ray/session_latest/logs): where "
            "memory was short, lower engine.inner.batch_size or engine.workers, then run the same command again"
        ) from None


def _renamed(problems: Iterable[str]) -> list[str]:
    """Problems of a local engine, under the names that its settings have here."""
    return [problem.replace("engine.", "engine.inner.") for problem in problems]
