"""Distributed training: launch, worker, engine, checkpoints."""
