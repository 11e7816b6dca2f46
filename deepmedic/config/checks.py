"""Cross-checks of train and test configs: keys that need, exclude or must agree with each other."""

from __future__ import annotations

from pathlib import Path

from deepmedic.config.analysis import ANALYSED_CASES, AnalysisConfig
from deepmedic.config.inference import TestConfig
from deepmedic.config.phase_checks import check_phases, check_recipe
from deepmedic.config.schema import declared_keys
from deepmedic.config.sections import AXIS_ORDERS, DataConfig, OutputConfig, PreprocessingConfig
from deepmedic.config.source import Refusals, listed, printable
from deepmedic.config.training import TrainConfig

_CHECKPOINT_ENDING = ".model.ckpt"
_LONGEST_NAME = 100
_VALIDATION_DATA = (
    *("dataframe_val", "channelsValidation", "gtLabelsValidation", "roiMasksValidation"),
    *("namesForPredictionsPerCaseVal", "weightedMapsForSamplingEachCategoryVal"),
)


def refuse_unsafe_name(key: str, name: str, refusals: Refusals) -> None:
    """Refuse a name that cannot be part of the names of files and folders."""
    unsafe = any(character in '/\\:*?"<>|' or not character.isprintable() for character in name)
    if unsafe or name.startswith(".") or name != name.strip() or len(name) > _LONGEST_NAME:
        refusals.refuse(
            key,
            f"found {name[:40]!r}; allowed: a name that can be part of file names: at most {_LONGEST_NAME} characters, "
            'none of / \\ : * ? " < > |, no point at the start and no blank at the ends',
        )


def model_path_note(path: Path | None) -> tuple[Path | None, str | None]:
    """Return the path of a model, and a note when it named one file of a TensorFlow checkpoint and was shortened."""
    if path is None:
        return None, None
    prefix, found, rest = path.name.rpartition(_CHECKPOINT_ENDING)
    if not found or not rest:
        return path, None
    shortened = path.with_name(prefix + found)
    note = f"cnnModelFilePath: {path.name} is one file of a checkpoint; {shortened.name} is used"
    return shortened, printable(note)


class SessionChecks:
    """Checks of one train or test config; what is wrong is refused, what is only odd becomes a note."""

    def __init__(self, refusals: Refusals, given: frozenset[str], split_by: str | None = None) -> None:
        """Create checks.

        Args:
            refusals: get what is wrong.
            given: the keys that stand in the file.
            split_by: the option that takes validation cases from the training cases, if one is given.
        """
        self._refusals = refusals
        self._given = given
        self._split_by = split_by
        self.notes: list[str] = []

    def train(self, config: TrainConfig) -> None:
        """Check what can be known without the model."""
        refuse_unsafe_name("sessionName", config.session_name, self._refusals)
        self._cases(config.data, "Training", "dataframe_train", labels_needed=True)
        self._sampling(config.sampling.kind, "typeOfSamplingForTraining", "ExtractPerCategoryTraining")
        self._sampling(config.validation_sampling.kind, "typeOfSamplingForVal", "ExtractPerCategoryVal")
        self._proportions(config.sampling.proportions, "proportionOfSamplesToExtractPerCategoryTraining")
        self._proportions(config.validation_sampling.proportions, "proportionOfSamplesToExtractPerCategoryVal")
        if config.recipe.kind is None:
            self.notes += check_phases(config, self._refusals, self._given)
        check_recipe(config, self._refusals)
        self._reweighting(config)
        self._validation(config)
        self._source_task(config)
        self._rate_search(config)
        self._feature_map_ranges(config.validation_output, "Val")
        self._normalisation(config.preprocessing, config.data)

    def batches(self, config: TrainConfig) -> None:
        """Check that each sub-epoch has at least one batch; batch sizes may come from the model."""
        self._batch(config.segments_per_subepoch, "numberTrainingSegmentsLoadedOnGpuPerSubep", config.batch_size)
        if config.validate_on_samples:
            self._batch(
                config.validation_segments, "numberValidationSegmentsLoadedOnGpuPerSubep", config.validation_batch_size
            )

    def test(self, config: TestConfig) -> None:
        """Check what can be known without the model."""
        refuse_unsafe_name("sessionName", config.session_name, self._refusals)
        self._cases(config.data, "", "dataframe", labels_needed=False)
        self._feature_map_ranges(config.output, "")
        self._normalisation(config.preprocessing, config.data)
        output = config.output
        saves_maps = output.save_probability_maps is None or any(output.save_probability_maps)
        scored = config.data.labels is not None or config.data.table is not None
        self._prediction(config)
        uncertain = bool(config.prediction.uncertainty)
        if not (output.save_segmentation or saves_maps or output.save_feature_maps or uncertain or scored):
            self.notes.append("nothing is saved and there are no labels to score: this session has no results")

    def _prediction(self, config: TestConfig) -> None:
        chosen = config.prediction
        unused = {
            "tileOverlap": chosen.blending == "none",
            "tileBlendingSigma": chosen.blending == "none",
            "componentSizeUnit": not any(chosen.minimum_sizes),
            "componentConnectivity": not chosen.postprocesses,
        }
        partners = {"tile": 'tileBlending = "gaussian"', "comp": "minimumComponentSize or keepLargestComponent"}
        self.notes += [
            f"{key} not used without {partners[key[:4]]}" for key in unused if unused[key] and key in self._given
        ]
        if config.ensemble is not None and config.model_path is not None:
            self._refusals.refuse("ensembleOfModels", "stands together with cnnModelFilePath; keep one of them")
        if config.ensemble is not None and config.output.save_feature_maps:
            self._refusals.refuse(
                "saveIndividualFms",
                "found true; allowed: false with ensembleOfModels; save those of one model at a time",
            )

    def analysis(self, config: AnalysisConfig) -> None:
        """Check what can be known without the models."""
        refuse_unsafe_name("sessionName", config.session_name, self._refusals)
        if config.training is None:
            self._cases(config.data, "Target", "dataframeTarget", labels_needed=True)
        else:
            self._refuse_beside_training(config)
        if config.has_source_data or config.source_data.labels is not None:
            self._cases(config.source_data, "Source", "dataframeSource", labels_needed=True)
        self._normalisation(config.preprocessing, config.data)
        names = config.class_names
        if names is not None and self._refusals.usable("classNamesTarget") and len(set(names)) < max(2, len(names)):
            self._refusals.refuse("classNamesTarget", f"found {list(names)}; allowed: at least 2 names, all different")

    def _refuse_beside_training(self, config: AnalysisConfig) -> None:
        """Refuse keys that say what `trainConfig` says."""
        cases = (name for name in ANALYSED_CASES.values() if name is not None)
        normalisation = (key.name for key in declared_keys(PreprocessingConfig))
        for name in sorted(self._given & {*cases, *normalisation}):
            self._refusals.refuse(
                name, f"contradicts trainConfig, whose cases and normalisation ({config.training}) are used; keep one"
            )

    def _cases(self, data: DataConfig, suffix: str, table: str, labels_needed: bool) -> None:
        channels, labels = f"channels{suffix}", f"gtLabels{suffix}"
        if not self._refusals.usable(channels, labels, table):
            return
        if data.table is not None:
            ignored = [key for key in (channels, labels, f"roiMasks{suffix}") if key in self._given]
            if ignored:
                self.notes.append(f"{listed(ignored)} not used, because {table} is given")
            return
        if data.channels is None:
            example = f'{channels} = ["list_of_channel_1.cfg", ...]'
            self._refusals.refuse(channels, f"is missing; give {example}, or a table with {table}")
        if labels_needed and data.labels is None:
            example = f'{labels} = "list_of_labels.cfg"'
            self._refusals.refuse(labels, f"is missing; give {example}, or a table with {table}")

    def _sampling(self, kind: int, type_key: str, proportions: str) -> None:
        key = f"proportionOfSamplesTo{proportions}"
        if kind in (1, 2) and key in self._given:
            self.notes.append(f"{key} not used, because {type_key} is {kind}, which has a single category")
        if kind == 2 and type_key in self._given:
            self.notes.append(f"{type_key} = 2 draws segments as 1 does: uniformly, within the ROI if there is one")

    def _proportions(self, proportions: tuple[float, ...] | None, key: str) -> None:
        if proportions is not None and self._refusals.usable(key) and not sum(proportions) > 0:
            self._refusals.refuse(key, f"found {list(proportions)}; allowed: shares of which at least one is above 0")

    def _reweighting(self, config: TrainConfig) -> None:
        key = "reweight_classes_in_cost"
        reweighting = config.loss.reweighting
        if not self._refusals.usable(key):
            return
        if reweighting.kind == "per_c" and not reweighting.weights:
            self._refusals.refuse((key, "prms"), 'is missing; type "per_c" needs one weight per class')
        if reweighting.kind == "freq" and reweighting.weights:
            self._refusals.refuse((key, "prms"), 'stands with type "freq", which computes the weights; leave it out')
        if reweighting.schedule is not None and reweighting.schedule[0] > reweighting.schedule[1]:
            self._refusals.refuse(
                (key, "schedule"), f"found {list(reweighting.schedule)}; allowed: [first, last] in rising order"
            )

    def _validation(self, config: TrainConfig) -> None:
        if self._split_by is not None:
            self._no_validation_data(config, self._split_by)
            return
        data = config.validation_data
        keys = ("channelsValidation", "dataframe_val", "gtLabelsValidation")
        if not (config.validate_on_samples or config.validate_on_volumes):
            given = [key for key in keys if key in self._given]
            if given:
                self.notes.append(
                    f"{listed(given)} not used, because neither performValidationOnSamplesThroughoutTraining nor "
                    "performFullInferenceOnValidationImagesEveryFewEpochs is on"
                )
            return
        # The Theano version segmented validation cases without labels too, when it did not validate on samples.
        labels_needed = config.validate_on_samples or not config.schedule.theano
        self._cases(data, "Validation", "dataframe_val", labels_needed)
        self._names(config)

    def _no_validation_data(self, config: TrainConfig, split_by: str) -> None:
        for key in (key for key in _VALIDATION_DATA if key in self._given):
            self._refusals.refuse(
                key,
                f"stands there, but {split_by} takes the validation cases from the training cases; leave one of the "
                "two out",
            )
        validates = config.validate_on_samples or config.validate_on_volumes
        if split_by == "-crossValidate" and config.cross_validation_model == "best" and not validates:
            self._refusals.refuse(
                "crossValidationModel",
                'found "best"; allowed: "final", unless performValidationOnSamplesThroughoutTraining or '
                "performFullInferenceOnValidationImagesEveryFewEpochs is on",
            )
        if split_by == "-split" and not validates:
            self.notes.append(
                "the validation part of -split is not used, because neither "
                "performValidationOnSamplesThroughoutTraining nor performFullInferenceOnValidationImagesEveryFewEpochs "
                "is on"
            )

    def _rate_search(self, config: TrainConfig) -> None:
        search = config.rate_search
        if search is not None and search.lowest_power >= search.highest_power:
            self._refusals.refuse(
                ("findLr", "maxPower"),
                f"found {search.highest_power:g}; allowed: more than minPower, which is {search.lowest_power:g}",
            )

    def _source_task(self, config: TrainConfig) -> None:
        """Refuse a source task without cases, which are listed as all others are."""
        task = config.source_task
        if task is None or task.table is not None:
            return
        for name, value in {"channels": task.channels, "gtLabels": task.labels}.items():
            if value is None:
                self._refusals.refuse(
                    ("sourceTask", name), "is missing; list the cases to be scored, or give dataframe"
                )

    def _names(self, config: TrainConfig) -> None:
        key = "namesForPredictionsPerCaseVal"
        output = config.validation_output
        saves_maps = output.save_probability_maps is None or any(output.save_probability_maps)
        saves = output.save_segmentation or saves_maps or output.save_feature_maps
        named = config.validation_data.names is not None or config.validation_data.table is not None
        if config.validate_on_volumes and saves and not named and self._refusals.usable(key):
            self._refusals.refuse(
                key,
                f'is missing; the predictions of validation cases are saved under its names: give {key} = "names.cfg", '
                "or set saveSegmentationVal = false and saveProbMapsForEachClassVal to false for every class",
            )

    def _feature_map_ranges(self, output: OutputConfig, suffix: str) -> None:
        name = "minMaxIndicesOfFmsToSaveFromEachLayerOf{}Pathway" + suffix
        ranges = {
            name.format("Normal"): output.feature_maps_normal,
            name.format("Subsampled"): output.feature_maps_subsampled,
            name.format("FullyConnected"): output.feature_maps_fc,
        }
        for key, layers in ranges.items():
            for layer, limits in enumerate(layers):
                if limits and (len(limits) != 2 or limits[0] >= limits[1]):
                    self._refusals.refuse(
                        (key, layer),
                        f"found {list(limits)}; allowed: [first, last + 1] with first below last + 1, or [] for none",
                    )
        if output.save_feature_maps and not any(any(layers) for layers in ranges.values()):
            self.notes.append(f"saveIndividualFms{suffix} is on, but no minMaxIndices key chooses feature maps to save")

    def orientation(self, preprocessing: PreprocessingConfig) -> None:
        found = preprocessing.orientation
        if self._refusals.usable("orientation") and found not in ("asStored", *AXIS_ORDERS):
            self._refusals.refuse(
                "orientation",
                f'found "{found}"; allowed: "asStored", or where the three axes point, one letter of each of R and L, '
                'A and P, S and I, such as "RAS" or "LPS"',
            )

    def _normalisation(self, preprocessing: PreprocessingConfig, data: DataConfig) -> None:
        self.orientation(preprocessing)
        if not preprocessing.check_inputs:
            self.notes.append("run_input_checks = false has no effect: labels and masks are always checked")
        key, zscore = "norm_zscore_prms", preprocessing.zscore
        if not self._refusals.usable(key):
            return
        if zscore.all_channels and zscore.per_channel is not None:
            self._refusals.refuse(
                (key, "apply_per_channel"),
                "stands together with apply_to_all_channels; keep one of them",
            )
        channels = len(data.channels or ())
        given = len(zscore.per_channel or ())
        if zscore.per_channel is not None and channels and data.table is None and given != channels:
            self._refusals.refuse(
                (key, "apply_per_channel"), f"found {given} entries; allowed: one per channel, {channels}"
            )
        percents = zscore.cutoff_percents
        if percents is not None and percents[0] >= percents[1]:
            self._refusals.refuse(
                (key, "cutoff_percents"), f"found {list(percents)}; allowed: [low, high] with low below high"
            )
        if key in self._given and not zscore.applies:
            self.notes.append(
                f"{key} normalises no channel: set its apply_to_all_channels to true unless the files are normalised"
            )

    def _batch(self, segments: int, key: str, batch_size: int) -> None:
        sizes = ("batchsize_train", "batchsize_val_samples")
        if self._refusals.usable(key, *sizes) and segments < batch_size:
            self._refusals.refuse(
                key, f"found {segments}; allowed: at least one batch, {batch_size}, because incomplete ones are dropped"
            )
