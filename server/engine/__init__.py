"""The engine: a process that serves one checkpoint folder as an OpenAI server. It has torch and knows no registry."""
