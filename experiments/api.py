"""Fine-tune from a script or a notebook: no Hydra, no files.

from experiments import finetune, search_ranks

run = finetune(model, tokenizer, {"train": train, "test": test}, AutoLoRA())
run.model, run.lora_config, run.result
run.predict(["a text", "another"])
run.save("outputs/mine")        # with tokenizer, labels and a model card

found = search_ranks(model, tokenizer, train)
found.config, found.frontier    # a LoraConfig for your own trainer, and what the ranks cost
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bilevel import Callback, distributed
from bilevel.checkpoint.disk import check_writable
from bilevel.cutting import Frontier
from bilevel.cutting.decided import Decided
from bilevel.errors import UserError, listed, nearest
from bilevel.hypergradient import Hypergradient, Unrolled
from bilevel.settings import from_values, plain
from experiments.answers import Decoding
from experiments.artefacts.artefact import Artefact
from experiments.cli.quiet import left_as_found, quiet
from experiments.config.other_names import in_python
from experiments.config.plan import Plan
from experiments.config.schema import EngineOptions, Root, TrainOptions
from experiments.models.given import check_given, check_head, kind, token_types
from experiments.models.heads import is_seq2seq
from experiments.models.in_memory import GivenModel, answers_of
from experiments.models.virtual_tokens import beside_adapter
from experiments.models.vocabulary import size
from experiments.predicting.asked import GivenAsker
from experiments.predicting.fine_tuned import FineTuned
from experiments.predicting.predictor import Predictor
from experiments.results import saved_model
from experiments.results.metrics_file import read_metrics
from experiments.tasks.in_memory import GivenTask
from experiments.tasks.in_memory_labels import named
from experiments.tasks.in_memory_values import rows_of
from experiments.tasks.reading.splits import OTHER_NAMES
from experiments.training import decided_ranks
from experiments.training.fine_tuning_job import FineTuningJob, load_task
from experiments.training.job import execute, run_stage
from experiments.training.processes import seen_by_all, shared
from problems.autolora import AutoLoRA
from problems.common.layer_names import positions
from problems.common.method import Method, TrainSettings
from problems.common.rank_search import RankSearch
from problems.lora_cut import LoRACut

__all__ = ["FoundConfig", "finetune", "search_ranks"]

Rows = Iterable[Mapping[str, Any]]
DEFAULT_METHOD = AutoLoRA()
DEFAULT_SEARCH = LoRACut()
SPLITS = ("train", "validation", "test")

log = logging.getLogger(__name__)


class _ConfigAndFrontier(NamedTuple):
    config: LoraConfig
    frontier: Frontier | None


class FoundConfig(_ConfigAndFrontier):
    """What :func:`search_ranks` returns: ``config, frontier``, and what can be said of them.

    Attributes:
        config: to train plain LoRA of the found ranks with.
        frontier: loss against parameters (docs/ranks.md); None of a method that draws none.
        decided: how far the ranks are decided, ``decided.words`` for people; None where none were
            chosen.
    """

    decided: Decided | None = None


@left_as_found()
def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, Rows],
    method: Method = DEFAULT_METHOD,
    *,
    hypergradient: Hypergradient | None = None,
    target_modules: str | Sequence[str] | None = None,
    head: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    decoding: Decoding | None = None,
    source_column: str | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    engine: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **train: Any,
) -> FineTuned:
    """Fine-tune a model by any method.

    Under ``torchrun`` every process calls it with the same arguments, and gets the same result;
    the first one writes ``folder`` (docs/distributed.md).

    Args:
        model: a transformers model that classifies, scores, tags or writes text; it stays as it is
            (stages work on copies).
        tokenizer: pads the batches, and reads what is written.
        data: ``train`` and ``test`` (or ``validation``, which then serves as the test set; beside a
            test the best weights are chosen by it, and early stopping goes by it): rows with
            ``input_ids`` and ``labels`` (or ``label``), a ``datasets.DatasetDict`` for one.
            Labels of tags and of causal models are one a token, -100 where nothing is learned;
            ``references`` of a test's text are those to score by. D_val of a bilevel method is a
            part of ``train``, or with ``split=None`` the ``validation`` beside a test.
        method: an instance of a class in ``problems``.
        hypergradient: of a bilevel method; ``Unrolled()`` unless given.
        target_modules: "qv", "all" or names; None for the method's own.
        head: modules trained in full beside the adapter; None for all outside the backbone.
        metrics: names in ``experiments.metrics.labels.METRICS`` (of tags ``tags.TAG_METRICS``, of
            text ``text.TEXT_METRICS``, beside it); None for the usual of the kind.
        decoding: how text is written, ``experiments.Decoding(beams=4)``.
        source_column: of the training rows, the name of the source that each is from, for
            ``SourceWeights()``.
        seed: decides splits, order, dropout and new weights.
        folder: of the run, as ``python -m experiments.run`` leaves it; None leaves nothing behind.
        resume: continue the interrupted run in ``folder``, with its arguments.
        engine: options that ``python -m experiments.run --help engine`` lists,
            ``{"precision": "bf16"}``.
        callbacks: of ``bilevel.Callback``, which follow the engine of every stage; their state goes
            into the checkpoints.
        **train: ``epochs``, ``batch_size``, ``lr`` ...: see ``problems.TrainSettings``.

    The random numbers of Python, NumPy and torch (of GPUs that were in use before), warnings and
    the libraries' progress bars are left as they were.

    Raises:
        UserError: anything that is wrong with what is given.
    """
    check_given(model, tokenizer)
    rows = _splits(data, "finetune")
    if not {"test", "validation"} & rows.keys():
        raise UserError("finetune needs data['test'] (or 'validation') to score the result on")
    several = isinstance(callbacks, Sequence)
    if not several or not all(isinstance(one, Callback) for one in callbacks):
        raise UserError("callbacks= must be a list of instances of bilevel.Callback's subclasses")
    place = _folder(folder, resume)
    given = _given(model, tokenizer, head)
    task = _task(model, tokenizer, rows, metrics, decoding, source_column)
    plan = _plan(
        given,
        task,
        method,
        hypergradient,
        target_modules,
        seed,
        engine,
        train,
    )
    plan = replace(plan, resume=resume, figures=folder is not None)
    with tempfile.TemporaryDirectory() as scratch:
        place = place or Path(scratch)
        result = execute(plan, place, callbacks=callbacks)
        saved = place / Path(result["adapter_dir"]).name
        compact = place / "adapter_compact"
        base = given.copy(result["labels"])  # as the method got it, in fp32
        world = distributed.current()
        chosen = compact if compact.is_dir() else saved
        weights = seen_by_all(chosen if world.rank == 0 else None, Path(scratch), world)
        tuned = saved_model.load(weights, base.model)
        distributed.from_first(None, world)  # nobody removes them before all have read them
    if folder is None:
        result["adapter_dir"] = None
    task = replace(task, data={})  # it has served
    tokens = size(base.model)
    asker = GivenAsker(
        task,
        Predictor(tuned, base.tokenizer, task.to_predict(None), base.seq2seq, tokens),
        Predictor(tuned, base.tokenizer, task.to_predict_texts(), base.seq2seq, tokens),
    )
    answers = replace(task.answers, names=None if (n := result["labels"]) is None else tuple(n))
    artefact = Artefact.of(
        *(task.to_predict(None), answers, beside_adapter(base.tokenizer, tuned)),
        *(base.model.config, given.reference()),
        replaces=base.head_replaced,
    )
    return FineTuned.of(tuned, result, asker, artefact)


@left_as_found()
def search_ranks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Rows,
    method: RankSearch = DEFAULT_SEARCH,
    *,
    hypergradient: Hypergradient | None = None,
    target_modules: str | Sequence[str] | None = None,
    head: Sequence[str] | None = None,
    seed: int = 0,
    engine: Mapping[str, Any] | None = None,
    **settings: Any,
) -> FoundConfig:
    """Only search ranks: a ``LoraConfig`` to train with elsewhere, and what led to it.

    Arguments as :func:`finetune`'s. Pass the configuration to ``peft.get_peft_model`` on a fresh
    model; on GPT-2, whose query and value are one matrix, after
    ``bilevel.lowrank.split_fused(model)``.

    Args:
        model, tokenizer: as :func:`finetune`'s.
        train: rows; a part of them is held out (``hold_out`` of LoRACut, ``split`` of AutoLoRA).
        method: ``LoRACut()`` (LoRA, of which the smallest part that loses next to nothing is kept)
            unless given; another that searches ranks, ``AutoLoRA()`` for one.
        hypergradient, target_modules, head, seed, engine, **settings: as :func:`finetune`'s.

    Raises:
        UserError: anything that is wrong with what is given, or no rank is left.
    """
    check_given(model, tokenizer)
    if not isinstance(method, RankSearch):
        raise UserError(
            f"method= must search ranks, LoRACut() or AutoLoRA(), and not {kind(method)}"
        )
    plan = _plan(
        _given(model, tokenizer, head),
        _task(model, tokenizer, _splits({"train": train}, "search_ranks")),
        method,
        hypergradient,
        target_modules,
        seed,
        engine,
        settings,
    )
    quiet()
    world = distributed.setup(plan.engine.strategy)
    plan = shared(plan, Path(), world)
    job = FineTuningJob.load(plan, load_task(plan))
    with tempfile.TemporaryDirectory() as scratch:
        context, found = job.context(Path(scratch)), None
        for stage in method.search_stages():
            found, _ = run_stage(stage, job, context, found)
        options, ranks, cut = method.found_ranks(job, found)
        said = decided_ranks.of_method(method, read_metrics(context.folder), ranks, cut)
    heads = job.head_modules
    config = LoraConfig(task_type=job.task_type, modules_to_save=list(heads) or None, **options)
    result = FoundConfig(config, None if cut is None else cut.frontier)
    result.decided = distributed.from_first(said, world)  # who keeps the records
    return result


def _given(model: PreTrainedModel, tokenizer: Any, head: Sequence[str] | None) -> GivenModel:
    check_head(model, head)
    return GivenModel(name=_name(model), model=model, tokenizer=tokenizer, head=head)


def _splits(data: Any, function: str) -> dict[str, Rows]:
    """The splits that are used, their rows as plain values."""
    if not isinstance(data, Mapping):
        raise UserError(
            f"{function} takes data as a mapping of splits, {{'train': rows, 'test': rows}}, and "
            f"not {kind(data)}"
        )
    for name in data:
        meant = next((split for split, names in OTHER_NAMES.items() if name in names), None)
        if meant is not None:
            raise UserError(f"data has {name!r}: call it {meant!r}, or leave it out")
    if "train" not in data:
        raise UserError(f"data has no 'train', only {listed(data)}")
    unread = [name for name in data if name not in SPLITS]
    if unread:
        log.warning(
            "data[%s] is not read: the splits are %s", listed(map(repr, unread)), listed(SPLITS)
        )
    return {name: rows_of(name, data[name]) for name in SPLITS if name in data}


def _folder(folder: Any, resume: Any) -> Path | None:
    """Where the run goes; None for a place that is removed afterwards."""
    if not isinstance(resume, bool):
        raise UserError(f"resume={resume!r}: this must be True or False")
    if folder is None:
        if resume:
            raise UserError("resume=True needs folder=, the folder of the interrupted run")
        return None
    if not isinstance(folder, str | Path) or not str(folder):
        raise UserError(f"folder={folder!r}: this must be a path, or None")
    place = Path(folder).expanduser()
    parts = [part for part in (place, *place.parents) if part.exists()]
    if parts and not parts[0].is_dir():
        raise UserError(f"folder={folder}: {parts[0]} is a file")
    check_writable(place, "folder")
    return place


def _task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, Rows],
    metrics: Sequence[str] | None = None,
    decoding: Decoding | None = None,
    source_column: str | None = None,
) -> GivenTask:
    if metrics is not None and not (
        isinstance(metrics, list | tuple) and all(isinstance(name, str) for name in metrics)
    ):
        raise UserError(f"metrics={metrics!r}: this must be a list of names, or None")
    if not isinstance(decoding, Decoding | None):
        raise UserError(f"decoding= must be Decoding(...) or None, and not {kind(decoding)}")
    if not isinstance(source_column, str | None) or source_column == "":
        raise UserError(f"source_column={source_column!r}: this must be a column's name, or None")
    answers = named(answers_of(model), data)
    seq2seq = is_seq2seq(answers, model.config)
    return GivenTask(
        data,
        answers,
        tokenizer,
        seq2seq,
        metrics,
        decoding,
        positions(model),
        size(model),
        token_types(model),
        source_column=source_column,
    )


def _plan(
    model: GivenModel,
    task: GivenTask,
    method: Method,
    hypergradient: Hypergradient | None,
    targets: str | Sequence[str] | None,
    seed: int,
    engine: Mapping[str, Any] | None,
    train: Mapping[str, Any],
) -> Plan:
    if not isinstance(method, Method):
        raise UserError(f"method= must be an instance, AutoLoRA() and the like, not {kind(method)}")
    if not isinstance(hypergradient, Hypergradient | None):
        raise UserError(
            "hypergradient= must be an instance, FiniteDifference() and the like, or None, not "
            f"{kind(hypergradient)}"
        )
    seed = from_values(Root, {"seed": seed}, "").seed
    options = from_values(EngineOptions, {} if engine is None else engine, "engine")
    if "precision" in train:
        raise UserError('precision is an option of the engine: engine={"precision": "bf16"}')
    known = [one.name for one in fields(TrainSettings) if one.name != "precision"]
    # On the command line these are options of train.
    places = from_values(TrainOptions, {"target_modules": targets}, "train").target_modules
    for name in sorted(train.keys() - set(known)):
        if in_python(name):
            raise UserError(f"unknown option {name!r} of train{in_python(name)}")
        allowed = f"allowed are {listed(known)}{nearest(name, known)}"
        raise UserError(f"unknown option {name!r} in train: {allowed}")
    settings = from_values(TrainSettings, {**train, "precision": options.precision}, "train")
    hypergradient, places = hypergradient or Unrolled(), places or method.targets or "qv"
    # By which resume=True knows the run: values that JSON holds, whatever way they were given.
    said: dict[str, Any] = {
        "method": repr(method),
        "hypergradient": repr(hypergradient),
        "seed": seed,
        "target_modules": places,
        "head": None if model.head is None else list(model.head),
        "metrics": plain(task.metrics),
        "decoding": plain(task.decoding),
        "train": {name: plain(vars(settings)[name]) for name in known},
        "engine": plain(options),
    }
    return Plan(
        seed=seed,
        method=method,
        task=task,
        model=model,
        hypergradient=hypergradient,
        settings=settings,
        places=places,
        engine=options,
        resume=False,
        figures=False,
        names={"method": method.name, "task": "given", "model": model.name},
        config=said,
    )


def _name(model: PreTrainedModel) -> str:
    return model.name_or_path or type(model).__name__
