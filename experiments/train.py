"""`rl-exp train`: pretrain a small language model with one attention mechanism on real text.

    rl-exp train attention=gla model=tiny seed=1

Method. One text, tokenised once and shared by all runs, is packed into blocks and read in a seeded order. The model is
a Llama-shaped decoder whose attention is MHA, MQA, GQA, GTA, MLA or GLA; its feed-forward is widened until every
mechanism has the parameters of the MHA model (Hardware-Efficient Attention, appendix B.1). Held-out perplexity is
measured on several sets. A run that is cut off continues from its last checkpoint, bit for bit (fp32 on CPU).
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from conf.train_config import TrainConfig
from experiments.data.corpus import TokenisedCorpus, prepare_corpus
from experiments.data.packing import PackedSequences
from experiments.models.configuration import RlExpConfig
from experiments.models.from_transformers import NotConvertible, converted
from experiments.models.initialisation import initialise
from experiments.models.transformer import RlExpForCausalLM
from experiments.reports.train_comparison import compare_training_runs
from experiments.runs.external_inputs import identity_of_input
from experiments.runs.files import naming_what_is_written
from experiments.runs.foreign_files import loading, refuse_missing_weights
from experiments.runs.run import Run
from experiments.training.checkpoints import load_latest_checkpoint, save_checkpoint
from experiments.training.device import arithmetic, prepare_device
from experiments.training.distribution import distribute, load_weights, whole_model
from experiments.training.evaluation import held_out_loss
from experiments.training.optimizers import OptimizerGroup, build_optimizer, clip_gradients

logger = logging.getLogger(__name__)


def train(config: TrainConfig, run: Run) -> dict[str, Any]:
    """Train, evaluate, save; returns the summary of the run."""
    device = prepare_device(config.device.value, config.threads)
    corpus = prepare_corpus_for(config, run)
    model = (build_model(config, corpus, run) if config.init.path is None else load_model(config, corpus)).to(device)
    distributed = distribute(model, run.ranks, config.distribution, compiled=config.training.compile)
    training, shape = config.training, model.config.model_shape()
    optimizer = build_optimizer(model, steps=training.steps, **optimizer_settings(config))
    sequences = PackedSequences(
        corpus.tokens, corpus.offsets, training.sequence_length, seed=run.seeds.sequence("data")
    )
    cache_bytes = 2 * shape.attention.cached_elements()
    facts = {
        "parameters": shape.parameters(),
        "feed_forward_dim": shape.feed_forward_dim,
        "cache_bytes_per_token_per_layer": cache_bytes,
        "training_flops_per_token": shape.training_flops_per_token(),
        "data_fingerprints": corpus.fingerprints,
        "corpus_tokens": len(corpus.tokens),
        "unigram_entropy": corpus.unigram_entropy,
        "device": where_it_runs(config, run, device),
    }
    if config.init.folder is not None:
        facts["init"] = identity_of_input(config.init.folder, config.init.revision)
    run.add_to_manifest(**facts)
    run.console.print(
        f"[bold]model[/]     {shape.attention.mechanism}  {shape.parameters():,} parameters, feed-forward "
        f"{shape.feed_forward_dim}, cache {cache_bytes:,} bytes (bf16) per token and layer\n"
        f"[bold]text[/]      {len(corpus.tokens):,} tokens, of which training reads "
        f"{training.steps * training.tokens_per_step / len(corpus.tokens):.2g} epochs; vocabulary "
        f"{len(corpus.tokenizer):,}, unigram entropy {corpus.unigram_entropy:.2f} nats\n"
        f"[bold]training[/]  {training.steps:,} steps of {training.tokens_per_step:,} tokens on "
        f"{where_it_runs(config, run, device)}",
        highlight=False,
    )

    step, seconds = resume(run, model, optimizer)
    if step == 0:
        log_evaluation(config, run, model, corpus, step, device)

    with run.finishing_steps(), run.progress("training", training.steps, completed=step) as bar:
        first_step, seconds_before = step, seconds
        while step < training.steps:
            started = time.perf_counter()
            # One optimizer step: `accumulation` passes over equal parts of this rank's part of the batch.
            batch = sequences.batch(
                step * training.batch_size,
                training.batch_size,
                rank=run.ranks.rank,
                world_size=run.ranks.size,
                document_ids=training.mask_documents,
            )
            rows_per_pass = len(batch.inputs) // training.accumulation
            loss = torch.zeros((), device=device)
            for part in range(training.accumulation):
                rows = slice(part * rows_per_pass, (part + 1) * rows_per_pass)
                inputs, targets, documents = (None if each is None else each[rows].to(device) for each in batch)
                with distributed.gradients_meet(part + 1 == training.accumulation):
                    with arithmetic(device, training.precision):
                        part_loss = distributed.loss(inputs, targets, document_ids=documents) / training.accumulation
                    part_loss.backward()
                loss += part_loss.detach()
            gradient_norm = float(clip_gradients(model, config.optimizer.gradient_clip))
            total_loss, asked_to_stop = run.ranks.total([float(loss), float(run.stop_requested)])
            mean_loss, stop = total_loss / run.ranks.size, asked_to_stop > 0
            refuse_non_finite(step, mean_loss, gradient_norm, optimizer.learning_rate)
            learning_rate = optimizer.learning_rate
            optimizer.step()
            step += 1
            seconds += time.perf_counter() - started  # of training alone: evaluation and saving come after

            # Once in a while: log, evaluate, save.
            tokens = step * training.tokens_per_step
            rate = (step - first_step) * training.tokens_per_step / max(seconds - seconds_before, 1e-9)
            bar.advance(1, loss=f"{mean_loss:.3f}", tokens_per_second=f"{rate:,.0f}")
            if step % training.log_every_steps == 0 or step == training.steps:
                row = {"train/loss": mean_loss, "train/gradient_norm": gradient_norm}
                row |= {"train/learning_rate": learning_rate, "train/tokens_per_second": round(rate, 1)}
                run.log(row, tokens=tokens, step=step)
            if due(training.evaluate_every_tokens, tokens, training.tokens_per_step) and step < training.steps:
                log_evaluation(config, run, model, corpus, step, device)
            save = due(training.checkpoint_every_tokens, tokens, training.tokens_per_step)
            if save or stop or step == training.steps:
                save_state(run, step, model, optimizer, seconds, keep=training.keep_checkpoints)
            if stop and step < training.steps:
                raise KeyboardInterrupt

    losses = log_evaluation(config, run, model, corpus, step, device, final=True)
    samples: list[str] = []
    if (complete := whole_model(model, run.ranks)) is not None:
        samples = sample_texts(config, run, complete, corpus)
        save_model(run.directory / "model", complete, corpus)
    return {
        "mechanism": str(shape.attention.mechanism),
        **{name: facts[name] for name in ("parameters", "cache_bytes_per_token_per_layer", "feed_forward_dim")},
        **losses,
        **{f"eval/{name}/unigram_perplexity": value for name, value in corpus.unigram_perplexities().items()},
        "tokens": step * training.tokens_per_step,
        "tokens_per_second": step * training.tokens_per_step / max(seconds, 1e-9),
        "training_seconds": seconds,
        "samples": samples,
        "objective": losses[f"eval/{next(iter(corpus.held_out))}/loss"],
    }


def compare(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """The end of a sweep: table and figure of perplexity against cache bytes."""
    compare_training_runs(runs, sweep_directory, console)


def prepare_corpus_for(config: TrainConfig, run: Run) -> TokenisedCorpus:
    """The tokenised text that the configuration describes, made once and shared."""
    with run.progress("preparing the text", 1) as bar:
        corpus = prepare_corpus(
            run.artifacts,
            config.data.corpus_source(),
            config.tokenizer_choice(),
            held_out_sources=config.data.held_out_sources(),
            progress=bar.show,
        )
    for note in corpus.notes:
        run.console.print(f"[bold]text[/]      {escape(note)}", highlight=False, soft_wrap=True)
    return corpus


def build_model(config: TrainConfig, corpus: TokenisedCorpus, run: Run) -> RlExpForCausalLM:
    """A freshly initialised model; its weights depend on the seed's stream `initialisation` only."""
    tokenizer = corpus.tokenizer
    model_config = RlExpConfig.from_shape(
        config.model_shape(len(tokenizer)),
        max_position_embeddings=max(2048, config.training.sequence_length),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = RlExpForCausalLM(model_config)
    initialise(model, run.seeds.torch("initialisation"))
    return model


def load_model(config: TrainConfig, corpus: TokenisedCorpus) -> RlExpForCausalLM:
    """The model at `init.path`, whose training continues. ValueError for one that our decoder is not."""
    path = str(config.init.folder)
    with loading("init.path", path, "name a run of rl-exp train or rlhf, or its model folder"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=config.init.revision or "main",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        refuse_missing_weights(loaded[1])
    model: PreTrainedModel = loaded[0]
    if not isinstance(model, RlExpForCausalLM):
        try:
            model = converted(model)
        except NotConvertible as error:
            raise ValueError(
                f"init.path={path}: training continues from models that our decoder has ({error})"
            ) from error
    if len(corpus.tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"init.path={path}: its tokenizer has {len(corpus.tokenizer)} tokens, its model {model.config.vocab_size}"
        )
    return model.train()


def optimizer_settings(config: TrainConfig) -> dict[str, Any]:
    """The arguments of `build_optimizer` that come from the configuration."""
    optimizer = config.optimizer
    names = (
        "name",
        "learning_rate",
        "muon_learning_rate",
        "muon_momentum",
        "beta1",
        "beta2",
        "epsilon",
        "weight_decay",
        "warmup_share",
        "final_learning_rate_share",
    )
    return {name: getattr(optimizer, name) for name in names}


def where_it_runs(config: TrainConfig, run: Run, device: torch.device) -> str:
    """`cpu`, or `cpu, 4 ranks (fsdp)`."""
    ranks = f", {run.ranks.size} ranks ({config.distribution})" if run.ranks.size > 1 else ""
    return f"{device}{ranks}"


def due(every: int, tokens: int, tokens_per_step: int) -> bool:
    """Whether the step that ended at `tokens` crossed a multiple of `every`."""
    return tokens // every > (tokens - tokens_per_step) // every


def resume(run: Run, model: RlExpForCausalLM, optimizer: OptimizerGroup) -> tuple[int, float]:
    """Continue from the newest complete checkpoint: returns its step and the seconds of training so far, or zeros."""
    state = load_latest_checkpoint(run.checkpoints, run.ranks)
    if state is None:
        run.resume_metrics(0)
        return 0, 0.0
    load_weights(model, state["model"])
    optimizer.restore(state["optimizer"])
    run.resume_metrics(state["metrics_position"])
    run.console.print(f"continuing after step {state['step']:,}", highlight=False)
    return state["step"], state["seconds"]


def save_state(
    run: Run, step: int, model: RlExpForCausalLM, optimizer: OptimizerGroup, seconds: float, *, keep: int
) -> None:
    """Everything that the next step depends on. The data order needs no state: it is a function of seed and step."""
    state = {
        "step": step,
        "seconds": seconds,
        "metrics_position": run.metrics_position(),
        "model": dict(model.named_parameters()),
        "optimizer": optimizer.state(),
    }
    save_checkpoint(run.checkpoints, step, state, keep=keep, ranks=run.ranks)


def refuse_non_finite(step: int, loss: float, gradient_norm: float, rate: float) -> None:
    """Stop before an update that would destroy the weights."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    raise FloatingPointError(
        f"step {step}: loss {loss}, gradient norm {gradient_norm} at learning rate {rate:.3g}; the "
        "weights were not updated. Lower optimizer.learning_rate or raise optimizer.warmup_share"
    )


def log_evaluation(
    config: TrainConfig,
    run: Run,
    model: RlExpForCausalLM,
    corpus: TokenisedCorpus,
    step: int,
    device: torch.device,
    *,
    final: bool = False,
) -> dict[str, float]:
    """Held-out loss on every set: `eval/<set>/loss`, `/perplexity`, `/bits_per_byte`.

    These, which are returned, are of `final_evaluation_tokens` of the set. Where fewer are evaluated on the way, that
    is another text and has another name, `eval_part/<set>`, whose last value stands beside the final ones. A model that
    is trained with attention within documents is evaluated so.
    """
    training, row, shown = config.training, dict[str, float](), dict[str, str]()
    for name, held_out in corpus.held_out.items():
        read = held_out.batches_with_documents if training.mask_documents else held_out.batches
        part, full = (
            min(len(held_out.tokens) - 1, -(-tokens // training.sequence_length) * training.sequence_length)
            for tokens in (training.evaluation_tokens, training.final_evaluation_tokens)
        )
        texts = [("eval", full)] if part == full else [("eval_part", part), ("eval", full)][: 1 + final]
        for prefix, targets in texts:
            batches = read(training.sequence_length, training.batch_size, targets)
            result = held_out_loss(model, batches, device=device, precision=training.precision, ranks=run.ranks)
            ratio = held_out.tokens_per_byte_of(result.tokens, corpus.tokenizer)
            row[f"{prefix}/{name}/loss"] = result.nats_per_token
            row[f"{prefix}/{name}/perplexity"] = result.perplexity
            row[f"{prefix}/{name}/bits_per_byte"] = result.bits_per_byte(ratio)
            shown[name] = f"{name} {result.perplexity:,.1f}"
    tokens = step * training.tokens_per_step
    run.log(row, tokens=tokens, step=step)
    values = ", ".join(shown.values())
    run.console.print(f"{tokens:>12,} tokens  held-out perplexity: {values}", highlight=False, soft_wrap=True)
    return {key: value for key, value in row.items() if key.startswith("eval/")}


def sample_texts(config: TrainConfig, run: Run, model: RlExpForCausalLM, corpus: TokenisedCorpus) -> list[str]:
    """A few texts from the trained model, each from its own seed."""
    tokenizer, count = corpus.tokenizer, config.training.samples
    if count == 0 or config.training.sample_tokens == 0:
        return []
    start = torch.full((count, 1), tokenizer.bos_token_id, device=next(model.parameters()).device)
    with torch.random.fork_rng(), torch.no_grad():  # generate() draws from the global stream only
        torch.manual_seed(run.seeds.integer("sampling"))
        tokens = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=0.8,
            max_new_tokens=config.training.sample_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    run.write_text("samples.txt", "\n---\n".join(texts) + "\n")
    return texts


def save_model(directory: Path, model: RlExpForCausalLM, corpus: TokenisedCorpus) -> None:
    """Model and tokenizer in the layout of transformers: `from_pretrained(directory)` reads it."""
    disable_progress_bar()  # one file, and our own bar has just ended
    with naming_what_is_written(directory):
        model.save_pretrained(directory)
        corpus.tokenizer.save_pretrained(directory)
