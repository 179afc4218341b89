"""Compare and tune on a data set's own tables: compare, compare-encoders, tune."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from pydantic import BaseModel, Field, create_model
from rich.table import Table

from flows.cli.flags import over, with_flags_of
from flows.cli.options import Dataset, JsonOption, StoreOption, answer, json_object, log_to_terminal, opened
from flows.cli.tables import Shown, fitted
from flows.parameters import validated
from schemas.errors import UserError

if TYPE_CHECKING:  # the models of all trainers' parameters, which every other command does without
    from schemas.encoder_comparison import EncoderComparison
    from schemas.encoders import EncoderSpec
    from schemas.training import ComparisonRow, EvaluationConfig, TuningResult

logger = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(cls=with_flags_of(_compared))(compare)
    app.command(cls=with_flags_of(_judge))(compare_encoders)
    app.command(cls=with_flags_of(_tuned_by))(tune)


def _judge(_: Sequence[str]) -> type[BaseModel]:
    """`cm3`, which judges encoders."""
    from schemas.training import CM3Config

    return create_model("Judge", cm3=(CM3Config, CM3Config()))


def _compared(words: Sequence[str]) -> type[BaseModel]:
    """`cm3`, and `overrides` of those recommenders that the words name: the help would be endless with all."""
    fields: dict[str, Any] = {}
    if used := set(re.findall(r"^--overrides\.([^.=\s]+)\.", "\n".join(words), re.MULTILINE)):
        from trainers.recommenders import RECOMMENDERS  # torch takes seconds to import

        named: dict[str, Any] = {name: (row.config, row.config()) for name, row in RECOMMENDERS.items() if name in used}
        fields["overrides"] = (create_model("Overrides", **named), Field(default_factory=dict))
    return cast(type[BaseModel], create_model("Compared", __base__=_judge(words), **fields))


def _tuned_by(words: Sequence[str]) -> type[BaseModel]:
    """`base` and `space` of the recommender that the words name."""
    from schemas.training import CM3Config

    config: type[BaseModel] = CM3Config
    named = re.search(r"^--model[=\n](.+)$", "\n".join(words), re.MULTILINE)
    if named and named[1] != "cm3":
        from trainers.recommenders import RECOMMENDERS  # as above

        config = RECOMMENDERS[named[1]].config if named[1] in RECOMMENDERS else config
    plain = {name: field for name, field in config.model_fields.items() if field.annotation in (int, float)}
    space: dict[str, Any] = {
        name: (tuple[field.annotation, ...], Field((), description=f"Tried one after another: {field.description}"))  # type: ignore[name-defined]
        for name, field in plain.items()
    }
    fields: dict[str, Any] = {"base": (config, config()), "space": (create_model("Space", **space), Field({}))}
    return cast(type[BaseModel], create_model("Tuned", **fields))


def compare(
    dataset: Dataset,
    models: Annotated[
        list[str], typer.Option(help="Recommenders, each once; docs/results.md lists them. Default: all.")
    ] = [],  # noqa: B006 - typer reads defaults
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each.")] = 5,
    ablations: Annotated[bool, typer.Option(help="Add CM3 without each of its parts and features.")] = False,
    cm3: Annotated[Any, typer.Option(help="CM3's hyper-parameters (JSON).", parser=json_object, metavar="JSON")] = "{}",
    overrides: Annotated[
        Any,
        typer.Option(
            help="Recommender → parameters that differ from its defaults (JSON); or --overrides.lightgcn.layers 2.",
            parser=json_object,
            metavar="JSON",
        ),
    ] = "{}",
    lists: Annotated[
        list[str],
        typer.Option(
            help="Parquet of somebody else's ranked lists (user_id, item_id, rank), judged beside the others; its row "
            "is called after the file."
        ),
    ] = [],  # noqa: B006 - typer reads defaults
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Train recommenders over several seeds on the same data, split, selection and evaluator; print and store a table.

    CM3 starts from the trainer configuration of the data set's last run that trained; `--cm3` overrides it.

    Examples: `cm3 compare demo --seeds 3 --cm3.gamma 0.5`, `cm3 compare demo --models cm3 --models lightgcn`,
    `cm3 compare demo --models cm3 --ablations`, `cm3 compare demo --models cm3 --lists theirs.parquet`
    """
    from flows import research
    from schemas.training import ComparisonConfig

    log_to_terminal()
    fields: dict[str, Any] = {"seeds": tuple(range(seeds)), "ablations": ablations, "cm3": cm3, "overrides": overrides}
    fields |= {"models": tuple(models)} if models else {}
    fields["lists"] = {PurePosixPath(path).stem: path for path in lists}
    validated(ComparisonConfig, fields)  # what was asked for is judged as it was written
    source = opened(store)
    config = validated(
        ComparisonConfig, fields | {"cm3": _started_from(research.trained_with(source, dataset, searched={}), cm3)}
    )
    rows, path = research.compare(source, dataset, config)
    lines = [_comparison(rows, config.cm3.evaluation), *_cold(rows, config.cm3.evaluation.selection_k)]
    answer(rows, as_json, *lines, path)


def compare_encoders(
    dataset: Dataset,
    encoders: Annotated[
        list[str],
        typer.Option(
            help="YAML files with the fields of one encoder each, called after the file; or features of the last run, "
            "by name. Several at once with commas between them."
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, and draws of hidden items.")] = 3,
    cm3: Annotated[Any, typer.Option(help="CM3's hyper-parameters (JSON).", parser=json_object, metavar="JSON")] = "{}",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Say which encoder is worth its cost on a data set: what each covers and costs, how well its vectors alone find
    what users chose, and whether the differences are beyond chance. Every content is encoded once.

    CM3 starts from the trainer configuration of the data set's last run that trained; `--cm3` overrides it.

    Examples: `cm3 compare-encoders demo --encoders sentence,clip`,
    `cm3 compare-encoders shop --encoders small.yaml,large.yaml`
    """
    from flows import encoder_comparison, research
    from schemas.encoder_comparison import EncoderComparisonConfig
    from schemas.training import ComparisonConfig

    log_to_terminal()
    trainer: dict[str, Any] = {"seeds": tuple(range(seeds)), "cm3": cm3}
    validated(ComparisonConfig, trainer)  # as in `compare`
    source = opened(store)
    start = _started_from(research.trained_with(source, dataset, searched={}), cm3)
    trainer["cm3"] = start | {"modality_weights": None}
    config = validated(EncoderComparisonConfig, {"encoders": _encoders(encoders), "trainer": trainer})
    found = encoder_comparison.run(source, dataset, config)
    rule = config.trainer.cm3.evaluation
    answer(found, as_json, _encoder_rows(found, rule), _encoder_pairs(found), found.verdict, found.path)


def _encoders(given: list[str]) -> "dict[str, EncoderSpec | None]":
    """Name → encoder, of files and features that the option names.

    Raises:
        UserError: a file cannot be read, is no encoder or has a name that no table can have; a name comes twice.
    """
    from flows.cli.run import read_yaml
    from schemas.encoders import EncoderSpec
    from schemas.lineage import FOLDER

    encoders: dict[str, EncoderSpec | None] = {}
    for word in (word.strip() for words in given for word in words.split(",")):
        path = Path(word)
        name = path.stem if path.suffix in (".yaml", ".yml") else word
        if name in encoders:
            raise UserError(f"encoders: {name!r} is given twice; rename one of the files.")
        if path.suffix in (".yaml", ".yml"):
            if not re.fullmatch(FOLDER, name):
                raise UserError(
                    f"encoders: the file {word!r} stands for its encoder, whose vectors are the table features/<name>: "
                    "rename it to a word of letters, digits, hyphens, underscores and dots, e.g. small.yaml."
                )
            encoders[name] = validated(EncoderSpec, read_yaml(path))
        else:
            encoders[name] = None
    return encoders


def tune(
    dataset: Dataset,
    model: Annotated[str, typer.Option(help="Recommender.")] = "cm3",
    trials: Annotated[int, typer.Option(min=1, help="Configurations tried at most, over all restarts.")] = 48,
    base: Annotated[
        Any, typer.Option(help="Parameters that stay the same (JSON).", parser=json_object, metavar="JSON")
    ] = "{}",
    space: Annotated[
        Any,
        typer.Option(
            help="Parameter → values to try (JSON); default: the recommender's grid.",
            parser=json_object,
            metavar="JSON",
        ),
    ] = "null",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Search hyper-parameters on validation; test is used once, at the end. Run it again to resume a search.

    CM3 starts from the trainer configuration of the data set's last run that trained; `--base` overrides it.

    Examples: `cm3 tune demo --trials 20`,
    `cm3 tune demo --model lightgcn --base.dim 32 --space.layers 2 --space.layers 3`
    """
    from flows import research
    from schemas.training import TuningConfig

    log_to_terminal()
    config = validated(TuningConfig, {"model": model, "trials": trials, "base": base, "space": space})
    source = opened(store)
    if model == "cm3":
        start = _started_from(research.trained_with(source, dataset, searched=config.space), config.base)
        config = config.model_copy(update={"base": start})
    result = research.tune(source, dataset, config)
    answer(result, as_json, _tuned(result))


def _started_from(trained: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was given, over the configuration of the last run, which is named where it is none of the defaults."""
    if trained:
        logger.info("CM3 starts from the last run's trainer configuration: %s", json.dumps(trained))
    return over(trained, given)


def _comparison(rows: "list[ComparisonRow]", evaluation: "EvaluationConfig") -> Table:
    metric = f"{evaluation.selection_metric.upper()}@{evaluation.selection_k}"
    test = [_with_spread(row.mean, row.spread if row.runs > 1 else None) for row in rows]
    cells = {
        "CM3 ahead by %": [_ahead(row) for row in rows],
        "p (Holm)": ["" if row.p_holm is None else f"{row.p_holm:.2g}" for row in rows],
        "runs": [str(row.runs) for row in rows],
        "valid": [f"{row.validation:.4f}" for row in rows],
        "95 % of users": ["" if row.low is None else f"{row.low:.4f}–{row.high:.4f}" for row in rows],
        "seconds": [f"{row.seconds:.0f}" for row in rows],
        "parameters": [f"{row.parameters:,}" for row in rows],
    }
    return fitted(
        [
            Shown("model", [row.model for row in rows]),
            Shown(f"test {metric}", test, numeric=True),
            *(Shown(name, column, numeric=True, optional=True) for name, column in cells.items() if any(column)),
        ]
    )


def _cold(rows: "list[ComparisonRow]", k: int) -> list[Table]:
    """The rows that say how hidden items are found, best first; no table where none does."""
    judged = sorted((row for row in rows if row.cold), key=lambda row: -row.cold["cold"][f"recall@{k}"])
    columns = [
        Shown(
            f"{'all' if split == 'cold' else 'cold'} {metric}@{k}",
            [f"{row.cold[split][f'{metric.lower()}@{k}']:.4f}" for row in judged],
            numeric=True,
        )
        for split in ("cold", "cold_only")
        for metric in ("Recall", "NDCG")
    ]
    title = "Items hidden from training, ranked among all items and among cold ones"
    return [fitted([Shown("model", [row.model for row in judged]), *columns], title)] if judged else []


def _encoder_rows(found: "EncoderComparison", rule: "EvaluationConfig") -> Table:
    rows, k = found.rows, rule.selection_k
    prices = ["–" if row.price is None else f"{row.price:.2g}" for row in rows]
    shares = [
        "–" if row.share_a_user is None or row.by_chance is None else f"{row.share_a_user:.1%} ({row.by_chance:.1%})"
        for row in rows
    ]
    return fitted(
        [
            Shown("encoder", [row.encoder for row in rows]),
            Shown(
                f"warm {rule.selection_metric.upper()}@{k}",
                [_with_spread(row.warm, row.warm_spread) for row in rows],
                numeric=True,
            ),
            Shown(f"cold recall@{k}", [_with_spread(row.cold, row.cold_spread) for row in rows], numeric=True),
            Shown("coverage", [f"{row.coverage:.1%}" for row in rows], numeric=True, optional=True),
            Shown(
                "ms each",
                ["–" if row.seconds is None else f"{1000 * row.seconds:,.1f}" for row in rows],
                numeric=True,
                optional=True,
            ),
            *(
                [Shown("price each", prices, numeric=True, optional=True)]
                if any(row.price != 0 for row in rows)
                else []
            ),
            Shown("bytes each", [f"{row.bytes:,.0f}" for row in rows], numeric=True, optional=True),
            Shown("share a user (by chance)", shares, numeric=True, optional=True),
            Shown("model", [row.model for row in rows], cut=True, optional=True),
        ],
    )


def _with_spread(mean: float | None, spread: float | None) -> str:
    """A dash for what is not known: of one seed or draw, the spread."""
    if mean is None:
        return "–"
    return f"{mean:.4f} ± {'–' if spread is None else f'{spread:.4f}'}"


def _encoder_pairs(found: "EncoderComparison") -> Table:
    pairs = found.pairs
    ahead = ["–" if pair.ahead is None else f"{pair.ahead:+.1%}" for pair in pairs]
    return fitted(
        [
            Shown("encoder", [pair.encoder for pair in pairs]),
            Shown("against", [pair.other for pair in pairs]),
            Shown("measure", [pair.measure for pair in pairs]),
            Shown("ahead by", ahead, numeric=True),
            Shown("p", ["–" if pair.p_value is None else f"{pair.p_value:.2g}" for pair in pairs], numeric=True),
            Shown("p (Holm)", ["–" if pair.p_holm is None else f"{pair.p_holm:.2g}" for pair in pairs], numeric=True),
        ]
    )


def _ahead(row: "ComparisonRow") -> str:
    """By how much CM3 is ahead of the row, and the interval: "+4.1 (+2.0, +6.3)"."""
    if row.ahead is None:
        return ""
    ends = (row.ahead_low, row.ahead_high)
    interval = "" if None in ends else f" ({', '.join(f'{100 * end:+.1f}' for end in ends if end is not None)})"
    return f"{100 * row.ahead:+.1f}{interval}"


def _tuned(result: "TuningResult") -> Table:
    title = f"{result.model}: {result.finished} trials, {result.pruned} stopped early"
    table = Table(title=title, title_justify="left")
    table.add_column("chosen on validation")
    table.add_column("value", justify="right")
    for name, value in result.best.items():
        table.add_row(name, str(value))
    table.add_section()
    table.add_row("validation", f"{result.validation:.4f}")
    for name in (name for name in ("ndcg@20", "recall@20", "precision@20", "map@20") if name in result.test):
        table.add_row(f"test {name.upper()}", f"{result.test[name]:.4f}")
    return table
