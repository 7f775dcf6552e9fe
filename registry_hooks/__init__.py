"""The registry contract and the doors to MLflow and S3: the floor that training and serving share."""
