"""AI model training you can trust: from raw data to a verdict, with every step explained

Modules:

- `aimt.data.io.append_columns`: Add columns, such as predictions, to a file and leave the rest unchanged: text is copied record by record in its own encoding and format, and Parquet keeps its types.
- `aimt.data.table.schema`: The kind of each column (number, category, date, text) is inferred once, from the training table, and saved with the model: every later table is read in the same way.
- `aimt.evaluate.table.ablation`: What is a column, or a part of the rows, worth? A quick model is trained with and without it on the same folds; the verdict follows from the confidence interval of the paired difference of the errors, and may be *cannot tell*.
- `aimt.evaluate.table.extrapolation`: Train with fewer rows, fewer rows of one class, or fewer columns, fit a curve to the errors, and extrapolate to more of them, with an interval, or with the verdict *cannot tell*.
- `aimt.evaluate.table.population_weights`: From the known shares of a population, compute weights that make a table representative of it, by post-stratification or raking, and the effective sample size that remains.
- `aimt.generate.audio.ctc_decoding`: A CTC model gives a probability to each character in each frame. Prefix beam search finds the most probable text, with an n-gram language model of words if wanted.
- `aimt.generate.text.beam_search`: Beam search keeps the `k` best partial sequences at each step and returns the most probable ones, for GPT and encoder-decoder models.
- `aimt.generate.text.sampling`: A language model gives a logit to every possible next token. Sampling turns these into text: filters, a key-value cache, batches of prompts, streaming.
- `aimt.generate.text.speculative`: A small draft model proposes several tokens, the large model verifies them in one pass, and the distribution of the text is exactly that of the large model.
- `aimt.models.audio.deepspeech`: MFCC features in, characters out: dense layers, one LSTM, and the CTC loss, which needs no alignment between sound and text. Compatible with Mozilla's files.
- `aimt.models.flow.diffusion_transformer`: Patches become tokens; transformer blocks whose norms are scaled, shifted and gated by time and condition (adaLN-zero, Peebles and Xie 2023).
- `aimt.models.flow.flow_matching`: A network learns the velocity of a flow that carries noise to data; an ODE solver then follows it. One loss and one sampler for arrays of any shape.
- `aimt.models.flow.flow_network`: What the U-Net and the diffusion transformer share: how they are told the time and what is asked for, and how they are saved.
- `aimt.models.flow.mean_flows`: A network that predicts the *average* velocity over a stretch of time jumps from noise to data in one evaluation. It is trained from nothing, by an identity between average and instantaneous velocity (Geng et al. 2025).
- `aimt.models.flow.unet`: Residual blocks at several scales, with connections between equal scales; each block is scaled and shifted (FiLM) by a vector of time and condition.
- `aimt.models.image.clip`: A vision transformer and a text transformer are trained so that a picture and its caption have similar embeddings. This gives zero-shot classification and image-text retrieval.
- `aimt.models.layers.hub`: `find_model` accepts a folder or a name on the Hugging Face hub and returns a local folder, downloading it once if needed.
- `aimt.models.layers.pretrained`: A saved model is `config.json` and `model.safetensors`, readable by Hugging Face libraries. Damaged files are detected, and loading never runs code.
- `aimt.models.layers.quantization`: Generating a token reads all weights of a model from memory. Weight-only quantisation to 8 or 4 bits reads them in a fraction of the time.
- `aimt.models.layers.transformer`: LayerNorm and RMSNorm, multi-head attention, masks, a key-value cache, MLPs and blocks. Each part is built twice: as a plain loop and in a fast form.
- `aimt.models.table.recipe_search`: Given a table and a time limit: which recipes (models with their hyperparameters) to fit, on how many folds, how often, and when to stop. All decisions use out-of-fold predictions.
- `aimt.models.table.search_budget`: A time limit bounds training, and a second budget bounds the time of a prediction; together they decide which recipes are tried, with how many boosting rounds, and on how many rows.
- `aimt.models.text.bert`: A bidirectional Transformer encoder, pre-trained by predicting masked words. A linear layer on top gives classes (text classification) or tags (named entities).
- `aimt.models.text.gpt`: A causal language model that predicts the next token at every position. One class covers GPT-2 exactly and the modern variants (rotary positions, RMSNorm, grouped key-value heads).
- `aimt.models.text.question_answering`: A BERT with a span head reads a question and a page, and returns the part of the page that answers it, or no answer.
- `aimt.models.text.sentence_embeddings`: Each text becomes a vector, trained by contrast (InfoNCE) so that texts of similar meaning lie close together. Search is then a matrix product.
- `aimt.models.text.t5`: The encoder reads the input, the decoder writes the output. All tasks share one network and are distinguished by a prefix in the text.
- `aimt.models.text.text_features`: A scikit-learn transformer that adds sentence embeddings, reduced by PCA, to a table with text columns. Pre-trained embeddings help most with few labelled rows.
- `aimt.train.loop.checkpoint`: The whole state of a training run on disk: written atomically, verified by checksums, saved in a background thread while training continues.
- `aimt.train.loop.distributed`: Replicated (DDP) and sharded (FSDP2) data parallelism. The same training script runs on one core or on a cluster.
- `aimt.train.loop.loggers`: Hooks that log the curves of a run to a CSV file, TensorBoard, MLflow or Weights & Biases. They are off by default and write local files.
- `aimt.train.loop.optim`: AdamW, Muon for hidden matrices, row-wise Adagrad for large embedding tables, gradient clipping, and an exponential moving average of the weights.
- `aimt.train.loop.recovery`: Safeguards for training: a lock on the run directory, clean stops on signals, roll-back after a loss spike or NaN, early stopping, and helpful out-of-memory errors.
- `aimt.train.loop.schedule`: The learning rate as a function of the step number: it rises during warm-up, stays high, and decays towards the end.
- `aimt.train.loop.sharded_checkpoint`: Every process writes its shard in parallel; any other number of processes can load the checkpoint (*resharding*).
- `aimt.train.loop.state`: To resume a training run exactly, everything that the next step depends on must be saved and restored.
- `aimt.train.loop.trainer`: `Trainer` trains any PyTorch model from batches and a loss function, with a learning-rate schedule, mixed precision, gradient accumulation and clipping, early stopping, exact resume from checkpoints, recovery from divergence, and several processes.
- `aimt.train.networks.contrastive`: The symmetric InfoNCE loss with several positives, gradient caching for large batches in little memory, and weight averaging (WiSE-FT) against forgetting in fine-tuning.
- `aimt.train.networks.doctor`: Rules turn the gradients, updates, activations and waiting times that a hook recorded during training into findings with evidence and advice: learning rate, exploding or vanishing signals, dead units, overfitting, label noise, slow input.
- `aimt.train.networks.finetune`: Fine-tunes a pre-trained network on few examples with the defaults of its family, and measures both the gain on the new task and the loss on the original one (catastrophic forgetting).
- `aimt.train.networks.layer_rates`: Choose which weights of a pre-trained network are trained, from which step on, and at which learning rate: by patterns of names and by the distance of a layer from the output.
- `aimt.train.networks.pretrain`: `train_text` takes tokens and a time limit. It chooses the architecture and hyperparameters, trains a GPT, stops in time, and returns the best weights on the validation text.
- `aimt.train.networks.resource_estimate`: Forecasts parameters, FLOPs, peak memory, time and cost before the first step, corrects itself after measured steps, and reports its error at the end.
- `aimt.train.networks.training_memory`: Forecasts the peak memory of a training before the first step, by a dry run without data and a replay of the allocator, and finds the largest batch that fits.
- `aimt.train.networks.training_monitor`: A hook records gradients, updates, activations and the time spent waiting for data during training, and summarises them in a few numbers that a rule can judge."""

# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/core/45_package.ipynb.

# %% auto #0
__all__ = []

# %% ../nbs/core/45_package.ipynb #0cdd5771
import importlib
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any

from .core.commands import NAMES, VERBS, resolve

# %% ../nbs/core/45_package.ipynb #fb4b68e4
class _Verb(ModuleType):
    """A section whose name is also a verb: calling it calls the verb's function."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return resolve(VERBS[self.__name__.rpartition(".")[2]])(*args, **options)


class _Package(ModuleType):
    """The package itself: makes sections callable as they are bound, and resolves names when they are asked for."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in VERBS and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return importlib.metadata.version("aimt")
        if name in NAMES:
            return resolve(NAMES[name])
        if importlib.util.find_spec(f"{self.__name__}.{name}") and not name.startswith("_"):
            return importlib.import_module(f"{self.__name__}.{name}")
        if name in VERBS:
            return resolve(VERBS[name])
        raise AttributeError(f"module 'aimt' has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        """The public names, the sections that were imported, and what every module has."""
        return sorted(
            {"__version__", *__all__, *(n for n in super().__dir__() if n.startswith("__") or f"{self.__name__}.{n}" in sys.modules)}
        )

# %% ../nbs/core/45_package.ipynb #c300cdad
__all__ = [*VERBS, *NAMES]  # what is public; all else is reached by its module

if __name__ == "aimt":  # and not in the notebook that defines it
    sys.modules[__name__].__class__ = _Package
