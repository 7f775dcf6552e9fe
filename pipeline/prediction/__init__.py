"""The parts of `pipeline/prediction_client.py`: what it asks, what comes back, and what can go wrong."""
