"""The embedded model's corpus, tokenizer and training."""
