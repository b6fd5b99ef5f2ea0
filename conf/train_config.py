"""The schema of `rl-exp train`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from hydra.core.config_store import ConfigStore

from conf.data_config import DataConfig, TokenizerConfig, TokenizerKind
from conf.limits import limited
from conf.run_config import RunConfig
from experiments.data.hub_dataset import HubDataset
from experiments.data.hub_rows import HubRows
from experiments.data.local_files import LocalFiles
from experiments.data.tokenizer import HubTokenizer, TokenizerChoice
from experiments.models.shapes import (
    LATENT,
    AttentionMechanism,
    AttentionOptions,
    AttentionShape,
    ModelShape,
    matched_feed_forward_dim,
)
from experiments.runs.external_inputs import HUB_NAME, local_files
from experiments.runs.model_folders import check_policy_folder
from experiments.training.choices import Distribution, OptimizerName, Precision


@dataclass
class AttentionConfig(AttentionOptions):
    """A mechanism, its options, and what the size of the model or the initialisation decides otherwise."""

    mechanism: AttentionMechanism = AttentionMechanism.gqa
    low_rank_bias: bool | None = None  # null: for mla and gla as the model size says
    zero_init_output: bool = False  # output projections of attention and feed-forward start at zero

    def __post_init__(self) -> None:
        latent = self.mechanism in LATENT
        if self.latent_scaling and not latent:
            raise ValueError(
                f"attention.latent_scaling=true does not fit {self.mechanism}, which has no latents: use mla or gla"
            )
        projects = latent or (self.mechanism is AttentionMechanism.gta and self.rope_dim != 0)
        if self.low_rank_bias and not projects:
            raise ValueError(
                f"attention.low_rank_bias=true does not fit {self.mechanism}, which has no low-rank projection: use "
                "mla, gla, or gta with a rope_dim"
            )


@dataclass
class ModelConfig:
    """A size: the block that all mechanisms share."""

    layers: int = 4
    hidden_size: int = 128
    query_heads: int = 8
    head_dim: int = 16
    anchor_feed_forward_dim: int = limited(344, at_least=1)  # of the MHA model, which fixes the parameter count
    # null: matched, so that every mechanism has the anchor's parameters
    feed_forward_dim: int | None = limited(None, at_least=1, fix="or null to match the parameters of the MHA model")
    published_feed_forward_dims: dict[str, int] = field(default_factory=dict)  # mechanism -> width in the paper
    latent_rope_dim: int | None = None  # rope_dim of MLA and GLA where the paper departs from head_dim / 2
    low_rank_bias: bool = False
    rope_base: float = limited(10000.0, above=0)
    norm_epsilon: float = limited(1e-5, above=0)
    initializer_range: float = limited(0.02, above=0)
    tie_embeddings: bool = True

    def shape(self, attention: AttentionConfig, vocabulary_size: int) -> ModelShape:
        """The model with that attention: its feed-forward as given, else as published, else matched to the MHA model.

        Raises ValueError for an impossible shape.
        """
        options = {item.name: getattr(attention, item.name) for item in fields(AttentionOptions)}
        low_rank_bias = attention.low_rank_bias
        if attention.mechanism in LATENT:
            if options["rope_dim"] is None:
                options["rope_dim"] = self.latent_rope_dim
            if low_rank_bias is None:
                low_rank_bias = self.low_rank_bias
        layer = AttentionShape(
            mechanism=attention.mechanism,
            hidden_size=self.hidden_size,
            query_heads=self.query_heads,
            head_dim=self.head_dim,
            low_rank_bias=bool(low_rank_bias),
            **options,
        )
        width = self.feed_forward_dim
        if width is None:
            # A shape that departs from the paper's has no published width.
            departs = attention.given().keys() - {"split_query_latent", "latent_scaling"}
            name = "gla_q" if attention.split_query_latent else str(attention.mechanism)
            width = None if departs else self.published_feed_forward_dims.get(name)
        return ModelShape(
            attention=layer,
            layers=self.layers,
            vocabulary_size=vocabulary_size,
            feed_forward_dim=width or matched_feed_forward_dim(layer, self.anchor_feed_forward_dim),
            tie_embeddings=self.tie_embeddings,
            rope_base=self.rope_base,
            norm_epsilon=self.norm_epsilon,
            initializer_range=self.initializer_range,
            zero_init_output=attention.zero_init_output,
        )


@dataclass
class InitConfig:
    """The weights at the start: drawn from the seed, or those of a model that exists, which training continues.

    A model that exists has its own shape and tokenizer: `attention`, `model` and `tokenizer` are not used.
    """

    path: str | None = None  # a model folder, a finished run of ours, or a hub name; null: fresh weights
    revision: str | None = None  # of a hub model: a branch, tag or commit; null: its main branch

    def __post_init__(self) -> None:
        place = Path(self.path or ".")
        if self.path and not place.is_dir() and not re.fullmatch(HUB_NAME, self.path):
            raise ValueError(
                f"init.path={self.path} is neither a folder nor the name of a hub model (owner/name): name one of "
                "them, or null for fresh weights"
            )
        if self.path and place.is_dir() and not (Path(self.folder or "") / "config.json").is_file():
            raise ValueError(
                f"init.path={self.path} holds no model (no config.json): name the folder of a finished run, such as "
                "outputs/train/<run id>, or one that save_pretrained wrote"
            )

    @property
    def folder(self) -> str | None:
        """The model folder, which a run of ours has under `model`; or the hub name."""
        if self.path and (Path(self.path) / "model" / "config.json").is_file():
            return str(Path(self.path) / "model")
        return self.path


@dataclass
class OptimizerConfig:
    """AdamW (betas and decay of the paper, appendix B.1), or Muon for matrices with AdamW for everything else."""

    name: OptimizerName = OptimizerName.muon
    learning_rate: float = limited(6e-3, above=0)  # AdamW's: all weights, or under Muon embeddings and norms
    muon_learning_rate: float = limited(6e-3, above=0)
    muon_momentum: float = limited(0.95, at_least=0, below=1)
    beta1: float = limited(0.9, at_least=0, below=1)
    beta2: float = limited(0.95, at_least=0, below=1)
    epsilon: float = limited(1e-8, above=0)
    weight_decay: float = limited(0.1, at_least=0)
    gradient_clip: float = limited(1.0, above=0)
    warmup_share: float = limited(0.05, at_least=0, below=1)  # of all steps
    final_learning_rate_share: float = limited(0.01, at_least=0, below=1)  # cosine to 1 % of the peak


@dataclass
class TrainingConfig:
    """How long, in what batches, and what is logged and evaluated on the way."""

    tokens: int = limited(1_000_000, at_least=1)
    sequence_length: int = limited(128, at_least=1)
    batch_size: int = limited(8, at_least=1)  # sequences per optimizer step
    accumulation: int = limited(1, at_least=1)  # forward and backward passes per optimizer step; divides batch_size
    precision: Precision = Precision.fp32
    compile: bool = False
    mask_documents: bool = False  # attention stays within a document
    log_every_steps: int = limited(10, at_least=1)  # loss, gradient norm, learning rate, tokens per second
    evaluate_every_tokens: int = limited(250_000, at_least=1)
    # per held-out set, on the way; the last evaluation is of final_evaluation_tokens, which is another text and name
    evaluation_tokens: int = limited(50_000, at_least=1)
    final_evaluation_tokens: int = limited(200_000, at_least=1)
    checkpoint_every_tokens: int = limited(250_000, at_least=1)
    keep_checkpoints: int = limited(2, at_least=1)
    samples: int = limited(2, at_least=0)  # texts sampled at the end
    sample_tokens: int = limited(60, at_least=0)

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.accumulation={self.accumulation} does not divide training.batch_size={self.batch_size}"
            )
        if self.tokens < self.tokens_per_step:
            raise ValueError(
                f"training.tokens={self.tokens} is less than one step of batch_size x sequence_length = "
                f"{self.tokens_per_step} tokens: raise tokens or make the batch smaller"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.tokens_per_step


@dataclass
class TrainConfig(RunConfig):
    """`rl-exp train`: one language model, one attention mechanism, one text."""

    attention: AttentionConfig = field(default_factory=AttentionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    init: InitConfig = field(default_factory=InitConfig)
    distribution: Distribution = Distribution.ddp  # under torchrun; like the number of processes, not part of identity

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model_shape(vocabulary_size=256)  # raises ValueError for an impossible shape

    def input_files(self) -> list[Path]:
        """The files of a local corpus, of a tokenizer's folder, and of the model at the start."""
        source = self.data.corpus_source()
        files = source.files() if isinstance(source, LocalFiles) else []
        if isinstance(source, HubDataset):
            files = HubRows(source.path, data_files=source.data_files).local_files()
        tokenizer = local_files(self.tokenizer.path) if self.tokenizer.kind is TokenizerKind.hub else []
        return [*files, *tokenizer, *local_files(self.init.folder)]

    def check_inputs(self) -> None:
        """See `RunConfig`: the model that training continues."""
        check_policy_folder("init.path", self.init.folder)

    def tokenizer_choice(self) -> TokenizerChoice:
        """The tokenizer: that of the model at the start, where there is one."""
        if self.init.folder is None:
            return self.tokenizer.tokenizer_choice()
        return HubTokenizer(self.init.folder, self.init.revision)

    def check_processes(self, processes: int | None) -> None:
        """See `RunConfig`: each process takes an equal part of every batch."""
        training = self.training
        if processes is not None and training.batch_size % (processes * training.accumulation):
            raise ValueError(
                f"training.batch_size={training.batch_size} in training.accumulation={training.accumulation} parts "
                f"cannot be split over the {processes} processes of torchrun: make it a multiple of "
                f"{processes * training.accumulation}"
            )

    def model_shape(self, vocabulary_size: int) -> ModelShape:
        """The model that the configuration describes."""
        return self.model.shape(self.attention, vocabulary_size)


ConfigStore.instance().store(name="train_schema", node=TrainConfig)
