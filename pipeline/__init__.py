"""The training side and the people's side: publishing, the local stack, the command line."""
