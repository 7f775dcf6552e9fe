"""Everything on one box: MLflow, an S3 server and Relay's server as children that never outlive their parent."""
