"""A real training of a few steps with `RelayCallback`: `tiny_training.py OUT NUM_STEPS`. Prints how long saves took."""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import islice
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from pipeline.demo import tasks, world
from pipeline.demo.training import Collator
from pipeline.watching.callback import RelayCallback

WAIT_S = float(os.environ.get("TINY_WAIT_S", "60"))


class Timed(RelayCallback):
    """Notes how long the Trainer waited for the callback at each save."""

    took_s: list[float]

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        started = time.perf_counter()
        super().on_save(*args, **kwargs)
        self.took_s.append(time.perf_counter() - started)


def main(folder: str, num_steps: int) -> None:
    torch.set_num_threads(1)
    tokenizer, callback = world.build_tokenizer(), Timed(wait_s=WAIT_S)
    callback.took_s = []
    trainer = Trainer(
        model=world.build_model(0),
        args=TrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=2,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=1,
            eval_strategy="steps",
            eval_steps=1,
            logging_steps=1,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=["mlflow"] if os.environ.get("MLFLOW_EXPERIMENT_NAME") else [],
            disable_tqdm=True,
        ),
        train_dataset=list(islice(tasks.stream(0), 2 * num_steps)),
        eval_dataset=list(tasks.held_out(1)),
        data_collator=Collator(tokenizer),
        processing_class=tokenizer,
        callbacks=[callback],
    )
    started = time.perf_counter()
    trainer.train()
    print(
        json.dumps({"step": trainer.state.global_step, "saves_s": callback.took_s, "s": time.perf_counter() - started})
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
