"""Stored trials in the formats of other tools: CSV, Parquet, TensorBoard and MLflow. Training knows none of them."""
