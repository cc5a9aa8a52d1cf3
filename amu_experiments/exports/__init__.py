"""Writes stored trials for other tools: CSV, Parquet, TensorBoard and MLflow. Training does not import this."""
