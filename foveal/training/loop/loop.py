"""The training loop, to be read from top to bottom.

An epoch is a pass over the loader; an update may take several batches of it (``fit.accumulate``). Where the training
stands is one number, ``state.step``: order and noise follow from it, so a checkpoint needs nothing else but tensors.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from ...checkpoints import folder as checkpoint
from ...errors import FovealError
from ...runtime.interrupt import Interrupt
from ...runtime.progress import Progress
from ...types import Images, Targets
from .ema import EMA
from .job import Job
from .log import Clock, Log, Meter
from .nonfinite import Guard, NonFiniteLoss
from .optimizers import build_solver, freeze, restore_solver, set_lr, set_training_mode, solver_tensors
from .state import FINISHED, OUT_OF_TIME, STOPPED_EARLY, Pace, State, differs, full_plan, plan_on_resume, timed_plan
from .update import Updater, to_device
from .validate import Validation

LOG_EVERY = 20  # updates between lines in metrics.jsonl
AGREE_EVERY = 10  # updates between agreements of several processes on when to stop
now = time.monotonic


class Loop:
    """Runs a :class:`Job`, from the start or from a checkpoint."""

    def __init__(self, job: Job, resumed: checkpoint.Content | None, log: Log, progress: Progress) -> None:
        self.job, self.arguments, self.log, self.progress = job, job.arguments, log, progress
        self.fabric, self.fit = job.fabric, job.fit
        self.folder = job.out / "checkpoints"
        per_epoch = -(-len(job.loader) // job.fit.accumulate)
        endless = self.arguments.max_time is not None and self.arguments.epochs is None
        plan = full_plan(job.fit, per_epoch, self.arguments.epochs, endless=endless)
        self.state = State(plan) if job.before is None else job.before.next(plan)
        self.most = self.state.plan.total  # updates, whatever the time limit
        self.clock, self.meter = Clock(job.fabric.device), Meter()
        self.guard = Guard(job.out, job.fabric.global_rank, job.detector.classes)
        self.trainable = frozenset(n for n, p in job.detector.named_parameters() if p.requires_grad)
        self.average = EMA(job.detector, job.fit.ema) if job.fit.ema is not None else None
        self._stage = -1
        self._seconds_an_update = 0.0
        self._told: set[str] = set()  # of images that cannot be read
        if resumed is not None:
            self._restore(resumed)
        # the solver is that of the last update: where a stage has just ended, the next update begins the next one
        self._begin_stage(self._rate(max(0, self.state.step - 1))[0], resumed)
        self._base = self.state.elapsed
        self.pace = Pace(self.arguments.max_time, self._elapsed()) if self.arguments.max_time is not None else None
        self._saved = self._logged = now()

    # ------------------------------------------------------------------------------------------ the loop
    def run(self) -> State:
        """Trains until the plan is fulfilled, the time is up or nothing gets better. Ctrl-C saves, then raises."""
        state = self.state
        with Interrupt() as interrupt:
            while not state.over:
                if not state.ended and (not state.at_boundary or state.closed == state.step):
                    self._run_epoch(interrupt)
                self._write_line()
                self._close_epoch(interrupt)
        return state

    def _run_epoch(self, interrupt: Interrupt) -> None:
        """The updates that are left of this epoch."""
        state = self.state
        with closing(self._batches(interrupt)) as batches:
            for parts, files in batches:
                self._update(parts, files)
                if self._agreed(interrupt.asked):
                    self._save()
                    raise KeyboardInterrupt
                with self._saved_by(interrupt):
                    self._make_plan()
                if state.at_boundary:
                    return
                if self._agreed(self._out_of_time()):
                    state.ended = OUT_OF_TIME
                    return
                if now() - self._saved >= self.arguments.save_every:
                    self._save()

    def _update(self, parts: list[tuple[Images, Targets]], files: list[str]) -> None:
        """One update, and all that follows from it."""
        state, start = self.state, now()
        stage, lr = self._rate(state.step)
        if stage != self._stage:
            self._begin_stage(stage, None)
        set_lr(self.solver, lr)
        result = self.updater(parts, state.updates)
        self.guard.push(result, parts, files, state.updates, lr)
        self.guard.check()
        if self.average is not None:
            self.average.update(self.job.detector, state.step)
        self.meter.add(result.losses)
        state.step += 1
        if self.meter.updates >= LOG_EVERY:
            self._write_line()
        total = state.plan.total if self.pace is None or state.plan.timed else 0
        self.progress.update(state.step, state.epoch, self._seconds_left(), total)
        if self.pace is not None:
            self.pace.add(now() - start + self._waited)

    def _close_epoch(self, interrupt: Interrupt) -> None:
        """Validation where one is due, then a checkpoint."""
        state = self.state
        due = self._epoch_name() % self.fit.val_every == 0
        if state.step >= state.plan.total:
            state.ended = state.ended or FINISHED
        elif not state.ended and self._agreed(self._out_of_time(1 + due), always=True):
            state.ended = OUT_OF_TIME
        due = due or bool(state.ended)  # the end is always validated
        self.guard.check(wait=True)
        if due:
            self.progress.say(f"epoch {self._epoch_name()}: validating on {len(self.job.validator.dataset)} images")
            with self._saved_by(interrupt):  # not closed: resuming begins with this validation
                found = self.job.validator(
                    self.weights, interrupt.check, self.progress.making("validated"), self.updater.learning
                )
            state.validation = found.seconds
            # this epoch is the one that just ended, not the one that begins at this step
            judge(state, found, f"epoch {self._epoch_name()}", self._epoch_name(), self.log, self.progress)
        self._tell_skipped()
        if not state.ended and self.fit.early_stop is not None and state.stale >= self.fit.early_stop:
            state.ended = STOPPED_EARLY
        elif not state.ended and due and self._agreed(self._out_of_time(), always=True):
            state.ended = OUT_OF_TIME  # this validation took longer than was thought
        state.closed = state.step
        self._save()
        self._logged = now()
        self.clock.read()  # validation is no part of the pace

    # --------------------------------------------------------------------------------------------- parts
    @property
    def weights(self) -> Any:
        """The detector to validate and to keep: the averaged one where there is an average."""
        return self.job.detector if self.average is None else self.average.module

    def _batches(self, interrupt: Interrupt) -> Generator[tuple[list[tuple[Images, Targets]], list[str]], None, None]:
        """The rest of the present epoch, an update's parts at a time."""
        state, job = self.state, self.job
        epoch, update = divmod(state.step, state.plan.per_epoch)
        batches = iter(job.loader.epoch(state.epochs + epoch, update * self.fit.accumulate))
        waited, parts, files = 0.0, [], []
        while True:
            start = time.perf_counter()
            with self._saved_by(interrupt):
                batch = next(batches, None)
            waited += time.perf_counter() - start
            if batch is not None:
                seen = state.updates * job.batch
                parts.append(to_device(batch.images, batch.targets, self.fabric.device, seen))
                files += [str(job.train.records[int(i)].path) for i in batch.indices]
            if parts and (batch is None or len(parts) == self.fit.accumulate):
                self._waited = waited
                self.clock.add("data", waited)
                yield parts, files
                waited, parts, files = 0.0, [], []
            if batch is None:
                return

    def _rate(self, step: int) -> tuple[int, float]:
        """(stage, learning rate) of update ``step``."""
        plan = self.state.plan
        stage, first = plan.stage(step)
        factor = self.fit.scale(step - first, plan.stages[stage], plan.per_epoch)
        return stage, self.fit.scaled_lr(self.job.batch, self.fit.stages[stage]) * factor

    @contextmanager
    def _saved_by(self, interrupt: Interrupt) -> Iterator[None]:
        """Ctrl-C in what loads images saves, then raises. It reaches the loader's workers too, and they die of it."""
        try:
            yield
        except (KeyboardInterrupt, FovealError) as error:
            if isinstance(error, NonFiniteLoss) or not (interrupt.asked or isinstance(error, KeyboardInterrupt)):
                raise
            self._save()
            raise KeyboardInterrupt from None

    def _begin_stage(self, index: int, resumed: checkpoint.Content | None) -> None:
        """A solver for the parameters that learn now, and (with several processes) their exchange."""
        self._stage = index
        stage, detector = self.fit.stages[index], self.job.detector
        freeze(detector, stage, self.trainable)
        self.solver = build_solver(detector, self.fit, stage)
        if resumed is not None:
            restore_solver(self.solver, detector, resumed.optimizer)
            set_lr(self.solver, self._rate(max(0, self.state.step - 1))[1])  # a line may be written before an update
        set_training_mode(detector, self.trainable)
        model = self.fabric.setup_module(self.job.learner or detector, move_to_device=False)
        self.updater = Updater(
            self.fabric,
            model,
            self.solver,
            seed=self.arguments.seed,
            clip=self.fit.clip,
            clock=self.clock,
            learning=stage.learning,
        )
        if resumed is not None and self.updater.scaler is not None and resumed.state["scaler"]:
            self.updater.scaler.load_state_dict(resumed.state["scaler"])

    def _make_plan(self) -> None:
        """With a time limit: the length of the training, from the pace of the first updates and of those since."""
        pace, state = self.pace, self.state
        if pace is None or not self._agreed(pace.due(self._elapsed(), state.plan, state.step)):
            return
        assert self.arguments.max_time is not None
        state.validation = state.validation or self.job.validator.pace(self.weights, self.updater.learning)
        plan = timed_plan(
            state.plan,
            self.most,
            done=state.step,
            elapsed=self._elapsed(),
            pace=pace.seconds,
            validation=state.validation,
            limit=self.arguments.max_time,
            val_every=self.fit.val_every,
        )
        plan, seconds = self.fabric.broadcast((plan, pace.seconds))
        pace.restart(self._elapsed())
        if not differs(state.plan, plan):
            return
        state.plan = plan
        epochs = plan.total / plan.per_epoch
        self.progress.say(
            f"{seconds:.2f} s an update: {epochs:.1f} epochs ({plan.total} updates) fit into the time limit"
        )
        self._save()  # from here on the plan is part of the run

    def _out_of_time(self, validations: int = 1) -> bool:
        """Whether another update and so many validations would end after the limit."""
        if self.arguments.max_time is None:
            return False
        one = self.pace.seconds if self.pace is not None else 0.0
        return self._elapsed() + one + validations * self.state.validation >= self.arguments.max_time

    def _agreed(self, wish: bool, *, always: bool = False) -> bool:
        """What the first process wishes. Several processes ask only now and then: it makes them wait."""
        if self.fabric.world_size == 1:
            return wish
        if not always and self.state.step % AGREE_EVERY and not self.state.at_boundary:
            return False
        return bool(self.fabric.broadcast(wish))

    def _elapsed(self) -> float:
        """Seconds since the run was called, those before an interruption included."""
        return self._base + now() - self.job.began

    def _seconds_left(self) -> float:
        state = self.state
        if self.arguments.max_time is not None and not state.plan.timed:
            return self.arguments.max_time - self._elapsed()
        passes = -(-state.plan.epochs // self.fit.val_every) - state.epoch // self.fit.val_every
        return (state.plan.total - state.step) * self._seconds_an_update + passes * state.validation

    def _epoch_name(self) -> int:
        """The epoch that the last update belonged to, from 1, of the whole run."""
        return self.state.epochs + -(-self.state.step // self.state.plan.per_epoch)

    def _write_line(self) -> None:
        """A training line: means since the last one, and where the time went."""
        updates = self.meter.updates
        if not updates:
            return
        losses, spent = self.meter.read(), self.clock.read()
        passed, self._logged = now() - self._logged, now()
        self._seconds_an_update = passed / updates
        rate = updates * self.job.batch / max(passed, 1e-9)
        seconds = {name: round(spent.get(name, 0.0) / updates, 6) for name in ("data", "forward", "backward")}
        self.log.write(
            epoch=self._epoch_name(),
            step=self.state.updates,
            split="train",
            **losses,
            lr=max(g["lr"] for g in self.solver.param_groups),
            images_per_second=round(rate, 3),
            **{f"seconds_{name}": value for name, value in seconds.items()},
        )
        self.progress.values(losses, rate, seconds)

    def _tell_skipped(self) -> None:
        """Names images that could not be read, each once."""
        for skipped in (*self.job.loader.skipped, *self.job.validator.loader.skipped):
            if skipped.message not in self._told:
                self._told.add(skipped.message)
                self.progress.say(f"warning: left out: {skipped.message}")

    # -------------------------------------------------------------------------------------- checkpoints
    def _save(self) -> None:
        """A checkpoint of this moment; the last two and the best stay."""
        self.guard.check(wait=True)
        self._saved = now()
        self.state.elapsed = self._elapsed()
        if not self.fabric.is_global_zero:
            return
        state, detector = self.state, self.job.detector
        scaler = self.updater.scaler
        content = checkpoint.Content(
            model=self.weights.state_dict(),
            raw=detector.state_dict() if self.average is not None else {},
            optimizer=solver_tensors(self.solver, detector),
            state={
                **state.to_json(),
                **self.job.fixed,
                "scaler": {} if scaler is None else scaler.state_dict(),
                "meter": self.meter.state(),
                "log_bytes": self.log.offset(),
            },
            spec=self.job.spec,
        )
        keep(self.folder, state, content)

    def _restore(self, resumed: checkpoint.Content) -> None:
        """Puts weights, average and numbers back; the solver follows with its stage."""
        asked = self.state.plan
        self.state = State.from_json(resumed.state)
        self.state.plan, self.most = plan_on_resume(
            self.state.plan, asked, self.fit, self.state.step, self.arguments.epochs, self.arguments.max_time
        )
        self.job.detector.load_state_dict(resumed.raw or resumed.model)
        if self.average is not None:
            self.average.module.load_state_dict(resumed.model)
        self.meter.restore(resumed.state["meter"], self.fabric.device)


def judge(state: State, found: Validation, name: str, epoch: int, log: Log, progress: Progress) -> None:
    """Takes in a validation: into the state, the log, and a line that begins with ``name``."""
    best = state.judge(found.results)
    scores = {k: v for k, v in found.results.items() if isinstance(v, (int, float)) and k != "images"}
    masks = found.results.get("masks", {})
    scores |= {f"masks.{k}": v for k, v in masks.items() if isinstance(v, float)}
    log.write(epoch=epoch, step=state.updates, split="val", **found.losses, **scores)
    shown = "undefined" if found.ap is None else f"{found.ap:.4f}"
    note = " (best so far)" if best else ""
    loss, seconds = found.losses["loss"], found.seconds
    progress.say(f"{name}: validation loss {loss:.4f}, AP {shown}{note}, {seconds:.1f} s")


def keep(folder: Path, state: State, content: checkpoint.Content) -> None:
    """Writes a checkpoint of this moment; the last two and the best of this segment stay."""
    checkpoint.save(folder, state.updates, content)
    if state.best is None:
        (folder / "best").unlink(missing_ok=True)  # of a segment that is over
    else:
        checkpoint.point(folder, "best", state.best)
    checkpoint.prune(folder, {*checkpoint.steps(folder)[-2:], *([] if state.best is None else [state.best])})
