"""Metrics and pictures: the metrics log, W&B, TensorBoard, progress on the terminal, video."""
