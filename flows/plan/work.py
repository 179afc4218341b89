"""Every step of a run, from the catalogue as ingest reads it and from what the caches hold."""

import tempfile
from collections.abc import Mapping

import pyarrow as pa

from flows import training
from flows.job import encoded_from, features_of, reachable
from flows.plan.contents import Pictures, fresh, of_items, of_texts
from flows.plan.rates import Rates, timed
from pipeline import ingest
from pipeline.cache import ShardCache
from pipeline.captions import attributes
from pipeline.captions import load as caption_load
from pipeline.captions import stage as captions
from pipeline.contents import content_hash
from pipeline.encoders import load
from pipeline.encoders.base import Fingerprint
from pipeline.features import stage as features
from pipeline.features.kept import CACHED
from pipeline.ingest.sources import in_place
from pipeline.store import Store
from schemas.lineage import CODE_VERSION, TableVersion, canonical_json
from schemas.plan import Plan, Step
from schemas.run import FeatureParameters, RunParameters
from schemas.tables import CaptionStatus
from schemas.training import CM3Config


def plan(parameters: FeatureParameters) -> Plan:
    """What a run with these parameters would do now, or, if they are not those of a run with a training, what an
    extraction would. Raw files are fetched as it would, and kept for it.

    Raises:
        UserError: as the run would: the source's files are missing or of another format.
    """
    store = Store(parameters.store, moves_latest=False)
    with tempfile.TemporaryDirectory() as folder, in_place(parameters.source, store) as source:
        drafts = Store(folder)
        items_only = not isinstance(parameters, RunParameters)
        ingest.check(store=store, source=source, items_only=items_only)
        read = ingest.run(
            store=store,
            dataset=parameters.dataset,
            source=source,
            config=parameters.ingest,
            items_only=items_only,
            limit=parameters.limit,
            output=drafts,
        )
        tables = dict(read.tables)
        place = store if tables["items"].reused else drafts
        config = reachable(parameters.images, source)
        pictures = Pictures(store=store, items=tables["items"], config=config, read_from=place)
        return _Planner(store, place, parameters, tables, pictures).plan()


class _Planner:
    """The steps so far. `found` are tables that the run would find published."""

    def __init__(
        self,
        store: Store,
        place: Store,
        parameters: FeatureParameters,
        tables: Mapping[str, TableVersion],
        pictures: Pictures,
    ) -> None:
        self.store, self.place, self.parameters, self.pictures = store, place, parameters, pictures
        self.items = tables["items"]
        self.interactions = tables.get("interactions")
        self.rates = Rates(store, parameters.dataset)
        self.found: dict[str, TableVersion] = dict(pictures.tables)
        if self.interactions is not None:
            self.found["interactions"] = self.interactions
        self.steps: list[Step] = []

    def plan(self) -> Plan:
        self._ingest()
        self._fetch()
        for name in self.parameters.features:
            if name == "caption":
                self._caption()
            self._encode(name)
        for name in self.parameters.imported:
            self._add(f"features/{name}", "read", "vectors", self.items.rows, self.items.rows, note="imported")
        self._compare()
        for name in self.parameters.semantic_ids.features:
            rows = self.items.rows
            self._add(f"semantic_ids/{name}", "code", "items", 0, rows, note="none if the vectors are as before")
        if isinstance(self.parameters, RunParameters):
            self._train(self.parameters.trainer)
        rows = self.interactions.rows if self.interactions else 0
        return Plan(dataset=self.parameters.dataset, items=self.items.rows, interactions=rows, steps=tuple(self.steps))

    def _add(self, stage: str, work: str, unit: str, at_least: int, at_most: int, **fields: object) -> None:
        step = {"stage": stage, "work": work, "unit": unit, "at_least": at_least, "at_most": at_most}
        self.steps.append(Step.model_validate(step | fields))

    def _ingest(self) -> None:
        rows = 0 if self.items.reused else self.items.rows
        self._add("ingest", "read", "items", rows, rows, note="unchanged" if self.items.reused else "")

    def _fetch(self) -> None:
        count, mean = len(self.pictures.due), self.pictures.mean_bytes()
        size = {"bytes": round(count * mean)} if mean is not None else {}
        self._add("images", "fetch", "pictures", count, count, **size, **timed(count, *self.rates.per_second("images")))

    def _caption(self) -> None:
        identity = caption_load.recorded(self.store, self.parameters.caption_spec())
        if identity is not None and "images" in self.found:
            described = captions.describe(self.found["images"], identity, self.parameters.caption_spec())
            version = self.store.find(described)
            if version is not None:
                self.found["captions"] = version
                self._add("captions", "caption", "pictures", 0, 0, seconds=0.0, cost=0.0)
                return
        known, unknown = self.pictures.hashes(gallery=False)
        left = fresh(known, self._cache("captions", identity, captions.CACHED))
        cost = self._cost("captions", left + unknown)
        timing = timed(left + unknown, *self.rates.per_second("captions"))
        self._add("captions", "caption", "pictures", left, left + unknown, **cost, **timing)

    def _encode(self, name: str) -> None:
        spec, stage = self.parameters.encoder(name), f"features/{name}"
        identity = load.recorded(self.store, spec)
        if identity is not None and (version := self._published(name, identity)):
            self.found[stage] = version
            at_least = at_most = 0
        else:
            contents, more = self._contents(name)
            at_least = fresh(contents, self._cache("features", identity, CACHED))
            at_most = at_least + more
        unit = {"text": "texts", "image": "pictures", "multimodal": "items"}[spec.modality]
        cost = self._cost(stage, at_most) if spec.is_served else {}
        timing = timed(at_most, *self.rates.per_second(stage))
        self._add(stage, "encode", unit, at_least, at_most, **cost, **timing)

    def _cost(self, stage: str, contents: int) -> dict[str, float]:
        """The field of a step that asks so much; none if no run says what a content costs."""
        each = 0.0 if contents == 0 else self.rates.cost_per_content(stage)
        return {} if each is None else {"cost": each * contents}

    def _published(self, name: str, identity: Fingerprint) -> TableVersion | None:
        """The table of a feature that the run would find."""
        reads_pictures = name != "caption" and self.parameters.encoder(name).modality != "text"
        if (reads_pictures and not self.pictures.is_published) or (name == "caption" and "captions" not in self.found):
            return None
        tables = encoded_from(name, self.parameters, {**self.found, "items": self.items})
        return self.store.find(features.describe(name=name, identity=identity, **tables))

    def _contents(self, name: str) -> tuple[set[str], int]:
        """Hashes of a feature's contents as far as they are known, and how many more there may be."""
        if name == "caption":
            return self._captions()
        match self.parameters.encoder(name).modality:
            case "text":
                return of_texts(self.place, self.items, "text"), 0
            case "image":
                return self.pictures.hashes(gallery=True)
            case "multimodal":
                if self.pictures.is_published and self.items.reused:
                    return of_items(self.store, self.items, self.pictures.tables), 0
                return set(), self.items.rows

    def _captions(self) -> tuple[set[str], int]:
        if "captions" in self.found:
            return of_texts(self.store, self.found["captions"], "caption"), 0
        known, unknown = self.pictures.hashes(gallery=False)
        identity = caption_load.recorded(self.store, self.parameters.caption_spec())
        cache = self._cache("captions", identity, captions.CACHED)
        if cache is None:
            return set(), len(known) + unknown
        keys = sorted(cache.held(known))
        rows = cache.lookup(keys).to_pylist()
        spec = self.parameters.caption_spec()
        good = [attributes.text(row["caption"], spec) for row in rows if row["status"] == CaptionStatus.OK]
        texts = {content_hash(text) for text in good if text is not None}
        return texts, len(known) - len(keys) + unknown

    def _cache(self, stage: str, identity: Fingerprint | None, schema: pa.Schema) -> ShardCache | None:
        """Finished work of a model; None if the store knows nothing of the model."""
        if identity is None:
            return None
        return ShardCache(self.store, f"{stage}/{identity.kind}-{identity.key()[:16]}", schema)

    def _compare(self) -> None:
        made = features_of(self.found)
        if len(made) == len(self.parameters.features) and not self.parameters.imported:
            inputs = {f"features/{name}": version.version for name, version in made.items()}
            if self.parameters.similarity.weighting == "learned" and self.interactions is not None:
                inputs["interactions"] = self.interactions.version
            version = self._like("similarity", inputs, self.parameters.similarity.model_dump(mode="json"))
            if version is not None:
                self.found["similarity"] = version
                self._add("similarity", "compare", "items", 0, 0, seconds=0.0)
                return
        rows = self.items.rows
        note = "fewer if an earlier graph can be updated"
        timing = timed(rows, *self.rates.per_second("similarity"))
        self._add("similarity", "compare", "items", 0, rows, note=note, **timing)

    def _train(self, trainer: CM3Config) -> None:
        if self.interactions is None:
            self._add("train", "train", "epochs", 0, 0, seconds=0.0, note="no interaction is left: the run would stop")
            return
        most = trainer.max_epochs
        if "similarity" in self.found:
            inputs = {name: version.version for name, version in training.inputs(self.found).items()}
            if self._like("embeddings/items", inputs, training.settings(trainer)):
                self._add("train", "train", "epochs", 0, 0, seconds=0.0)
                return
        each, basis = self.rates.seconds_per_epoch()
        timing = {"seconds": most * each, "basis": basis} if each else {}
        self._add("train", "train", "epochs", 1, most, note="fewer if validation stops it", **timing)

    def _like(self, table: str, inputs: Mapping[str, str], config: object) -> TableVersion | None:
        """A published version made by this release from these inputs with this configuration."""
        wanted = {"cm3.inputs": canonical_json(inputs), "cm3.config": canonical_json(config)}
        wanted["cm3.code_version"] = CODE_VERSION
        for version in self.store.versions(self.parameters.dataset, table):
            if all(version.lineage.get(key) == value for key, value in wanted.items()):
                return version
        return None
