"""From examples to a LoRA adapter: PyTorch Lightning and PEFT in a child process that can be killed at any moment."""
