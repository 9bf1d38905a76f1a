"""What the training programs share, in the order of a run: from flags and a checkpoint to a Start, a folder, a Result.

A program passes its flags, its experiment, the package `model` and a backend: the engine imports neither networks nor
a framework.
"""
import contextlib
import dataclasses
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Optional

from support import json_files, runtime
from support.errors import InputError
from support.files import expanded
from support.lock import locked
from support.words import counted

from .. import checkpoint, folders, run, runlog, tensorboard
from ..data import sets
from ..data.dataset import Known
from ..experiment import Experiment
from . import flags, net_flags

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Start:
    """What the flags, the machine and a checkpoint decide.

    net : not yet initialized. devices : this worker's devices. team : the workers (backend.base).
    resume, saved : the checkpoint to resume and its Saved; None for a new run. command : the command line.
    """

    experiment: Experiment
    net: Any
    devices: list
    team: Any
    resume: Optional[Path]
    saved: Optional[checkpoint.Saved]
    command: str

    @property
    def batch_size(self):
        """Images in a step, over all devices of all workers."""
        return self.experiment.recipe.batch_size * self.experiment.devices


def train(parser, args, experiment_of, backend, model, dtype, report, remarks=lambda start: ()):
    """Train what the command line asks for; returns the exit status. Raises InputError if it cannot be done.

    experiment_of(args, stored) : the Experiment of the command line; what the flags leave open comes from `stored`, a
        checkpoint's Experiment, or from the defaults if it is None. Raises InputError or TypeError for wrong flags.
    backend, model : the module that computes (backend.base), and the package of the networks.
    dtype : the type to train in if neither the flags nor a checkpoint say it.
    report(args, start, training, result, directory) : called with the Result of a run that ended.
    remarks(start) : more sentences for the log.
    """
    with started(parser, args, experiment_of, backend, model, dtype) as start:
        experiment = start.experiment
        data = sets.of(experiment.dataset, args, Known.of(experiment))
        kind = backend.kind(start.devices)
        training = data.training(experiment, start.batch_size, kind, (start.team.rank, start.team.size))
        check_data(start, training.origin)
        program = backend.prepare(start.net, experiment, start.devices, start.team, args.fused, args.mode,
                                  args.resume_params, args.ignore_output)
        tell_operators(start, program)
        if args.tensorboard and program.team.writes:
            args.tensorboard = tensorboard.checked(args.tensorboard)
        with folder(start, args) as directory:
            announce(start, args, training, model)
            for remark in remarks(start):
                log.info("%s", remark)
            status, result = run_in(directory, start, args, training, program)
            if result is not None:
                report(args, start, training, result, directory)
                log.info("checkpoints, metrics and history.png are in %s", directory)
            return status


@contextlib.contextmanager
def started(parser, args, experiment_of, backend, model, dtype):
    """The Start of a run as a context; arguments as in `train`. Flags that cannot be used end the process."""
    if args.resume_params:
        args.resume_params = folders.weights_file(args.resume_params)
    experiment = None
    if not (args.resume or args.resume is not None and args.save_dir):  # else a checkpoint may supply what is missing
        experiment = _or_exit(parser, experiment_of, args, None)
    devices, sentence = _or_exit(parser, _devices, args, backend)
    with backend.join(args.kvstore) as team:
        if team.rank:  # the first worker speaks for all
            for name in (None, "engine"):
                logging.getLogger(name).setLevel(logging.WARNING)
        if team.local_rank:
            devices, sentence = backend.devices([number + team.local_rank * len(args.gpus) for number in args.gpus])
        resume = team.agreed(_text(_checkpoint_of(args, experiment)) if team.rank == 0 else None)
        saved = None
        if resume is None:
            experiment = experiment or _or_exit(parser, experiment_of, args, None)
            net = _or_exit(parser, _built, experiment, model)
        else:
            resume = Path(resume)
            saved = _saved_at(resume, team)
            try:
                stored = dataclasses.replace(saved.experiment, arguments=model.complete_arguments(
                    saved.experiment.model, saved.experiment.net))
                experiment = experiment_of(args, stored)
                refuse_another_run(experiment, stored, saved.state, args.recipe)
                net = _built(experiment, model)
            except (InputError, TypeError) as error:
                raise InputError(f"--resume: {error}") from error
        dtype, remark = backend.training_type(args.dtype or (saved.experiment.dtype if saved else dtype), devices)
        experiment = dataclasses.replace(experiment, dtype=dtype, devices=len(devices) * team.size)
        command = " ".join(map(shlex.quote, ["python", *sys.argv]))
        threads = backend.kind(devices) == "cpu" and os.environ.get("OMP_NUM_THREADS")
        log.info("%s", command)
        log.info("%s%s", sentence, f", threads: {threads}" if threads else "")
        log.debug("%s", runtime.settings_sentence())  # long: only for the file
        if remark:
            log.info("%s", remark)
        yield Start(experiment, net, devices, team, resume, saved, command)


def _built(experiment, model):
    return model.get_model(experiment.model, **experiment.net)


def _or_exit(parser, function, *arguments):
    """function(*arguments). An InputError or a TypeError ends the process as a wrong flag does."""
    try:
        return function(*arguments)
    except (InputError, TypeError) as error:
        parser.error(str(error))


def _devices(args, backend):
    devices, sentence = backend.devices(args.gpus)
    if args.kvstore == "nccl" and backend.kind(devices) != "gpu":
        raise InputError("--kvstore nccl is for GPUs; leave it out here")
    return devices, sentence


def _checkpoint_of(args, experiment):
    """The checkpoint that --resume asks for; None without --resume, or if no run has saved one yet.

    experiment: names the folder if neither --resume nor --save-dir does.
    """
    if args.resume is None:
        return None
    if args.resume:
        path = folders.checkpoint_to_resume(args.resume)
        if args.save_dir and expanded(args.save_dir).resolve() != path.parent.resolve():
            raise InputError(f"--resume continues the run in {path.parent}; leave --save-dir out")
        return path
    place = expanded(args.save_dir) if args.save_dir else folders.newest_directory(experiment.name)
    if place and (place / folders.LAST).exists():
        return folders.checkpoint_to_resume(place)
    log.warning("--resume: there is no checkpoint in %s yet; starting a new run", place or f"runs/{experiment.name}")
    return None


def _saved_at(path, team):
    """The Saved of a checkpoint that can be resumed. Raises InputError for another file."""
    if not path.is_file():
        raise InputError(f"--resume: worker {team.rank} does not reach {path}; the run's folder must lie on a disk "
                         "that all of them reach by the same path")
    saved = checkpoint.read(path)
    if saved.state is None:
        raise InputError(f"{path} is not a checkpoint of a run: it holds no state to resume; start a new run from its "
                         "weights with --resume-params")
    folders.refuse_rewinding(path, saved.state)
    return saved


def refuse_another_run(experiment, stored, state, named=None):
    """Raise InputError, with the difference, if an experiment differs from a checkpoint's in more than its epochs.

    named: the value of --recipe, whose numbers replace the checkpoint's.
    """
    epochs = experiment.recipe.epochs
    same = dataclasses.replace(stored, recipe=dataclasses.replace(stored.recipe, epochs=epochs))
    difference = experiment.difference(same, "the checkpoint has")
    if difference:
        raise InputError(f"the command asks for {difference}; only --num-epochs may change when a run is resumed"
                         + (f" (leave --recipe {named} out)" if named else ""))
    begun = state["epoch"] + (state["step"] > 0)
    if epochs < begun:
        raise InputError(f"the checkpoint is in epoch {begun} already, so --num-epochs {epochs} is too few")


def check_data(start, origin):
    """Raise InputError unless the net has an output for each class and the data are the checkpoint's."""
    if start.experiment.classes < len(origin.class_names):
        raise InputError(f"--classes {start.experiment.classes} is too few for the {len(origin.class_names)} classes "
                         "of the data")
    if start.saved is not None and start.saved.data["sha256"] != origin.provenance["sha256"]:
        raise InputError("--resume: the data are not those of the checkpoint "
                         f"(now {origin.variant}; then {start.saved.data['variant']}); give the same --data-dir")


def tell_operators(start, program):
    """Log what computes the net; warn if a resumed run was computed in another way so far."""
    log.info("%s", program.operators)
    before = start.saved.operators if start.saved else ""
    if before and _way(before) != _way(program.operators):
        log.warning("--resume: the run so far was computed with %s; with %s its numbers stay the same up to "
                    "rounding, but not to the bit", _way(before), _way(program.operators))


def _way(operators):
    """The part of a sentence about the operators that decides a run's bits: without the reason."""
    return "plain Gluon operators" if operators.startswith("plain") else operators.partition(" (")[0]


@contextlib.contextmanager
def folder(start, args):
    """The run's folder, new or the resumed run's, locked while the context is open; the log goes to a file there.

    Nothing is written before this, so a start that fails leaves no folder behind.
    """
    def new():
        return folders.new_directory(args.save_dir, start.experiment.name, resumed=args.resume is not None)

    with contextlib.ExitStack() as held:
        directory = None
        if start.team.rank == 0:
            if args.logging_file:
                runlog.log_to_file(args.logging_file)
            directory = start.resume.parent if start.resume else new()
            held.enter_context(locked(
                directory / folders.LOCK, f"{directory} is in use by another run, process {{owner}}; wait for its end, "
                "or give another --save-dir"))
            if args.save_dir and not start.resume:
                new()  # another run may have ended here before the lock was taken
                (directory / folders.BEST).unlink(missing_ok=True)  # from a first epoch that starts again
            if not args.logging_file:
                runlog.log_to_file(directory / "train.log")
        yield Path(start.team.agreed(_text(directory)))


def _text(path):
    return None if path is None else str(path)


def announce(start, args, training, model):
    """Log what will be trained and how."""
    experiment, recipe, team = start.experiment, start.experiment.recipe, start.team
    for remark in (*getattr(args, "remarks", ()), *training.remarks):
        log.info("%s", remark)
    log.info("recipe: %s", ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(recipe).items()))
    log.info("global batch %d (%d on each of %s%s%s), %s an epoch, seed %d", start.batch_size,
             recipe.batch_size, counted(experiment.devices, "device"),
             f", {len(start.devices)} in each of {team.size} workers" if team.size > 1 else "",
             f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else "",
             counted(training.batches.steps, "step"), experiment.seed)
    for remark in flags.recipe_remarks(args.changes, recipe):
        log.info("%s", remark)
    late = [epoch for epoch in recipe.lr_decay_epochs if epoch >= recipe.epochs]
    if late and recipe.lr_mode == "step" and not recipe.lr_decay_period:
        log.warning("the run ends after %s, before the decays at %s; --recipe scaled moves them in proportion",
                    counted(recipe.epochs, "epoch"), ", ".join(map(str, late)))
    size = experiment.input_size
    complexity = model.complexity.count(start.net, (3, size, size))
    log.info("%s: %s parameters (%s trainable), %.3fM multiply-adds",
             net_flags.net_text(experiment.model, experiment.net), f"{complexity.total:,}",
             f"{complexity.trainable:,}", complexity.macs / 1e6)
    if recipe.label_smoothing or recipe.mixup_alpha:
        log.info("training accuracy counts the hard labels%s",
                 ", for mixed images the one with the larger share" if recipe.mixup_alpha else "")
    if experiment.first_epoch and not start.resume:
        log.info("the schedule starts at epoch %d, with fresh momentum", experiment.first_epoch)
    if args.summary and team.rank == 0:
        with contextlib.suppress(BrokenPipeError):  # `| head` may have ended
            print(model.complexity.table(complexity), flush=True)


def run_in(directory, start, args, training, program):
    """Run it in its folder; returns (exit status, Result). Raises InputError if the run fails.

    The Result is None if the run was stopped, and in every worker except worker 0.
    """
    origin = training.origin
    saved = checkpoint.Saved(
        start.experiment, {"variant": origin.variant, "sha256": origin.provenance["sha256"],
                           "official": origin.provenance["official"], "class_names": list(origin.class_names)},
        operators=program.operators, command=start.command, workers=start.team.size)
    if program.team.writes:
        json_files.write(directory / "args.json", {**saved.as_json(), "provenance": origin.provenance,
                                                    "environment": runlog.environment(program.environment())})
    with board_of(directory, start, args, training, program) as board:
        job = run.Job(program, saved, training.batches, training.score_batches, len(origin.class_names),
                      training.scored_on, training.test_batches, directory, origin.provenance, args.num_data_workers,
                      args.save_period, args.save_interval, args.log_interval, board)
        try:
            return 0, run.train(job, start.resume)
        except run.Stopped as stop:
            # As text: a kept log record would keep the error, and so the run and its connections.
            log.warning("%s", str(stop))
            return stop.status, None
        except InputError as error:
            failure = type(error)(str(error))  # without the traceback, which would also keep the run
        log.debug("%s: %s", Path(sys.argv[0]).name, str(failure))  # for the file; run_script prints it
        raise failure


@contextlib.contextmanager
def board_of(directory, start, args, training, program):
    """The Board that --tensorboard asks for, in its folder of the run's name; else, and in other workers, None."""
    if not (args.tensorboard and program.team.writes):
        yield None
        return
    first = 0
    if start.saved:
        first = start.saved.state["epoch"] * training.batches.steps + start.saved.state["step"] + 1
    board = tensorboard.Board(args.tensorboard / directory.resolve().name, first, training.score_batches)
    log.info("curves: tensorboard --logdir %s", args.tensorboard)
    with contextlib.closing(board):
        yield board
