"""The training loop, to be read from top to bottom.

An epoch is a pass over the batches; an iteration may take several of them (``fit.accumulate``). The progress of a run
is one number, ``state.step``: order and noise follow from it, so that a checkpoint needs nothing else but tensors.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager

from ...assembly.detector import Detector
from ...checkpoints.content import Content
from ...errors import FovealError
from ...runtime.interrupt import Interrupt, Terminated
from ...runtime.progress import Console
from ...types import Images, Targets
from .job import Job, Segment, SessionOver, save_checkpoint
from .log import Clock, Log, Meter
from .optimizers import build_optimizer, optimizer_tensors, restore_optimizer, set_learning, trainable_names
from .replan import resume_plan
from .state import FINISHED, OUT_OF_TIME, STOPPED_EARLY, Pace, State, differs, full_plan
from .update import EMA, NonFiniteCheck, NonFiniteLoss, Updater, set_lr, to_device

LOG_EVERY = 20  # iterations between lines in metrics.jsonl
AGREE_EVERY = 10  # iterations between agreements of several processes on when to stop
REPORTED = 0.1  # a change of the planned length by this share is reported
now = time.monotonic

Parts = list[tuple[Images, Targets]]  # of one iteration, ``fit.accumulate`` at most


class Loop:
    """Runs the stages of a :class:`Segment`, from their start or from a checkpoint."""

    def __init__(self, job: Job, segment: Segment, resumed: Content | None, log: Log, console: Console) -> None:
        self.job, self.segment, self.log, self.console = job, segment, log, console
        self.arguments, self.fabric, self.fit = job.arguments, job.fabric, job.fit
        epochs, self.limit = self.arguments.epochs, self.arguments.max_time
        per_epoch = -(-len(segment.batches) // job.fit.accumulate)
        endless = self.limit is not None and epochs is None
        plan = full_plan(job.fit, segment.stages, per_epoch, epochs, endless=endless)
        self.state = State(plan) if segment.before is None else segment.before.next(plan)
        self.max_iterations = self.state.plan.total  # whatever the time limit
        self.clock, self.meter = Clock(job.fabric.device), Meter()
        self.nonfinite = NonFiniteCheck(job.out, job.fabric.global_rank, job.detector.classes)
        self.trainable = trainable_names(job.detector)
        self.average = EMA(job.detector, job.fit.ema, job.fit.ema_share) if job.fit.ema is not None else None
        self._seconds_per_iteration = 0.0
        self._reported_total = 0  # iterations of the plan that was last reported
        if resumed is not None:
            self._restore(resumed)
        # the optimizer is that of the last iteration: where a stage has just ended, the next one begins the next stage
        self._begin_stage(self._rate(max(0, self.state.step - 1))[0], resumed)
        self._base = self.state.elapsed
        self.pace = Pace(self.limit, self._elapsed()) if self.limit is not None else None
        self._saved = self._logged = now()

    # ------------------------------------------------------------------------------------------ the loop
    def run(self) -> State:
        """Trains until the plan is completed, the time is up or AP stops improving. Signals save, then raise."""
        state = self.state
        with Interrupt() as interrupt:
            while not state.over:
                if not state.ended and (not state.at_boundary or state.closed == state.step):
                    self._run_epoch(interrupt)
                self._write_line()
                self._close_epoch(interrupt)
        return state

    def _run_epoch(self, interrupt: Interrupt) -> None:
        """The iterations that are left of this epoch."""
        state = self.state
        with closing(self._batches(interrupt)) as batches:
            for parts, files in batches:
                self._update(parts, files)
                with self._saved_by(interrupt):
                    if self._agreed(interrupt.asked):
                        raise interrupt.error
                    if self._agreed(now() >= self.job.deadline):
                        raise SessionOver
                    self._make_plan()
                if state.at_boundary:
                    return
                if self._agreed(self._out_of_time()):
                    state.ended = OUT_OF_TIME
                    return
                if now() - self._saved >= self.arguments.save_every:
                    self._save()

    def _update(self, parts: Parts, files: list[str]) -> None:
        """One iteration, and all that follows from it."""
        state, start = self.state, now()
        _, lr = self._rate(state.step)
        set_lr(self.optimizer, lr)
        result = self.updater(parts, state.updates)
        self.nonfinite.push(result, parts, files, state.updates, lr)
        self.nonfinite.check()
        if self.average is not None:
            self.average.update(self.job.detector, state.step)
        self.meter.add(result.losses)
        state.step += 1
        if self.meter.updates >= LOG_EVERY:
            self._write_line()
        total = state.plan.total if self.pace is None or state.plan.timed else 0
        self.console.update(state.step, state.epoch, self._seconds_left(), total)
        if self.pace is not None:
            self.pace.add(now() - start + self._waited)

    def _close_epoch(self, interrupt: Interrupt) -> None:
        """Validation where one is due, then a checkpoint."""
        state, epoch = self.state, self._epoch_number()
        due = epoch % self._val_every == 0
        if state.step >= state.plan.total:
            state.ended = state.ended or FINISHED
        elif not state.ended and self._agreed(self._out_of_time(1 + due), always=True):
            state.ended = OUT_OF_TIME
        due = due or bool(state.ended)  # the end is always validated
        self.nonfinite.check(self.weights)
        name = f"epoch {epoch}/{state.epochs + state.plan.epochs}" if self._length_known else f"epoch {epoch}"
        if due:
            self.console.detail(f"{name}: validating on {len(self.job.validator.dataset)} images")
            with self._saved_by(interrupt):  # not closed: resuming begins with this validation
                validation = self.job.validator(
                    self.weights, interrupt.check, self.console.task("validated"), self.updater.learning
                )
            state.validation = validation.seconds
            # this epoch is the one that just ended, not the one that begins at this step
            self.job.validator.record(validation, state, name, epoch, self.log, self.console, self._seconds_left())
        else:
            self.console.print(f"{name}: {self.console.epoch_summary(self._seconds_left())}")
        skipped = (*self.segment.batches.skipped, *self.job.validator.loader.skipped)
        self.console.print_once(f"warning: image skipped: {image.message}" for image in skipped)
        if not state.ended and self.fit.early_stop is not None and state.stale >= self.fit.early_stop:
            state.ended = STOPPED_EARLY
        elif not state.ended and due and self._agreed(self._out_of_time(), always=True):
            state.ended = OUT_OF_TIME  # this validation took longer than planned
        state.closed = state.step
        self._save()
        self._logged = now()
        self.clock.read()  # validation is no part of the pace

    # ------------------------------------------------------------------------------- batches and stages
    @property
    def weights(self) -> Detector:
        """The detector to validate and to save: the averaged one where there is an average."""
        return self.job.detector if self.average is None else self.average.module

    def _batches(self, interrupt: Interrupt) -> Generator[tuple[Parts, list[str]], None, None]:
        """The rest of the present epoch: the parts of each iteration, and the files of its images."""
        state, job = self.state, self.job
        epoch, update = divmod(state.step, state.plan.per_epoch)
        done = epoch / state.plan.length, (epoch + 1) / state.plan.length
        batches = self.segment.batches.epoch(state.epochs + epoch, update * self.fit.accumulate, done)
        waited, parts, files = 0.0, [], []
        while True:
            if (stage := self._rate(state.step)[0]) != self._stage:  # what is frozen decides on batches
                self._begin_stage(stage, None)
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
        """(stage, learning rate) of iteration ``step``."""
        plan = self.state.plan
        stage, first = plan.stage(step)
        factor = self.fit.scale(step - first, plan.stages[stage], plan.per_epoch)
        return stage, self.fit.scaled_lr(self.job.batch, self.segment.stages[stage]) * factor

    def _begin_stage(self, index: int, resumed: Content | None) -> None:
        """An optimizer for the parameters that learn now, and (with several processes) their synchronization."""
        stage, detector = self.segment.stages[index], self.job.detector
        self._stage, self._learning = index, stage.learning
        set_learning(detector, stage, self.trainable)
        self.optimizer = build_optimizer(detector, self.fit, stage)
        if resumed is not None:
            restore_optimizer(self.optimizer, detector, resumed.optimizer)
            # a line may be written before the next iteration
            set_lr(self.optimizer, self._rate(max(0, self.state.step - 1))[1])
        model = self.fabric.setup_module(self.segment.learner(), move_to_device=False)
        seed, clip, learning = self.arguments.seed, self.fit.clip, stage.learning
        self.updater = Updater(
            self.fabric, model, self.optimizer, seed=seed, clip=clip, clock=self.clock, learning=learning
        )
        if resumed is not None and self.updater.scaler is not None and resumed.state["scaler"]:
            self.updater.scaler.load_state_dict(resumed.state["scaler"])

    # ------------------------------------------------------------------------------ time and interruption
    def _make_plan(self) -> None:
        """With a time limit: the length of the training, from the pace of the first iterations and of those since."""
        pace, state = self.pace, self.state
        if pace is None or not self._agreed(pace.due(self._elapsed(), state.plan, state.step)):
            return
        state.validation = state.validation or self.job.validator.pace(self.weights, self.updater.learning)
        plan = pace.plan(state, self.max_iterations, self._elapsed(), self.fit.val_every)
        plan, seconds = self.fabric.broadcast((plan, pace.seconds))
        pace.restart(self._elapsed())
        if not differs(state.plan, plan):
            return
        state.plan = plan
        report = self.console.detail
        if abs(plan.total - self._reported_total) > REPORTED * self._reported_total:
            report, self._reported_total = self.console.print, plan.total
        epochs = plan.total / plan.per_epoch
        report(f"{seconds:.2f} s per iteration: {epochs:.1f} epochs ({plan.total} iterations) fit into the time limit")
        self._save()  # from here on the plan is part of the run

    def _out_of_time(self, validations: int = 1) -> bool:
        """Whether another iteration and this number of validations would end after the limit."""
        pace, expected = self.pace, self._elapsed() + validations * self.state.validation
        return pace is not None and expected + pace.seconds >= pace.limit

    def _elapsed(self) -> float:
        """Seconds since the run was called, those before an interruption included."""
        return self._base + now() - self.job.began

    @property
    def _length_known(self) -> bool:
        return self.pace is None or self.state.plan.timed

    @property
    def _val_every(self) -> int:
        return self.state.plan.val_every or self.fit.val_every  # epochs between validations

    def _seconds_left(self) -> float:
        state = self.state
        if self.pace is not None and not state.plan.timed:
            return self.pace.limit - self._elapsed()
        passes = -(-state.plan.epochs // self._val_every) - state.epoch // self._val_every
        return (state.plan.total - state.step) * self._seconds_per_iteration + passes * state.validation

    def _agreed(self, wish: bool, *, always: bool = False) -> bool:
        """The decision of the first process. Several processes exchange it only now and then: it makes them wait."""
        if self.fabric.world_size == 1:
            return wish
        if not always and self.state.step % AGREE_EVERY and not self.state.at_boundary:
            return False
        return bool(self.fabric.broadcast(wish))

    @contextmanager
    def _saved_by(self, interrupt: Interrupt) -> Iterator[None]:
        """A signal saves, then raises. Ctrl-C reaches the processes that load images too, and kills them."""
        try:
            yield
        except (KeyboardInterrupt, Terminated, SessionOver, FovealError) as error:
            if isinstance(error, NonFiniteLoss) or (isinstance(error, FovealError) and not interrupt.asked):
                raise
            self._save()
            self.console.print(f"stopped after iteration {self.state.updates}, which is saved: continue with --resume")
            raise (interrupt.error if isinstance(error, FovealError) else error) from None

    # ------------------------------------------------------------------------------- log and checkpoints
    def _epoch_number(self) -> int:
        """The epoch that the last iteration belonged to, from 1, of the whole run."""
        return self.state.epochs + -(-self.state.step // self.state.plan.per_epoch)

    def _write_line(self) -> None:
        """A training line: means since the last one, and where the time went."""
        updates = self.meter.updates
        if not updates:
            return
        losses, spent = self.meter.read(), self.clock.read()
        passed, self._logged = now() - self._logged, now()
        self._seconds_per_iteration = passed / updates
        rate = updates * self.job.batch / max(passed, 1e-9)
        seconds = {name: round(spent.get(name, 0.0) / updates, 6) for name in ("data", "forward", "backward")}
        self.log.write(
            epoch=self._epoch_number(),
            step=self.state.updates,
            split="train",
            **losses,
            lr=max(g["lr"] for g in self.optimizer.param_groups),
            images_per_second=round(rate, 3),
            **{f"seconds_{name}": value for name, value in seconds.items()},
        )
        self.console.values(losses, updates, rate, seconds)

    def _save(self) -> None:
        """A checkpoint of this moment."""
        self.nonfinite.check(self.weights)
        self._saved = now()
        self.state.elapsed = self._elapsed()
        if self.fabric.is_global_zero:
            detector, scaler = self.job.detector, self.updater.scaler
            save_checkpoint(
                self.job,
                self.state,
                self.log,
                model=self.weights.state_dict(),
                raw=detector.state_dict() if self.average is not None else None,
                optimizer=optimizer_tensors(self.optimizer, detector),
                scaler=None if scaler is None else scaler.state_dict(),
                meter=self.meter.state(),
            )

    def _restore(self, resumed: Content) -> None:
        """Restores weights, average and numbers; the optimizer follows with its stage."""
        self.state, self.max_iterations, change = resume_plan(
            State.from_json(resumed.state), self.state.plan, self.job, self.segment.stages
        )
        self.console.print(change)
        self.job.detector.load_state_dict(resumed.raw or resumed.model)
        if self.average is not None:
            self.average.module.load_state_dict(resumed.model)
        self.meter.restore(resumed.state["meter"], self.fabric.device)
