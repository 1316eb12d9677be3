"""Callbacks that record what a framework trains; each module needs the framework of its name.

- `lightning.py`: Lightning (`nanscope[lightning]`)
- `huggingface.py`: the Trainer of Hugging Face's transformers (`nanscope[huggingface]`)
- `training.py`: what both do
"""
