"""A script with the Trainer of transformers: a causal language model on lines of JSON.

A second validation file makes two named validation sets.
"""

import json
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments


@dataclass
class DataArguments:
    model: str
    train_file: str
    valid_file: str
    second_valid_file: str | None = None


class Lines(Dataset):
    def __init__(self, file: str, tokenizer: AutoTokenizer) -> None:
        with open(file, encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        texts = [row["prompt"] + row["completion"] for row in rows]
        self.tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = {name: self.tokens[name][index] for name in ("input_ids", "attention_mask")}
        return {**item, "labels": item["input_ids"].masked_fill(item["attention_mask"] == 0, -100)}


def main() -> None:
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(data.model)
    model = AutoModelForCausalLM.from_pretrained(data.model)
    valid = Lines(data.valid_file, tokenizer)
    if data.second_valid_file is not None:
        valid = {"first": valid, "second": Lines(data.second_valid_file, tokenizer)}
    trainer = Trainer(model, arguments, train_dataset=Lines(data.train_file, tokenizer), eval_dataset=valid)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)


if __name__ == "__main__":
    main()
