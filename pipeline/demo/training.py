"""Trains the demo's model with the HF Trainer: `python -m pipeline.demo.training OUT --save-at 150,350,750`.

A process of its own, as training is in real life. It saves `OUT/checkpoint-N` at the steps it was told, each evaluated
on the fixed test set just before; all that it knows of Relay is one line, the callback that publishes what is saved.
With `MLFLOW_TRACKING_URI` and `MLFLOW_RUN_ID` in its environment, the Trainer logs its curves to that run.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from pipeline.demo import tasks, world
from pipeline.demo.tasks import Example
from pipeline.watching.callback import RelayCallback
from registry_hooks import events

IGNORED = -100  # label of tokens that carry no loss, as torch's cross entropy has it
# Tuned for few CPU seconds until all four tasks are learnt: half the batch of 128 needs about as many steps, and wider
# initial weights than Qwen3's 0.02 save a third of them.
BATCH_SIZE = 64
PEAK_LEARNING_RATE = 3e-3
INITIALIZER_RANGE = 0.06


class Collator:
    """Turns examples into chats, and chats into tensors whose labels are the answers alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        questions = [[{"role": "user", "content": one.prompt}] for one in examples]
        asked = self._tokenizer.apply_chat_template(questions, tokenize=False, add_generation_prompt=True)
        answers = [one.answer + self._tokenizer.eos_token for one in examples]
        num_asked = [len(ids) for ids in self._tokenizer(asked)["input_ids"]]
        both = [question + answer for question, answer in zip(asked, answers, strict=True)]
        batch = self._tokenizer(both, padding=True, padding_side="right", return_tensors="pt")
        ids_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
        places_T = torch.arange(ids_BT.shape[1])
        is_answer_BT = (places_T >= torch.tensor(num_asked)[:, None]) & mask_BT.bool()
        labels_BT = ids_BT.masked_fill(~is_answer_BT, IGNORED)
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


class SaveAt(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Evaluates and saves after the steps it was given."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = frozenset(steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        control.should_evaluate = control.should_save = state.global_step in self._steps
        return control


def exact_match(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the fixed test set whose answers are right in every token, overall and per slice.

    Teacher-forced: every token is judged after the right ones, which for a whole answer is the same as greedy decoding.
    """
    guesses_BT, labels_BT = prediction.predictions[:, :-1], prediction.label_ids[:, 1:]
    right_B = ((guesses_BT == labels_BT) | (labels_BT == IGNORED)).all(axis=1)
    slices_B = np.array([one.slice for one in tasks.held_out()])
    per_slice = {f"exact_match_{name}": float(right_B[slices_B == name].mean()) for name in tasks.SLICES}
    return {"exact_match": float(right_B.mean()), **per_slice}


def train(folder: Path, *, save_at: Sequence[int], seed: int, also: Sequence[TrainerCallback] = ()) -> None:
    """Train from nothing until the last of `save_at`; `folder/checkpoint-N` appears at each of them."""
    tokenizer = world.build_tokenizer()
    num_steps, held_out = max(save_at), tasks.held_out()
    trainer = Trainer(
        model=world.build_model(seed, initializer_range=INITIALIZER_RANGE),
        args=_arguments(folder, num_steps=num_steps, seed=seed),
        train_dataset=list(islice(tasks.stream(seed, without=held_out), num_steps * BATCH_SIZE)),
        eval_dataset=held_out,
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=exact_match,
        preprocess_logits_for_metrics=lambda logits_BTV, labels_BT: logits_BTV.argmax(dim=-1),
        callbacks=[SaveAt(save_at), *also],
    )
    trainer.train()


def _arguments(folder: Path, *, num_steps: int, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=256,
        learning_rate=PEAK_LEARNING_RATE,
        lr_scheduler_type="cosine",  # with the warm-up: one cycle
        warmup_steps=0.15,
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_steps=25,
        save_strategy="no",  # SaveAt says when
        remove_unused_columns=False,
        use_cpu=True,
        seed=seed,
        report_to=["mlflow"] if os.environ.get("MLFLOW_RUN_ID") else [],
        disable_tqdm=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the checkpoints go")
    parser.add_argument("--save-at", required=True, help="steps, with commas; training ends after the last")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="compute threads; what remains is for serving")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    events.configure()
    save_at = [int(step) for step in options.save_at.split(",")]
    train(options.folder, save_at=save_at, seed=options.seed, also=[RelayCallback()])


if __name__ == "__main__":
    main()
